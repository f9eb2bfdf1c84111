//! Event channels (`xen/include/public/event_channel.h`), 2-level ABI.

use crate::{DomId, Port};

/// Sub-operations of `event_channel_op`.
pub mod op {
    #![expect(missing_docs, reason = "named as in the header")]
    pub const BIND_INTERDOMAIN: u64 = 0;
    pub const BIND_VIRQ: u64 = 1;
    pub const CLOSE: u64 = 3;
    pub const SEND: u64 = 4;
    pub const STATUS: u64 = 5;
    pub const ALLOC_UNBOUND: u64 = 6;
    pub const UNMASK: u64 = 9;
}

/// Ports of the 2-level ABI (`EVTCHN_2L_NR_CHANNELS`), 64 words of 64 bits.
pub const PORTS: u32 = 4096;

/// A virtual interrupt line.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Virq {
    /// The timer set by `set_timer_op`.
    Timer,
    /// Request for debugging output.
    Debug,
}

impl Virq {
    /// Xen's number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Timer => 0,
            Self::Debug => 1,
        }
    }
}

/// What a port is (`EVTCHNSTAT_*`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum PortState {
    /// Not in use.
    Closed,
    /// Waits for this domain to bind it; also what is left when the peer closes, or is destroyed.
    Unbound(DomId),
    /// Connected.
    Interdomain(DomId, Port),
    /// Bound to a virtual interrupt.
    Virq(u32),
    /// Anything else (physical interrupt, IPI).
    Other(u32),
}

/// `struct evtchn_alloc_unbound`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct AllocUnbound {
    /// Whose port; the caller.
    pub dom: u16,
    /// Who may bind it.
    pub remote_dom: u16,
    /// The new port.
    pub port: u32,
}
layout!(AllocUnbound, 8, remote_dom @ 2, port @ 4);

/// `struct evtchn_bind_interdomain`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BindInterdomain {
    /// Who allocated the port.
    pub remote_dom: u16,
    /// The port that it allocated for us.
    pub remote_port: u32,
    /// Our new port.
    pub local_port: u32,
}
layout!(BindInterdomain, 12, remote_port @ 4, local_port @ 8);

/// `struct evtchn_bind_virq`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BindVirq {
    /// Which line.
    pub virq: u32,
    /// Which virtual CPU.
    pub vcpu: u32,
    /// The new port.
    pub port: u32,
}
layout!(BindVirq, 12, vcpu @ 4, port @ 8);

/// The argument of close, send and unmask: a port.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OnePort {
    /// The port.
    pub port: u32,
}
layout!(OnePort, 4);

/// `struct evtchn_status`. The union at the end is given as its two words.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Whose port.
    pub dom: u16,
    /// Which port.
    pub port: u32,
    /// `EVTCHNSTAT_*`.
    pub status: u32,
    /// The virtual CPU that is told.
    pub vcpu: u32,
    /// `u.unbound.dom`, `u.interdomain.dom` (low 16 bits) or `u.virq`.
    pub first: u32,
    /// `u.interdomain.port`.
    pub second: u32,
}
layout!(Status, 24, port @ 4, status @ 8, vcpu @ 12, first @ 16, second @ 20);
