use crate::XenbusState as S;
use crate::handshake::{Backend, BackendStep as B, Frontend, FrontendStep as F, Observed};

/// Everything that can be read of the other side.
const ALL: [Option<S>; 10] = [
    None,
    Some(S::Unknown),
    Some(S::Initialising),
    Some(S::InitWait),
    Some(S::Initialised),
    Some(S::Connected),
    Some(S::Closing),
    Some(S::Closed),
    Some(S::Reconfiguring),
    Some(S::Reconfigured),
];

fn published() -> Frontend {
    let mut machine = Frontend::new();
    assert_eq!(machine.observe(Some(S::InitWait)), F::Publish);
    machine
}

fn using() -> Frontend {
    let mut machine = published();
    assert_eq!(machine.observe(Some(S::Connected)), F::Use);
    machine
}

/// The step for each thing that can be read, from one phase.
fn steps(machine: Frontend) -> [F; 10] {
    ALL.map(|seen| machine.clone().observe(seen))
}

#[test]
fn a_frontend_publishes_when_offered() {
    use F::{Nothing as N, Publish as P, Restart as R};
    assert_eq!(steps(Frontend::new()), [N, N, N, P, P, N, R, R, N, N]);
}

#[test]
fn a_frontend_that_has_published_uses_or_stops() {
    use F::{Nothing as N, Stop as X, Use as U};
    assert_eq!(steps(published()), [X, N, N, N, N, U, X, X, N, N]);
}

#[test]
fn a_frontend_in_use_stops_when_its_backend_ends_or_starts_over() {
    use F::{Nothing as N, Stop as X};
    assert_eq!(steps(using()), [X, N, X, X, N, N, X, X, N, N]);
}

#[test]
fn a_frontend_that_stops_hears_nothing_until_it_has_closed() {
    let mut machine = using();
    assert_eq!(machine.observe(Some(S::Closing)), F::Stop);
    assert!(machine.is_published());
    assert_eq!(steps(machine), [F::Nothing; 10]);
    machine.closed();
    assert!(!machine.is_published());
    assert_eq!(steps(machine), steps(Frontend::new()));
}

#[test]
fn a_closed_backend_is_told_to_start_over_once_for_each_of_its_deaths() {
    let mut machine = Frontend::new();
    assert_eq!(machine.observe(Some(S::Closed)), F::Restart);
    assert_eq!(machine.observe(Some(S::Closed)), F::Nothing, "once");
    assert_eq!(machine.observe(Some(S::Initialising)), F::Nothing);
    assert_eq!(machine.observe(Some(S::Closed)), F::Restart, "again");
    assert_eq!(machine.observe(Some(S::InitWait)), F::Publish);
}

fn seen(frontend: Option<S>) -> Observed {
    Observed { present: true, online: true, frontend }
}

fn offered() -> Backend {
    let mut machine = Backend::new();
    assert_eq!(machine.observe(seen(Some(S::Initialising))), B::Decide);
    assert!(machine.waits_for_owner());
    machine.offered();
    machine
}

fn connecting() -> Backend {
    let mut machine = offered();
    assert!(!machine.connected(), "nothing to connect to yet");
    assert_eq!(machine.observe(seen(Some(S::Connected))), B::Connect);
    machine
}

fn connected() -> Backend {
    let mut machine = connecting();
    assert!(machine.connected());
    assert!(!machine.connected(), "once");
    machine
}

fn released() -> Backend {
    let mut machine = connected();
    assert_eq!(machine.observe(seen(Some(S::Closing))), B::Release { announce: true });
    machine.released();
    machine
}

fn closed() -> Backend {
    let mut machine = released();
    assert_eq!(machine.observe(seen(Some(S::Closed))), B::Close);
    machine
}

fn refused() -> Backend {
    let mut machine = Backend::new();
    let _ = machine.observe(seen(Some(S::Initialising)));
    machine.refused();
    machine
}

/// The step for each thing that can be read of the frontend.
fn back_steps(machine: Backend) -> [B; 10] {
    ALL.map(|frontend| machine.clone().observe(seen(frontend)))
}

const ANNOUNCED: B = B::Release { announce: true };
const RELEASE: B = B::Release { announce: false };

#[test]
fn a_new_device_is_decided_on_when_its_frontend_lives() {
    use B::{Decide as D, Nothing as N};
    assert_eq!(back_steps(Backend::new()), [N, N, D, D, D, D, N, N, N, N]);
}

#[test]
fn an_offered_device_connects_or_is_released() {
    use B::{Connect as C, Nothing as N};
    assert_eq!(back_steps(offered()), [RELEASE, N, N, N, C, C, ANNOUNCED, RELEASE, N, N]);
}

#[test]
fn a_device_that_connects_is_asked_to_until_it_has_or_is_released() {
    use B::{Connect as C, Nothing as N};
    assert_eq!(back_steps(connecting()), [RELEASE, N, RELEASE, RELEASE, C, C, ANNOUNCED, RELEASE, N, N]);
    let offline = Observed { present: true, online: false, frontend: Some(S::Connected) };
    assert_eq!(connecting().observe(offline), B::Connect, "its frontend goes first");
    let mut machine = connecting();
    assert_eq!(machine.observe(seen(Some(S::Closed))), RELEASE);
    assert!(!machine.connected(), "too late");
    assert_eq!(machine.observe(seen(Some(S::Connected))), B::Nothing);
}

#[test]
fn a_connected_device_is_released_when_its_frontend_ends_vanishes_or_starts_over() {
    use B::Nothing as N;
    assert_eq!(back_steps(connected()), [RELEASE, N, RELEASE, RELEASE, N, N, ANNOUNCED, RELEASE, N, N]);
}

#[test]
fn a_released_device_closes_with_its_frontend() {
    use B::{Close as C, Nothing as N};
    assert_eq!(back_steps(released()), [C, N, C, N, N, N, N, C, N, N]);
}

#[test]
fn a_closed_device_is_decided_on_again_when_its_frontend_starts_over() {
    use B::{Decide as D, Nothing as N};
    assert_eq!(back_steps(closed()), [N, N, D, N, N, N, N, N, N, N]);
}

#[test]
fn a_refused_device_stays_refused() {
    assert_eq!(back_steps(refused()), [B::Nothing; 10]);
}

#[test]
fn nothing_is_observed_while_the_owner_decides_or_releases() {
    let mut deciding = Backend::new();
    let _ = deciding.observe(seen(Some(S::Initialising)));
    let mut releasing = connected();
    let _ = releasing.observe(seen(None));
    for machine in [deciding, releasing] {
        assert!(machine.waits_for_owner());
        assert_eq!(back_steps(machine), [B::Nothing; 10]);
        let gone = Observed { present: false, online: false, frontend: None };
        assert_eq!(machine.clone().observe(gone), B::Nothing);
    }
}

#[test]
fn offline_means_remove_as_soon_as_nothing_is_held() {
    let offline = |frontend| Observed { present: true, online: false, frontend };
    for frontend in ALL {
        for machine in [Backend::new(), refused(), released(), closed()] {
            assert_eq!(machine.clone().observe(offline(frontend)), B::CloseAndRemove);
        }
        assert_eq!(
            offered().observe(offline(frontend)),
            RELEASE,
            "a frontend that never came is not waited for"
        );
    }
    assert_eq!(connected().observe(offline(Some(S::Connected))), B::Nothing, "its frontend goes first");
    assert_eq!(connected().observe(offline(None)), RELEASE);
    let mut machine = closed();
    let _ = machine.observe(offline(Some(S::Closed)));
    assert_eq!(machine.observe(offline(Some(S::Closed))), B::CloseAndRemove, "it was not removed after all");
    assert_eq!(machine.clone().observe(seen(Some(S::Initialising))), B::Forget, "another is in its place");
    assert_eq!(machine.observe(Observed { present: false, online: false, frontend: None }), B::Forget);
}

#[test]
fn a_vanished_directory_is_forgotten_after_what_is_held_was_released() {
    let gone = Observed { present: false, online: false, frontend: None };
    for machine in [Backend::new(), refused(), released(), closed()] {
        assert_eq!(machine.clone().observe(gone), B::Forget);
    }
    for machine in [offered(), connecting(), connected()] {
        let mut machine = machine;
        assert!(machine.holds());
        assert_eq!(machine.observe(gone), RELEASE);
        machine.released();
        assert!(!machine.holds());
        assert_eq!(machine.observe(gone), B::Forget);
    }
}

#[test]
fn only_a_held_device_is_abandoned_and_once() {
    for mut machine in [Backend::new(), refused(), released(), closed()] {
        assert!(!machine.abandon());
    }
    assert!(connecting().abandon());
    let mut machine = connected();
    assert!(machine.abandon());
    assert!(!machine.abandon());
    machine.released();
    assert_eq!(machine.observe(seen(Some(S::Connected))), B::Nothing, "it waits for the frontend to end");
    assert_eq!(machine.observe(seen(Some(S::Closed))), B::Close);
}
