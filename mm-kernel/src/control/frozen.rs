//! Verbs about snapshots: order, progress, cancel, remove, list. None waits: a freeze goes on in the serve loop, and is asked after.

use mm_engine::SnapshotState;
use mm_http::json;
use xen_sys::DomId;

use super::reply::{Answer, Done, Refused};
use super::verbs::{Words, argument, bulk, number};
use crate::m1::M1;
use crate::snapshots::{Persist, Progress};

const FREEZE: &str = "freeze DOMID NAME [persist]";
const PROGRESS: &str = "progress DOMID NAME";
const CANCEL: &str = "cancel DOMID NAME";
const REMOVE: &str = "rm VOLUME SNAPSHOT";

/// Orders a domain to be frozen.
pub(super) fn freeze(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let (domain, name) = (DomId(number(arguments, FREEZE)?), argument(arguments, FREEZE)?);
    let persist = match arguments.next() {
        None => false,
        Some("persist") => true,
        Some(_) => return Err(Refused::Usage(FREEZE)),
    };
    m1.freeze(domain, name, persist).map_err(Refused::Freeze)?;
    m1.freeze_progress(domain, name).map_or(Err(Refused::NoFreeze), outcome)
}

/// How far it is.
pub(super) fn progress(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let (domain, name) = (DomId(number(arguments, PROGRESS)?), argument(arguments, PROGRESS)?);
    m1.freeze_progress(domain, name).map_or(Err(Refused::NoFreeze), outcome)
}

fn outcome(progress: Progress) -> Answer {
    match progress.state {
        SnapshotState::Ready if progress.persist == Persist::Failed => Err(Refused::NotStored),
        // One that is to last is there when it is on the store's disk.
        SnapshotState::Ready if progress.ready && progress.persist != Persist::Wanted => Ok(Done::Frozen {
            captured: progress.captured,
            kept: progress.kept,
            standstill_ns: progress.standstill,
        }),
        SnapshotState::Failed(why) => Err(Refused::NotFrozen(why)),
        SnapshotState::Free | SnapshotState::Leaving => Err(Refused::NoFreeze),
        SnapshotState::Ordered | SnapshotState::Taking | SnapshotState::Ready | SnapshotState::Away => {
            Ok(Done::Running { done: progress.captured, all: progress.announced })
        }
    }
}

/// Gives a freeze up.
pub(super) fn cancel(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let (domain, name) = (DomId(number(arguments, CANCEL)?), argument(arguments, CANCEL)?);
    if m1.cancel_freeze(domain, name) { Ok(Done::Nothing) } else { Err(Refused::NoFreeze) }
}

/// Removes a snapshot that nobody needs.
pub(super) fn remove(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let (volume, name) = (argument(arguments, REMOVE)?, argument(arguments, REMOVE)?);
    m1.remove_snapshot(volume, name).map_err(Refused::Remove)?;
    Ok(Done::Nothing)
}

/// Those that there are.
pub(super) fn list(m1: &mut M1, _: &mut Words<'_>) -> Answer {
    let now = m1.clock.now_ns();
    let (facts, _, control) = m1.facts(now);
    bulk(control.window.fill(|out| {
        json::object(out, |answer| answer.array("snapshots", |list| crate::pages::snapshots(&facts, list)))
    }))
}
