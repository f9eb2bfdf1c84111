//! Xen's clock, and sleeping until something happens.

use mm_guest::Clocks;
use xen::Port;

use super::{KEPT_ASLEEP, LOOK_NS, Xen};

/// A sleep is long, and worth giving frames back for, from here on.
const LONG_NS: u64 = 500_000_000;

impl Xen {
    /// A moment of the program's monotonic clock by Xen's.
    fn system_time(&self, moment: u64) -> u64 {
        let from_now = moment.saturating_sub(self.clock.now_ns().wrapping_add(self.offset));
        self.clock.now_ns().saturating_add(from_now)
    }

    /// Takes what is pending: input to its buffer, the rest as marks.
    pub(super) fn take_events(&mut self) {
        for port in self.events.take_pending() {
            self.called |= port == self.link.port;
            self.store_called |= port == self.store.port();
        }
        self.take_input();
    }

    /// Sleeps on all that can happen, but not longer than until `deadline`.
    fn sleep(&mut self, deadline: u64) {
        let mut ports: heapless::Vec<Port, 4> = heapless::Vec::new();
        let wanted = [Some(self.link.port), self.console.port(), self.timer, Some(self.store.port())];
        ports.extend(wanted.into_iter().flatten());
        if !self.link.look_again() {
            let from = xen::clock::tsc();
            let _ = self.hypervisor.sched_poll(&ports, Some(deadline));
            self.slept += xen::clock::tsc().saturating_sub(from);
        }
        self.called = true;
        self.take_events();
    }
}

impl Clocks for Xen {
    fn monotonic(&self) -> u64 {
        // Xen's clocks of two processors may differ, and the domain may change from one to the other.
        let now = self.clock.now_ns().max(self.latest.get());
        self.latest.set(now);
        now.wrapping_add(self.offset)
    }

    fn set_monotonic(&mut self, now: u64) {
        self.offset = now.wrapping_sub(self.clock.now_ns());
    }

    fn realtime(&self) -> u64 {
        self.clock.unix_ns()
    }

    fn set_alarm(&mut self, at: Option<u64>) {
        self.alarm = at;
        let _ = self.hypervisor.set_timer(at.map(|at| self.system_time(at)));
    }

    fn wait(&mut self, deadline: Option<u64>) {
        let deadline = deadline.map(|deadline| self.system_time(deadline));
        let now = self.clock.now_ns();
        if deadline.is_none_or(|deadline| deadline.saturating_sub(now) >= LONG_NS) {
            self.give_back(KEPT_ASLEEP);
        }
        let look = now.saturating_add(LOOK_NS);
        self.sleep(deadline.unwrap_or(look).min(look));
    }
}
