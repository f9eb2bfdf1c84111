//! Whether M1 is alive: judged only while an answer is due, since a M1 that has nothing to do sleeps.

/// What silence means.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Judgement {
    /// Nothing is due: no judgement.
    Idle,
    /// Something is due, and not late.
    Well,
    /// An answer is late, but M1's heartbeat goes on: it is busy, or its disk is slow.
    Slow,
    /// An answer is late and the heartbeat has stopped: M1 is dead or stuck. The channel's status tells which.
    Silent,
}

/// What was seen of the heartbeat.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    last: u64,
    changed: u64,
}

impl Pulse {
    /// `oldest` is since when the oldest answer is due; all times in nanoseconds.
    pub(crate) fn judge(
        &mut self,
        now: u64,
        heartbeat: u64,
        oldest: Option<u64>,
        patience: u64,
    ) -> Judgement {
        if heartbeat != self.last {
            (self.last, self.changed) = (heartbeat, now);
        }
        let Some(since) = oldest else { return Judgement::Idle };
        if now.saturating_sub(since) < patience {
            return Judgement::Well;
        }
        let still = now.saturating_sub(self.changed.max(since));
        if still < patience { Judgement::Slow } else { Judgement::Silent }
    }
}
