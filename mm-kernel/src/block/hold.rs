//! Answers that are held back for a moment, so that one event tells a client of many.
//!
//! What is in memory is answered before a client that keeps many requests under way has sent its next one. Shown at once, every answer would
//! interrupt the client while it sends, and an event costs it more than a request. So answers are collected, up to a *goal* that follows what
//! the client does: it is doubled from time to time, for a trial, and where no request comes for a few times as long as one usually takes,
//! what is there is shown, and the goal is what was there. A client that has one request at a time has a goal of 1, that is, nothing is held, but for
//! trials, which become rare. What others wait for (a flush) is shown at once with all that is held.
//!
//! How long is long is measured in what a request costs M1 itself, microseconds on real processors: events matter to a client that sends
//! requests not much slower than M1 answers them. One that leaves more time between them is answered at once, always.
//!
//! The client sends an event at the request with which the goal is reached, and none before. That is why there is always a time, too,
//! [`Hold::until`], at which its ring is looked at.

/// Answers that are held at most, with the one that shows them.
const MOST: u32 = 16;
/// How long a ring is not looked at: so many times as long as the client takes from one request to the next.
const GAPS: u64 = 4;
/// So many times what a request costs M1: what a client may take from one request to the next, and how long an answer is held, whatever else
/// comes.
const GAP_MAX: u64 = 16;
const HELD_MAX: u64 = 64;
/// Times that answers are shown between two trials: at first, at least, and at most.
const INTERVAL: u32 = 16;
const INTERVAL_MIN: u32 = 4;
const INTERVAL_MAX: u32 = 256;

/// What to do with answers that the client has not seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Do {
    /// Show them.
    Show,
    /// Look again when so many requests more have come, or at [`Hold::until`].
    Wait(u32),
}

/// What is known of one client's requests, and what is held for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Hold {
    /// Answers that are shown together.
    goal: u32,
    /// Times that answers were shown since the last trial, and how many there are between two.
    shown: u32,
    interval: u32,
    /// When the last request came, and how long one comes after the other, smoothed.
    last_ns: u64,
    gap_ns: u64,
    held: Option<Held>,
}

/// What a request costs M1, from taking it to its answer where nothing has to be waited for: nanoseconds, smoothed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost(u64);

impl Cost {
    pub(super) const NEW: Self = Self(5_000);

    /// So many requests took so long.
    pub(super) fn took(&mut self, count: u32, ns: u64) {
        if let Some(each) = ns.checked_div(u64::from(count)) {
            // One is more where Xen has let others run meanwhile.
            self.0 = (15 * self.0 + each.clamp(1_000, 4 * self.0)) / 16;
        }
    }
}

/// Something is held.
#[derive(Clone, Copy, Debug)]
struct Held {
    since: u64,
    until: u64,
}

impl Hold {
    pub(super) const NEW: Self =
        Self { goal: 1, shown: 0, interval: INTERVAL, last_ns: 0, gap_ns: u64::MAX / 8, held: None };

    /// When the ring is to be looked at, if something is held.
    pub(super) fn until(&self) -> Option<u64> {
        self.held.map(|held| held.until)
    }

    /// So many requests were taken.
    pub(super) fn taken(&mut self, count: u32, now: u64, Cost(cost): Cost) {
        let Some(each) = now.saturating_sub(self.last_ns).checked_div(u64::from(count)) else { return };
        // A pause is a pause, however long.
        let most = 2 * GAP_MAX * cost;
        self.gap_ns = (7 * self.gap_ns.min(most) + each.min(most)) / 8;
        // Several at once: it has several under way, which a trial is to show.
        if count > 1 {
            self.shown = self.shown.saturating_add(self.interval / 4);
        }
        self.last_ns = now;
        let wait = GAPS * self.gap_ns;
        if let Some(held) = &mut self.held {
            held.until = (now + wait).min(held.since + HELD_MAX * cost);
        }
    }

    /// There are so many answers that the client has not seen, at least one, and one of them perhaps `urgent`.
    pub(super) fn answered(&mut self, unseen: u32, urgent: bool, now: u64, Cost(cost): Cost) -> Do {
        if self.gap_ns > GAP_MAX * cost {
            (self.goal, self.shown, self.held) = (1, 0, None);
            return Do::Show;
        }
        let trial = self.shown >= self.interval && self.goal < MOST;
        let goal = if trial { (2 * self.goal).min(MOST) } else { self.goal };
        if unseen >= goal {
            self.held = None;
            self.shown = self.shown.saturating_add(1);
            if trial {
                (self.goal, self.shown) = (goal, 0);
                self.interval = (self.interval / 2).max(INTERVAL_MIN);
            }
            return Do::Show;
        }
        if urgent {
            self.held = None;
            return Do::Show;
        }
        let until = now + GAPS * self.gap_ns;
        let held = *self.held.get_or_insert(Held { since: now, until });
        if now >= held.until {
            self.held = None;
            (self.goal, self.shown) = (unseen, 0);
            self.interval = (2 * self.interval).min(INTERVAL_MAX);
            return Do::Show;
        }
        Do::Wait(goal - unseen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: Cost = Cost(2_000);

    /// A client that keeps `depth` requests under way, each of which takes it so long to send, and as long as ten of them to be told; gives the
    /// events, and the time that it took, for so many requests. Answers are there at once.
    fn client(hold: &mut Hold, depth: u32, gap: u64, requests: u32, now: &mut u64) -> (u32, u64) {
        let begin = *now;
        let (mut sent, mut seen, mut unseen, mut events, mut wish) = (0_u32, 0_u32, 0_u32, 0, 1);
        let mut untaken = 0_u32;
        let mut polls = 0;
        while seen < requests {
            let looks = hold.until().is_some_and(|until| until <= *now) || untaken >= wish;
            if looks && (untaken > 0 || unseen > 0) {
                hold.taken(untaken, *now, COST);
                unseen += core::mem::take(&mut untaken);
                match hold.answered(unseen, false, *now, COST) {
                    Do::Show => {
                        (seen, events, wish) = (seen + core::mem::take(&mut unseen), events + 1, 1);
                        *now += 10 * gap;
                    }
                    Do::Wait(more) => wish = more,
                }
            } else if sent - seen < depth {
                (sent, untaken) = (sent + 1, untaken + 1);
                *now += gap;
            } else {
                // It waits, and so does M1.
                *now = hold.until().expect("something is held, or it has been told").max(*now);
                polls += 1;
                assert!(polls < 100_000, "it goes on for ever");
            }
        }
        (events, *now - begin)
    }

    #[test]
    fn one_request_at_a_time_is_answered_at_once_but_for_trials_that_become_rare() {
        let (mut hold, mut now) = (Hold::NEW, 0);
        let (events, took) = client(&mut hold, 1, 2_000, 10_000, &mut now);
        assert_eq!(events, 10_000);
        let alone = 10_000 * (2_000 + 20_000);
        assert!(took < alone * 102 / 100, "{took} and {alone}");
    }

    #[test]
    fn a_client_with_many_under_way_has_one_event_for_many() {
        for gap in [500, 1_000, 2_500] {
            for (depth, most) in [(2, 2), (4, 4), (8, 8), (32, MOST), (128, MOST)] {
                let (mut hold, mut now) = (Hold::NEW, 1 << 40);
                let (events, took) = client(&mut hold, depth, gap, 10_000, &mut now);
                assert!(events < 10_000 / most + 10_000 / most / 4 + 80, "{depth} at {gap}: {events}");
                let at_once = 10_000 * 11 * gap;
                assert!(took < at_once, "{depth} at {gap}: {took} and {at_once}");
            }
        }
    }

    #[test]
    fn who_leaves_time_between_requests_waits_for_none_however_many_are_under_way() {
        let (mut hold, mut now) = (Hold::NEW, 0);
        client(&mut hold, 32, 1_000, 1_000, &mut now);
        assert_eq!(hold.goal, MOST);
        // One each 100 µs, whether there are answers or not: after a few nothing is held.
        let mut held = 0;
        for _ in 0..1_000 {
            now += 100_000;
            hold.taken(1, now, COST);
            held += u32::from(hold.answered(1, false, now, COST) != Do::Show);
        }
        assert!(held < 20, "{held}");
    }

    #[test]
    fn several_requests_at_once_call_for_a_trial() {
        let (mut hold, mut now) = (Hold::NEW, 0);
        client(&mut hold, 1, 2_000, 5_000, &mut now);
        assert_eq!((hold.goal, hold.interval), (1, INTERVAL_MAX));
        for _ in 0..8 {
            now += 4_000;
            hold.taken(2, now, COST);
            let _ = hold.answered(2, false, now, COST);
        }
        assert!(hold.goal >= 2, "{hold:?}");
    }

    #[test]
    fn it_follows_a_client_that_changes() {
        let (mut hold, mut now) = (Hold::NEW, 0);
        client(&mut hold, 32, 2_000, 1_000, &mut now);
        assert_eq!(hold.goal, MOST);
        client(&mut hold, 1, 2_000, 3, &mut now);
        assert_eq!(hold.goal, 1);
        client(&mut hold, 8, 2_000, 1_000, &mut now);
        assert_eq!(hold.goal, 8);
    }

    #[test]
    fn nothing_is_held_longer_than_it_may_be_and_what_is_urgent_not_at_all() {
        let mut hold = Hold { goal: MOST, gap_ns: GAP_MAX * COST.0, ..Hold::NEW };
        hold.taken(1, 0, COST);
        assert_eq!(hold.answered(1, false, 0, COST), Do::Wait(MOST - 1));
        assert_eq!(hold.answered(2, true, 1_000, COST), Do::Show);
        assert_eq!(hold.until(), None);
        // One that sends the next just before the end of the wait, again and again.
        let mut now = 0;
        assert_eq!(hold.answered(1, false, now, COST), Do::Wait(MOST - 1));
        let most = HELD_MAX * COST.0;
        while hold.answered(1, false, now, COST) != Do::Show {
            hold.taken(1, now, COST);
            let until = hold.until().expect("it is held");
            now = if until == most { most } else { (until - 1).min(now + GAP_MAX * COST.0 / 2) };
        }
        assert!(now <= most, "{now}");
    }

    #[test]
    fn the_cost_follows_what_it_is_and_forgets_what_was_not_its_own() {
        let mut cost = Cost::NEW;
        (0..100).for_each(|_| cost.took(4, 1_600_000));
        assert!((390_000..=400_000).contains(&cost.0), "{cost:?}");
        (0..200).for_each(|_| cost.took(2, 6_000));
        assert!((3_000..3_100).contains(&cost.0), "{cost:?}");
        cost.took(1, 50_000_000);
        assert!(cost.0 < 4_000, "{cost:?}");
        cost.took(0, 7);
    }
}
