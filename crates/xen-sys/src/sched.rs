//! Scheduling and shutdown (`xen/include/public/sched.h`).

/// Sub-operations of `sched_op` (`SCHEDOP_*`).
pub mod op {
    #![expect(missing_docs, reason = "named as in the header")]
    pub const YIELD: u64 = 0;
    pub const BLOCK: u64 = 1;
    pub const SHUTDOWN: u64 = 2;
    pub const POLL: u64 = 3;
}

/// Ports that one poll may wait for (`do_poll` in `xen/common/sched/core.c`).
pub const POLL_PORTS: usize = 128;

/// Why a domain ends (`SHUTDOWN_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ShutdownReason {
    /// It is done.
    Poweroff,
    /// It wants to be started again.
    Reboot,
    /// It is ready to be saved.
    Suspend,
    /// It found a bug in itself.
    Crash,
}

impl ShutdownReason {
    /// Xen's number.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Poweroff => 0,
            Self::Reboot => 1,
            Self::Suspend => 2,
            Self::Crash => 3,
        }
    }
}

/// `struct sched_poll`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SchedPoll {
    /// Guest address of the list of ports.
    pub ports: u64,
    /// How many.
    pub nr_ports: u32,
    /// Absolute system time in nanoseconds; 0 is for ever.
    pub timeout: u64,
}
layout!(SchedPoll, 24, ports @ 0, nr_ports @ 8, timeout @ 16);
