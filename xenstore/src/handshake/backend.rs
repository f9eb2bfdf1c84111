//! A backend that serves one device for as long as the toolstack and the frontend want it.

use crate::XenbusState as S;

/// What the backend's owner does now. After each but `Nothing` and `Connect` the machine takes it for done.
#[must_use]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendStep {
    /// Wait for the next event.
    Nothing,
    /// Decide: then [`Backend::offered`] when the nodes and state 2 are written, or [`Backend::refused`].
    Decide,
    /// The frontend has published its details: use them, write state 4, then call [`Backend::connected`]; or
    /// [`Backend::abandon`]. Said again with each observation until then.
    Connect,
    /// Stop serving and take everything back; write state 5 first if `announce`. Then call [`Backend::released`].
    Release {
        /// The frontend itself is only at 5: answer with 5 and let it end.
        announce: bool,
    },
    /// Write state 6.
    Close,
    /// Write state 6, then remove the device's backend directory: the toolstack waits for both.
    CloseAndRemove,
    /// The device is gone and nothing is held: forget it. What is in its directory now, if anything, is another.
    Forget,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    New,
    Deciding,
    Refused,
    /// Our state says 2.
    Offered,
    /// Our state says 2, the frontend's 3 or 4.
    Connecting,
    /// Our state says 4.
    Connected,
    /// The owner is taking things back.
    Releasing,
    /// Nothing is held; our state says 5, or whatever it said.
    Released,
    /// Our state says 6.
    Closed,
    Removed,
}

/// The backend's side.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backend {
    phase: Phase,
}

impl Default for Backend {
    fn default() -> Self {
        Self::new()
    }
}

/// What was read of both sides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Observed {
    /// Our own directory is there.
    pub present: bool,
    /// Our `online` says 1: the toolstack wants the device. It writes 0 (and our state 5) to end it.
    pub online: bool,
    /// The frontend's state; `None`: its path is gone.
    pub frontend: Option<S>,
}

impl Backend {
    /// As the toolstack leaves it: state 1.
    #[must_use]
    pub const fn new() -> Self {
        Self { phase: Phase::New }
    }

    /// Whether the owner holds something for this device: rings, ports, grants.
    #[must_use]
    pub fn holds(&self) -> bool {
        matches!(self.phase, Phase::Offered | Phase::Connecting | Phase::Connected | Phase::Releasing)
    }

    /// Whether our state node says something other than 1, if it is still the one that we wrote.
    #[must_use]
    pub fn published(&self) -> bool {
        self.holds() || matches!(self.phase, Phase::Released | Phase::Closed)
    }

    /// Whether the owner does not serve the device.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.phase == Phase::Refused
    }

    /// Whether nothing may be observed now, because the owner has not answered yet.
    #[must_use]
    pub fn waits_for_owner(&self) -> bool {
        matches!(self.phase, Phase::Deciding | Phase::Releasing)
    }

    /// Both sides were read.
    pub fn observe(&mut self, seen: Observed) -> BackendStep {
        let (phase, step) = match (self.phase, seen) {
            (phase @ (Phase::Deciding | Phase::Releasing), _) => (phase, BackendStep::Nothing),

            (Phase::Offered | Phase::Connecting | Phase::Connected, Observed { present: false, .. }) => {
                (Phase::Releasing, BackendStep::Release { announce: false })
            }
            (_, Observed { present: false, .. }) => (Phase::Removed, BackendStep::Forget),
            // Another device has taken its place already: `xl block-attach` right after the detach.
            (Phase::Removed, Observed { online: true, .. }) => (Phase::Removed, BackendStep::Forget),

            // Nobody holds anything: the toolstack need not wait for the frontend.
            (
                Phase::New | Phase::Refused | Phase::Released | Phase::Closed | Phase::Removed,
                Observed { online: false, .. },
            ) => (Phase::Removed, BackendStep::CloseAndRemove),
            // The frontend never came: nor here.
            (Phase::Offered, Observed { online: false, .. }) => {
                (Phase::Releasing, BackendStep::Release { announce: false })
            }

            (
                Phase::New,
                Observed {
                    frontend: Some(S::Initialising | S::InitWait | S::Initialised | S::Connected),
                    ..
                },
            ) => (Phase::Deciding, BackendStep::Decide),

            (
                Phase::Offered | Phase::Connecting,
                Observed { frontend: Some(S::Initialised | S::Connected), .. },
            ) => (Phase::Connecting, BackendStep::Connect),
            (
                Phase::Offered | Phase::Connecting | Phase::Connected,
                Observed { frontend: Some(S::Closing), .. },
            ) => (Phase::Releasing, BackendStep::Release { announce: true }),
            (
                Phase::Offered | Phase::Connecting | Phase::Connected,
                Observed { frontend: None | Some(S::Closed), .. },
            ) => (Phase::Releasing, BackendStep::Release { announce: false }),
            // It has started again without saying goodbye: a kernel replaced by another.
            (
                Phase::Connecting | Phase::Connected,
                Observed { frontend: Some(S::Initialising | S::InitWait), .. },
            ) => (Phase::Releasing, BackendStep::Release { announce: false }),

            (Phase::Released, Observed { frontend: None | Some(S::Closed | S::Initialising), .. }) => {
                (Phase::Closed, BackendStep::Close)
            }
            // The frontend wants it again (blkif.h: reconnect after resume).
            (Phase::Closed, Observed { frontend: Some(S::Initialising), .. }) => {
                (Phase::Deciding, BackendStep::Decide)
            }

            (phase, _) => (phase, BackendStep::Nothing),
        };
        self.phase = phase;
        step
    }

    /// What is offered is published, our state says 2.
    pub fn offered(&mut self) {
        self.phase = Phase::Offered;
    }

    /// The frontend's details are in use, our state says 4. `false`: it has gone on meanwhile, and nothing changed.
    #[must_use]
    pub fn connected(&mut self) -> bool {
        let connecting = self.phase == Phase::Connecting;
        if connecting {
            self.phase = Phase::Connected;
        }
        connecting
    }

    /// The device will not be served; our state stays 1.
    pub fn refused(&mut self) {
        self.phase = Phase::Refused;
    }

    /// We end it ourselves (the client lied): write state 5, take everything back, then call [`Self::released`].
    /// `false`: nothing is held, or it is ending already.
    #[must_use]
    pub fn abandon(&mut self) -> bool {
        let held = matches!(self.phase, Phase::Offered | Phase::Connecting | Phase::Connected);
        if held {
            self.phase = Phase::Releasing;
        }
        held
    }

    /// Nothing is held for this device any more. Observe again.
    pub fn released(&mut self) {
        self.phase = Phase::Released;
    }
}
