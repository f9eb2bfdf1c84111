//! What can be asked.

use super::reply::{Answer, Done, Refused};
use super::{does, exchange, frozen, says};
use crate::m1::M1;

/// The arguments of a request.
pub(super) type Words<'a> = core::str::SplitAsciiWhitespace<'a>;

/// A verb.
struct Verb {
    name: &'static str,
    /// How it is asked; docs/CONTROL.md says what it does.
    usage: &'static str,
    run: fn(&mut M1, &mut Words<'_>) -> Answer,
}

const VERBS: [Verb; 23] = [
    Verb { name: "ping", usage: "ping", run: ping },
    Verb { name: "version", usage: "version", run: version },
    Verb { name: "verbs", usage: "verbs", run: verbs },
    Verb { name: "more", usage: "more OFFSET", run: more },
    Verb { name: "status", usage: "status", run: says::status },
    Verb { name: "overlays", usage: "overlays", run: says::overlays },
    Verb { name: "overlay-rm", usage: "overlay-rm NAME", run: does::remove_overlay },
    Verb { name: "freeze", usage: "freeze DOMID NAME [persist]", run: frozen::freeze },
    Verb { name: "progress", usage: "progress DOMID NAME", run: frozen::progress },
    Verb { name: "cancel", usage: "cancel DOMID NAME", run: frozen::cancel },
    Verb { name: "rm", usage: "rm VOLUME SNAPSHOT", run: frozen::remove },
    Verb { name: "export", usage: exchange::EXPORT, run: exchange::export },
    Verb { name: "export-pages", usage: exchange::EXPORT_PAGES, run: exchange::export_pages },
    Verb { name: "import", usage: exchange::IMPORT, run: exchange::import },
    Verb { name: "import-pages", usage: exchange::IMPORT_PAGES, run: exchange::import_pages },
    Verb { name: "import-disk", usage: exchange::IMPORT_DISK, run: exchange::import_disk },
    Verb { name: "import-end", usage: exchange::IMPORT_END, run: exchange::import_end },
    Verb { name: "import-progress", usage: exchange::IMPORT_PROGRESS, run: exchange::import_progress },
    Verb { name: "import-cancel", usage: exchange::IMPORT_CANCEL, run: exchange::import_cancel },
    Verb { name: "snapshots", usage: "snapshots", run: frozen::list },
    Verb { name: "limits", usage: "limits", run: says::limits },
    Verb { name: "trace", usage: "trace DOMID", run: says::trace },
    Verb { name: "times", usage: "times DOMID", run: says::times },
];

/// Carries out a request.
pub(super) fn perform(m1: &mut M1, mut words: Words<'_>) -> Answer {
    let name = words.next().ok_or(Refused::Empty)?;
    let verb = VERBS.iter().find(|verb| verb.name == name).ok_or(Refused::Verb)?;
    (verb.run)(m1, &mut words)
}

/// The next argument.
pub(super) fn argument<'a>(arguments: &mut Words<'a>, usage: &'static str) -> Result<&'a str, Refused> {
    arguments.next().ok_or(Refused::Usage(usage))
}

/// The next argument as a number.
pub(super) fn number<T: core::str::FromStr>(
    arguments: &mut Words<'_>,
    usage: &'static str,
) -> Result<T, Refused> {
    xenstore::number(argument(arguments, usage)?.as_bytes()).ok_or(Refused::Usage(usage))
}

/// The answer is in the window.
pub(super) fn bulk(len: Option<usize>) -> Answer {
    len.map(Done::Bytes).ok_or(Refused::TooLong)
}

fn ping(_: &mut M1, _: &mut Words<'_>) -> Answer {
    Ok(Done::Nothing)
}

fn version(_: &mut M1, _: &mut Words<'_>) -> Answer {
    Ok(Done::Version)
}

fn verbs(m1: &mut M1, _: &mut Words<'_>) -> Answer {
    bulk(m1.control.window.fill(|out| VERBS.iter().try_for_each(|verb| writeln!(out, "{}", verb.usage))))
}

fn more(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let offset = number(arguments, "more OFFSET")?;
    Ok(Done::Bytes(m1.control.window.show(offset)))
}
