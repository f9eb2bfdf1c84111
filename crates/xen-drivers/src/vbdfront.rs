//! A client's side of a device of M1's: finds what M1 published, says that it has connected, and watches how M1 is.
//!
//! Used by kernels that have nothing else to do while they wait ([`Blocking`]); the caller maps the pages and binds the port.

use xen::{DomId, GrantRef, Port};
use xenstore::{Blocking, CallError, PathBuf, Transaction, XenbusState, path};

/// Why there is no connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ConnectError {
    /// Xenstore.
    Call(CallError),
    /// The backend went away, or closed.
    Gone,
    /// The backend serves the device, but not with the map protocol: it published no `map-ring-ref`.
    NoMapService,
}

impl core::fmt::Display for ConnectError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Call(error) => error.fmt(f),
            Self::Gone => f.write_str("the backend is gone"),
            Self::NoMapService => f.write_str("the backend does not offer the map service"),
        }
    }
}

impl core::error::Error for ConnectError {}

impl From<CallError> for ConnectError {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<xenstore::TooLong> for ConnectError {
    fn from(_: xenstore::TooLong) -> Self {
        Self::Call(CallError::Unexpected)
    }
}

/// What M1 published for a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Offer {
    /// Number of the device.
    pub devid: u32,
    /// M1, as dom0 named it.
    pub backend: DomId,
    /// The map ring's page, to be mapped writable.
    pub map_ring: GrantRef,
    /// The port to bind.
    pub port: Port,
    /// The info page, to be mapped read-only.
    pub info_page: GrantRef,
    backend_path: PathBuf,
}

/// How M1 is, as far as xenstore says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BackendHealth {
    /// Serves.
    Serving,
    /// Wants to end: unmap everything, then [`close`].
    Ending,
    /// Has ended or vanished. What is mapped stays valid.
    Gone,
}

/// The token of the watch that [`offer`] leaves behind: the device's own and its backend's state.
pub const WATCH_TOKEN: &str = "map-device";

/// Waits until M1 has published what the client needs, and reads it. The time is that of the caller's wait.
///
/// # Errors
/// See [`ConnectError`].
pub fn offer(calls: &mut Blocking<'_>, devid: u32) -> Result<Offer, ConnectError> {
    let front = path(format_args!("device/vbd/{devid}"))?;
    let backend_path = calls.read_text(&path(format_args!("{front}/backend"))?)?;
    let backend = DomId(calls.read_number(&path(format_args!("{front}/backend-id"))?)?);
    let state = path(format_args!("{backend_path}/state"))?;
    let seen = calls.wait_for_state(&state, |state| {
        !matches!(state, Some(XenbusState::Initialising | XenbusState::Unknown))
    })?;
    match seen {
        Some(XenbusState::InitWait | XenbusState::Initialised | XenbusState::Connected) => {}
        _ => return Err(ConnectError::Gone),
    }
    calls.watch(&state, WATCH_TOKEN)?;
    let mut published = |key: &str| {
        let value = calls.read_number(&path(format_args!("{backend_path}/{key}"))?);
        value.map_err(|error| if error.is_missing() { ConnectError::NoMapService } else { error.into() })
    };
    let map_ring = GrantRef(published("map-ring-ref")?);
    let port = Port(published("map-port")?);
    let info_page = GrantRef(published("info-ref")?);
    Ok(Offer { devid, backend, map_ring, port, info_page, backend_path })
}

/// Says that everything is mapped and bound, and waits until M1 has seen it.
///
/// # Errors
/// See [`ConnectError`].
pub fn connect(calls: &mut Blocking<'_>, offer: &Offer) -> Result<(), ConnectError> {
    write_state(calls, offer, XenbusState::Connected)?;
    let state = path(format_args!("{}/state", offer.backend_path))?;
    let seen = calls.wait_for_state(&state, |state| {
        !matches!(state, Some(XenbusState::Initialising | XenbusState::InitWait | XenbusState::Initialised))
    })?;
    if seen == Some(XenbusState::Connected) { Ok(()) } else { Err(ConnectError::Gone) }
}

/// How M1 is: after an event with [`WATCH_TOKEN`], or when in doubt.
///
/// # Errors
/// See [`CallError`].
pub fn health(calls: &mut Blocking<'_>, offer: &Offer) -> Result<BackendHealth, CallError> {
    let state = path(format_args!("{}/state", offer.backend_path)).map_err(|_| CallError::Unexpected)?;
    match calls.read_state(&state) {
        Ok(Some(XenbusState::Connected)) => Ok(BackendHealth::Serving),
        Ok(Some(XenbusState::Closing)) => Ok(BackendHealth::Ending),
        Ok(_) => Ok(BackendHealth::Gone),
        Err(error) if error.is_missing() => Ok(BackendHealth::Gone),
        Err(error) => Err(error),
    }
}

/// Says that nothing of M1's is mapped any more. The ring's and the info page's own maps may go after this.
///
/// # Errors
/// See [`CallError`]; a directory that dom0 has removed already is none.
pub fn close(calls: &mut Blocking<'_>, offer: &Offer) -> Result<(), CallError> {
    let state = path(format_args!("{}/state", offer.backend_path)).map_err(|_| CallError::Unexpected)?;
    calls.unwatch(&state, WATCH_TOKEN)?;
    match write_state(calls, offer, XenbusState::Closed) {
        Err(error) if error.is_missing() => Ok(()),
        outcome => outcome,
    }
}

fn write_state(calls: &mut Blocking<'_>, offer: &Offer, state: XenbusState) -> Result<(), CallError> {
    let node = path(format_args!("device/vbd/{}/state", offer.devid)).map_err(|_| CallError::Unexpected)?;
    calls.write(Transaction::NONE, &node, state.value().as_bytes())
}
