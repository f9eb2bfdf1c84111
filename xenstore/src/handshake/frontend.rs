//! A frontend that wants its backend, and wants it again when it has gone.

use crate::XenbusState as S;

/// What the frontend's owner does now. After each but `Nothing` the machine takes it for done.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrontendStep {
    /// Wait for the next event.
    Nothing,
    /// Write state 1: a backend that has closed starts over when it sees that.
    Restart,
    /// Publish rings and ports, then write state 3 or 4 as the device class has it.
    Publish,
    /// The backend serves. (Those that wrote 3 write 4 now.)
    Use,
    /// The backend is ending or gone. Stop using it, take back what was granted to it, write state 6, then call
    /// [`Frontend::closed`].
    Stop,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Our state node says 1 or 6, nothing is published.
    Waiting {
        restarted: bool,
    },
    Published,
    Using,
    Stopping,
}

/// The frontend's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Frontend {
    phase: Phase,
}

impl Default for Frontend {
    fn default() -> Self {
        Self::new()
    }
}

impl Frontend {
    /// As the toolstack leaves it: state 1, nothing published.
    #[must_use]
    pub const fn new() -> Self {
        Self { phase: Phase::Waiting { restarted: false } }
    }

    /// Whether rings are published that the backend may be using.
    #[must_use]
    pub fn is_published(&self) -> bool {
        !matches!(self.phase, Phase::Waiting { .. })
    }

    /// The backend's state was read; `None`: its path is not there.
    pub fn observe(&mut self, backend: Option<S>) -> FrontendStep {
        let (phase, step) = match (self.phase, backend) {
            // 2 is an offer. (3 is one too where a backend jumps to it; Linux's frontends take it so.)
            (Phase::Waiting { .. }, Some(S::InitWait | S::Initialised)) => {
                (Phase::Published, FrontendStep::Publish)
            }
            (Phase::Waiting { restarted: false }, Some(S::Closing | S::Closed)) => {
                (Phase::Waiting { restarted: true }, FrontendStep::Restart)
            }
            // It has come back to life: if it dies again, it will have to be told again.
            (Phase::Waiting { .. }, Some(S::Initialising)) => {
                (Phase::Waiting { restarted: false }, FrontendStep::Nothing)
            }
            // 4 while nothing of ours is published is the end of an earlier life: it follows ours when it sees it.
            (phase @ Phase::Waiting { .. }, _) => (phase, FrontendStep::Nothing),

            (Phase::Published, Some(S::Connected)) => (Phase::Using, FrontendStep::Use),
            (Phase::Published | Phase::Using, None | Some(S::Closing | S::Closed)) => {
                (Phase::Stopping, FrontendStep::Stop)
            }
            // A backend that offers again has forgotten our rings.
            (Phase::Using, Some(S::Initialising | S::InitWait)) => (Phase::Stopping, FrontendStep::Stop),
            (phase, _) => (phase, FrontendStep::Nothing),
        };
        self.phase = phase;
        step
    }

    /// Nothing of ours is shared with the backend any more, and our state says 6.
    pub fn closed(&mut self) {
        self.phase = Phase::Waiting { restarted: false };
    }
}
