//! Verbs that change something.

use super::reply::{Answer, Done, Refused};
use super::verbs::{Words, argument};
use crate::m1::M1;

/// Deletes an overlay that no client has.
pub(super) fn remove_overlay(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let name = argument(arguments, "overlay-rm NAME")?;
    let overlays = m1.overlays.as_deref_mut().ok_or(Refused::NoStore)?;
    match overlays.delete(name) {
        Ok(()) => {
            log::info!("store: overlay {name} is deleted");
            Ok(Done::Nothing)
        }
        Err(refused) => Err(Refused::Overlay(refused)),
    }
}
