//! Words for people: what a trace calls operations and outcomes.

use crate::Status;

/// The name of an operation, from word 1 of a request; `None` for a number that has none.
#[must_use]
pub fn operation_name(operation: u32) -> Option<&'static str> {
    const NAMES: [&str; 14] = [
        "hello",
        "grant",
        "copy",
        "release",
        "listen",
        "revoke_ack",
        "report",
        "freeze",
        "capture",
        "keep",
        "commit",
        "abort",
        "hot",
        "thawed",
    ];
    NAMES.get(usize::try_from(operation).ok()?.checked_sub(1)?).copied()
}

/// The name of an outcome.
#[must_use]
pub fn status_name(status: Status) -> &'static str {
    match status {
        Status::Ok => "ok",
        Status::CopyInstead => "copy_instead",
        Status::ReadError => "read_error",
        Status::OutOfRange => "out_of_range",
        Status::BadReference => "bad_reference",
        Status::Unsupported => "unsupported",
        Status::Gone => "gone",
        Status::Revoke => "revoke",
        Status::Freeze => "freeze",
        Status::NoRoom => "no_room",
    }
}
