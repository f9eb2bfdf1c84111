//! One fault as a story in time: from the trap to the program's next instruction, by Xen's system time.

use mm_proto::Timing;

/// Moments of a fault for which M1 was asked, nanoseconds.
#[derive(Clone, Copy, Default)]
pub(crate) struct Fault {
    /// Page of the volume.
    page: u64,
    trapped: u64,
    pushed: u64,
    timing: Timing,
    resumed: u64,
    mapped: u64,
    returned: u64,
}

/// The first such fault and the latest, and the one that is under way.
#[derive(Default)]
pub(crate) struct Trace {
    open: Option<Fault>,
    first: Option<Fault>,
    latest: Option<Fault>,
}

impl Trace {
    /// M1 was asked for a page, since the program trapped, and has answered.
    pub(crate) fn answered(&mut self, page: u64, trapped: u64, pushed: u64, timing: Timing, now: u64) {
        self.open = Some(Fault { page, trapped, pushed, timing, resumed: now, ..Fault::default() });
    }

    /// Whether a fault is under way for which M1 was asked.
    pub(crate) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Pages were mapped.
    pub(crate) fn mapped(&mut self, now: u64) {
        if let Some(fault) = &mut self.open {
            fault.mapped = now;
        }
    }

    /// The program goes on. Gives a fault that is complete now.
    pub(crate) fn resume(&mut self, now: u64) -> Option<Fault> {
        // One that was not mapped was the kernel's own reading, not a fault of the program.
        let fault = self.open.take().filter(|fault| fault.mapped != 0)?;
        let fault = Fault { returned: now, ..fault };
        if !fault.is_in_order() {
            return None;
        }
        self.first.get_or_insert(fault);
        self.latest = Some(fault);
        Some(fault)
    }

    /// The first fault and the latest, if they are two.
    pub(crate) fn kept(&self) -> impl Iterator<Item = Fault> {
        let latest = self.latest.filter(|latest| Some(latest.pushed) != self.first.map(|first| first.pushed));
        self.first.into_iter().chain(latest)
    }
}

impl Fault {
    /// Whether the two domains' clocks agree: processors' may differ, most of all on an emulated machine.
    fn is_in_order(&self) -> bool {
        let Timing { received, replied } = self.timing;
        [self.trapped, self.pushed, received, replied, self.resumed, self.mapped, self.returned].is_sorted()
    }
}

impl core::fmt::Display for Fault {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let since = |moment: u64| moment.saturating_sub(self.trapped);
        write!(
            f,
            "fault page={} trap=0 ring={} m1_received={} m1_replied={} resumed={} mapped={} return={}",
            self.page,
            since(self.pushed),
            since(self.timing.received),
            since(self.timing.replied),
            since(self.resumed),
            since(self.mapped),
            since(self.returned)
        )
    }
}
