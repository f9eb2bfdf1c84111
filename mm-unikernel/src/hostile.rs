//! A client that lies: what Xen and M1 have to withstand. The instrument of M1's own tests, behind `hostile=` and `forge=`.

use core::fmt;

use xen::{DomId, Errno, GrantRef, PageWords, Port};
use xen_drivers::mapfront::MapFront;
use xen_drivers::vbdfront::{self, BackendHealth, Offer};
use xen_rt::Boot;
use xen_rt::foreign::ForeignWindow;
use xenstore::{Blocking, CallError, Transaction, path};

/// References of M1 that are tried, from 8 on: more than three frames of its table.
const REFERENCES: u32 = 4096;
/// Ports of M1 that are tried.
const PORTS: u32 = 512;
/// Where slots begin on a ring's page, words of one, and their number (docs/PROTOCOL.md §3).
const SLOTS_AT: usize = 16;
const SLOT_WORDS: usize = 32;
const SLOTS: u32 = 16;

/// What guessing brought.
#[derive(Default)]
pub(crate) struct Guessed {
    /// References that could be mapped for reading, and for writing.
    readable: u32,
    writable: u32,
    /// Ports that could be bound.
    ports: u32,
}

impl fmt::Display for Guessed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { readable, writable, ports } = self;
        write!(f, "guessed {REFERENCES} references: readable={readable} writable={writable}; ")?;
        write!(f, "guessed {PORTS} ports: bound={ports}")
    }
}

/// Tries to map every reference of a domain, and to bind every port. What it gets it gives back.
pub(crate) fn guess(boot: &Boot, foreign: &mut ForeignWindow, owner: DomId) -> Guessed {
    let mut guessed = Guessed::default();
    for reference in (8..).map(GrantRef).take(REFERENCES as usize) {
        let mut got = [None];
        if foreign.map(owner, &[reference], &mut got).is_ok() {
            guessed.readable += 1;
            foreign.unmap(&mut got);
        }
        let mut got = [None];
        if foreign.map_writable(owner, &[reference], &mut got).is_ok() {
            guessed.writable += 1;
            foreign.unmap(&mut got);
        }
    }
    for port in (1..=PORTS).map(Port) {
        match boot.hypervisor.evtchn_bind_interdomain(owner, port) {
            Ok(ours) => {
                guessed.ports += 1;
                let _: Result<(), Errno> = boot.hypervisor.evtchn_close(ours);
            }
            Err(_refused) => {}
        }
    }
    guessed
}

/// Breaks the ring's rules in the way of this number, after a connection as it should be:
/// 1 an index that is too far ahead, 2 an operation that there is none, 3 the release of references of others, 4 a second greeting
/// with a window that is none, 5 noise in all slots.
pub(crate) fn break_rules(boot: &Boot, link: &MapFront, ring: &PageWords, how: u32) {
    let produced = ring.load(0);
    let mut count = 1;
    match how {
        1 => count = SLOTS * 64,
        2 => slot(ring, produced, &[1, 99]),
        3 => slot(ring, produced, &[1, 4, 0, 0, 8, 512]),
        4 => slot(ring, produced, &[1, 1, 0, 0, 1, 3]),
        _ => {
            let mut noise = xen::clock::tsc();
            for index in 0..SLOTS {
                let mut words = [0; SLOT_WORDS];
                for word in &mut words {
                    // Xorshift.
                    noise ^= noise << 13;
                    noise ^= noise >> 7;
                    noise ^= noise << 17;
                    *word = u32::try_from(noise >> 32).unwrap_or(0);
                }
                slot(ring, index, &words);
            }
        }
    }
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    ring.store(0, produced.wrapping_add(count));
    let _: Result<(), Errno> = boot.hypervisor.evtchn_send(link.port());
}

/// Writes the first words of a slot; the others are zero.
fn slot(ring: &PageWords, index: u32, words: &[u32]) {
    let start = SLOTS_AT + (index % SLOTS) as usize * SLOT_WORDS;
    for offset in 0..SLOT_WORDS {
        ring.store(start + offset, words.get(offset).copied().unwrap_or(0));
    }
}

/// Waits until M1 serves the device no more: the state is watched already.
///
/// # Errors
/// [`CallError`]: it does not within the caller's patience.
pub(crate) fn wait_closed(calls: &mut Blocking<'_>, offer: &Offer) -> Result<BackendHealth, CallError> {
    loop {
        let health = vbdfront::health(calls, offer)?;
        if health != BackendHealth::Serving {
            return Ok(health);
        }
        calls.next_watch(|_| ())?;
    }
}

/// Turns a frontend that dom0 made for another backend into one that names `m1`, lets `m1` read it, and goes through the states of a
/// client that connects.
///
/// # Errors
/// [`CallError`]: the frontend is not there.
pub(crate) fn forge(calls: &mut Blocking<'_>, own: DomId, devid: u32, m1: DomId) -> Result<(), CallError> {
    let none = Transaction::NONE;
    let too_long = |_| CallError::Unexpected;
    let (DomId(own), DomId(m1)) = (own, m1);
    let front = path(format_args!("device/vbd/{devid}")).map_err(too_long)?;
    let node = |key: &str| path(format_args!("{front}/{key}")).map_err(too_long);
    let backend = path(format_args!("/local/domain/{m1}/backend/vbd/{own}/{devid}")).map_err(too_long)?;
    calls.write(none, &node("backend")?, backend.as_bytes())?;
    let id = path(format_args!("{m1}")).map_err(too_long)?;
    calls.write(none, &node("backend-id")?, id.as_bytes())?;
    let readers =
        [path(format_args!("n{own}")).map_err(too_long)?, path(format_args!("r{m1}")).map_err(too_long)?];
    for state in ["1", "3", "4", "5", "6", "1", "4"] {
        calls.write(none, &node("state")?, state.as_bytes())?;
        calls.set_perms(none, &node("state")?, &readers.each_ref().map(|reader| reader.as_str()))?;
        calls.set_perms(none, &front, &readers.each_ref().map(|reader| reader.as_str()))?;
    }
    Ok(())
}
