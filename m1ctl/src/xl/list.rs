//! `xl list -v`, the one place where a domain's end and its reason are shown.

use super::{OTHERS, run};
use crate::failure::{Failure, Result};

/// How a domain ended (`SHUTDOWN_*` of xen/include/public/sched.h).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Ended {
    Poweroff,
    Reboot,
    Suspend,
    Crash,
    /// A watchdog, a soft reset, or what is not known here.
    Other,
}

/// A row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Domain {
    pub(crate) name: String,
    pub(crate) domid: u16,
    /// Only if it has ended and is still there.
    pub(crate) ended: Option<Ended>,
    pub(crate) dying: bool,
}

/// All domains.
pub(crate) fn domains() -> Result<Vec<Domain>> {
    let text = run(&["list", "-v"], OTHERS)?;
    parse(&text).ok_or_else(|| Failure::Host(format!("xl list -v says {text:?}")))
}

/// Cells from the right: label, reason, UUID, time, state, VCPUs, memory, ID; a name may have blanks.
pub(super) fn parse(text: &str) -> Option<Vec<Domain>> {
    let (heading, rest) = text.split_once('\n')?;
    if !["Name", "State", "UUID", "Reason-Code"].iter().all(|column| heading.contains(column)) {
        return None;
    }
    rest.lines().filter(|line| !line.trim().is_empty()).map(row).collect()
}

fn row(line: &str) -> Option<Domain> {
    let cells: Vec<&str> = line.split_whitespace().collect();
    let from_right = |place: usize| cells.len().checked_sub(place).and_then(|at| cells.get(at));
    let state = from_right(5)?;
    let ended = (state.contains('s') || state.contains('c')).then(|| match *from_right(2).unwrap_or(&"-") {
        "0" => Ended::Poweroff,
        "1" => Ended::Reboot,
        "2" => Ended::Suspend,
        "3" => Ended::Crash,
        _ => Ended::Other,
    });
    Some(Domain {
        name: cells[..cells.len().checked_sub(8)?].join(" "),
        domid: from_right(8)?.parse().ok()?,
        ended,
        dying: state.contains('d'),
    })
}
