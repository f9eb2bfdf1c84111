//! Which device a path is about.

use super::offer::KEYS;

/// What changed, as far as a watch event's path says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// Anything: look for devices everywhere.
    All,
    /// Anything of one client.
    Client(u16),
    /// One device.
    Device(u16, u32),
    /// Not ours.
    Elsewhere,
}

/// A path of the watch on `backend/vbd`, which is relative to our home.
pub(super) fn of_backend(path: &str) -> Place {
    match path.strip_prefix("backend/vbd") {
        Some("") => Place::All,
        Some(rest) => rest.strip_prefix('/').map_or(Place::Elsewhere, below_backend),
        None => Place::Elsewhere,
    }
}

fn below_backend(rest: &str) -> Place {
    let mut parts = rest.split('/');
    match (parts.next().and_then(number), parts.next(), parts.next()) {
        (Some(client), None, None) => Place::Client(client),
        // Nodes that only we write: no news.
        (Some(_), Some(_), Some(key)) if KEYS.contains(&key) => Place::Elsewhere,
        (Some(client), Some(devid), _) => {
            number(devid).map_or(Place::Elsewhere, |devid| Place::Device(client, devid))
        }
        _ => Place::Elsewhere,
    }
}

/// A path of the watch on `/local/domain`.
pub(super) fn of_frontend(path: &str) -> Place {
    let Some(rest) = path.strip_prefix("/local/domain") else { return Place::Elsewhere };
    let mut parts = rest.split('/').skip(1);
    let Some(client) = parts.next() else { return Place::All };
    let Some(client) = number(client) else { return Place::Elsewhere };
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (None, ..) | (Some("device"), None, ..) | (Some("device"), Some("vbd"), None, _) => {
            Place::Client(client)
        }
        // Of what a frontend writes only its state is of interest to us (and its directory, when it vanishes).
        (Some("device"), Some("vbd"), Some(devid), None | Some("state")) => {
            number(devid).map_or(Place::Elsewhere, |devid| Place::Device(client, devid))
        }
        _ => Place::Elsewhere,
    }
}

pub(super) fn number<T: core::str::FromStr>(text: &str) -> Option<T> {
    xenstore::number(text.as_bytes())
}
