//! Frontends that let us read them, and belong to no device of ours: somebody forged the other half of a device that dom0 never
//! made. They get nothing, and are counted.

use heapless::Deque;

/// dom0 makes both halves in one transaction, but we hear of them one after the other: who is not introduced by then, is not.
const INTRODUCTION_NS: u64 = 2_000_000_000;
/// Frontends that are waited for at once; of more, the oldest is not waited for.
const NOTICED: usize = 16;

/// A frontend without a backend, and when it was noticed.
#[derive(Clone, Copy, Debug)]
struct Stranger {
    domain: u16,
    devid: u32,
    since: u64,
}

#[derive(Debug)]
pub(super) struct Strangers {
    noticed: Deque<Stranger, NOTICED>,
    total: u64,
}

impl Strangers {
    pub(super) const fn new() -> Self {
        Self { noticed: Deque::new(), total: 0 }
    }

    /// A frontend has written its state, and there is no such device.
    pub(super) fn notice(&mut self, domain: u16, devid: u32, now_ns: u64) {
        if self.noticed.iter().any(|stranger| (stranger.domain, stranger.devid) == (domain, devid)) {
            return;
        }
        if self.noticed.is_full() {
            self.noticed.pop_front();
            self.total += 1;
        }
        // There is room.
        let _ = self.noticed.push_back(Stranger { domain, devid, since: now_ns });
    }

    /// dom0 has made the device.
    pub(super) fn introduced(&mut self, domain: u16, devid: u32) {
        self.noticed.retain(|stranger| (stranger.domain, stranger.devid) != (domain, devid));
    }

    /// How many there were.
    pub(super) fn total(&mut self, now_ns: u64) -> u64 {
        while self
            .noticed
            .front()
            .is_some_and(|stranger| now_ns.saturating_sub(stranger.since) >= INTRODUCTION_NS)
        {
            self.noticed.pop_front();
            self.total += 1;
        }
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_introduced_in_time_is_no_stranger() {
        let mut strangers = Strangers::new();
        strangers.notice(5, 51712, 0);
        strangers.notice(5, 51712, 10);
        strangers.notice(6, 51712, 0);
        assert_eq!(strangers.total(INTRODUCTION_NS - 1), 0);
        strangers.introduced(6, 51712);
        assert_eq!(strangers.total(INTRODUCTION_NS), 1);
        assert_eq!(strangers.total(INTRODUCTION_NS * 9), 1, "counted once");
        strangers.notice(5, 51712, INTRODUCTION_NS * 9);
        assert_eq!(strangers.total(INTRODUCTION_NS * 10), 2, "it tried again");
    }

    #[test]
    fn many_at_once_are_all_counted() {
        let mut strangers = Strangers::new();
        for devid in 0..100 {
            strangers.notice(5, devid, 0);
        }
        assert_eq!(strangers.total(0), 84);
        assert_eq!(strangers.total(INTRODUCTION_NS), 100);
    }
}
