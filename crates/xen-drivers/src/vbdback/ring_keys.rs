//! Where a stock frontend's ring is, from what it wrote (io/blkif.h, "Request Transport Parameters" of the frontend).
//!
//! Each value is whatever the client likes. A ring that cannot be mapped is found out by mapping it.

use xen::{DomId, GrantRef, Port};
use xen_sys::blkif::PROTOCOL;

use crate::blkback::{MAX_RING_ORDER, RING_PAGES};

/// A ring that a frontend has published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BlockRingInfo {
    /// The client.
    pub domain: DomId,
    /// Its port.
    pub port: Port,
    order: u8,
    references: [GrantRef; RING_PAGES],
}

impl BlockRingInfo {
    pub(super) const EMPTY: Self =
        Self { domain: DomId(0), port: Port(0), order: 0, references: [GrantRef(0); RING_PAGES] };

    /// Nothing known yet but whose it is.
    pub(super) fn of(domain: DomId) -> Self {
        Self { domain, ..Self::EMPTY }
    }

    /// A ring of as many pages as `references`; `None` if that is no power of two, or too many.
    #[must_use]
    pub fn new(domain: DomId, port: Port, references: &[GrantRef]) -> Option<Self> {
        let count = references.len();
        let order = u8::try_from(count.checked_ilog2()?).ok().filter(|_| count.is_power_of_two())?;
        let mut info = Self { domain, port, order, ..Self::EMPTY };
        info.references.get_mut(..count)?.copy_from_slice(references);
        Some(info)
    }

    /// Its pages, in their order.
    #[must_use]
    pub fn references(&self) -> &[GrantRef] {
        &self.references[..1 << self.order.min(MAX_RING_ORDER)]
    }
}

/// What is wrong with what a frontend wrote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BadRing {
    /// It has no ring, and there is nothing but the block service for it.
    Missing,
    /// `ring-page-order` is more than was offered, or no number.
    Order,
    /// A `ring-ref` is missing, or no number.
    Reference,
    /// `event-channel` is missing, or no number.
    Port,
    /// `protocol` is another than `x86_64-abi`: a 32-bit client.
    Protocol,
}

impl core::fmt::Display for BadRing {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Missing => "the frontend has published no ring-ref",
            Self::Order => "ring-page-order is above max-ring-page-order",
            Self::Reference => "a ring-ref is missing or no number",
            Self::Port => "event-channel is missing or no number",
            Self::Protocol => "protocol is not x86_64-abi",
        })
    }
}

/// A node of the frontend's, in the order of reading.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Key {
    Order,
    /// `ring-ref`, where there is no order.
    Only,
    /// `ring-ref%u`.
    Page(u8),
    Port,
    Protocol,
}

impl core::fmt::Display for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Order => f.write_str("ring-page-order"),
            Self::Only => f.write_str("ring-ref"),
            Self::Page(index) => write!(f, "ring-ref{index}"),
            Self::Port => f.write_str("event-channel"),
            Self::Protocol => f.write_str("protocol"),
        }
    }
}

/// What follows from a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    Read(Key),
    /// All is read.
    Ready,
    /// There is no ring.
    NoRing,
    Bad(BadRing),
}

impl BlockRingInfo {
    /// Takes a node's value in; `None`: it is not there. `most` is the largest order that was offered.
    pub(super) fn read(&mut self, key: Key, value: Option<&[u8]>, most: u8) -> Next {
        let number = value.and_then(xenstore::number::<u32>);
        match (key, number) {
            (Key::Order, None) if value.is_none() => {
                self.order = 0;
                Next::Read(Key::Only)
            }
            (Key::Order, number) => {
                let order = number.and_then(|order| u8::try_from(order).ok());
                match order.filter(|order| *order <= most.min(MAX_RING_ORDER)) {
                    Some(order) => {
                        self.order = order;
                        Next::Read(Key::Page(0))
                    }
                    None => Next::Bad(BadRing::Order),
                }
            }
            // Some frontends write an order of 0 beside the one reference of old.
            (Key::Page(0), None) if value.is_none() && self.order == 0 => Next::Read(Key::Only),
            (Key::Only, None) if value.is_none() => Next::NoRing,
            (Key::Only | Key::Page(_), None) => Next::Bad(BadRing::Reference),
            (Key::Only, Some(reference)) => {
                self.references[0] = GrantRef(reference);
                Next::Read(Key::Port)
            }
            (Key::Page(index), Some(reference)) => {
                if let Some(place) = self.references.get_mut(usize::from(index)) {
                    *place = GrantRef(reference);
                }
                let next = index + 1;
                Next::Read(if u32::from(next) < 1 << self.order { Key::Page(next) } else { Key::Port })
            }
            (Key::Port, Some(port)) => {
                self.port = Port(port);
                Next::Read(Key::Protocol)
            }
            (Key::Port, None) => Next::Bad(BadRing::Port),
            (Key::Protocol, _) if value.is_none_or(|value| value == PROTOCOL.as_bytes()) => Next::Ready,
            (Key::Protocol, _) => Next::Bad(BadRing::Protocol),
        }
    }
}
