//! A hostile client on its map ring: any word of the shared page at any time, and every reference tried.
//!
//! The ring's M1 end and the engine are the real ones; grant table, disk and the serve loop are small models. A second client, of
//! another group, asks honestly for pages of its own meanwhile, so that the two compete for memory and references.

mod machine;

use mm_engine::RingId;
use mm_proto::{AbortReason, Bitmap, FROZEN_FIRST, Request, RequestBody, SLOT_WORDS};
use xen_ring::{Back, PageWords};

use super::input::Input;
use machine::{Machine, PAGES, shape};

type MapRing = Back<SLOT_WORDS, SLOT_WORDS>;

thread_local! {
    /// The ring's page; [`Back::init`] clears it.
    static PAGE: &'static PageWords = Box::leak(Box::default());
}

/// The hostile client's device as M1 has it.
struct Device {
    back: MapRing,
    ring: RingId,
}

/// Whatever the client does: no panic, no mistake of the engine's, its ring is closed by value, it maps nothing but pages of its
/// own volumes, the other client is answered, and in the end everything is back where it was.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(shape) = shape(&mut input) else { return };
    let mut tables = machine::Memory::new(&shape);
    let mut machine = Machine::new(&shape, tables.tables());
    let page = PAGE.with(|page| *page);
    let mut device = attach(&mut machine, page);
    let mut produced = 0;
    while step(&mut input, &mut machine, &mut device, page, &mut produced).is_some() {
        machine.check();
    }
    machine.end(device.map(|device| device.ring));
}

fn attach(machine: &mut Machine<'_>, page: &'static PageWords) -> Option<Device> {
    let ring = machine.attach_hostile()?;
    Some(Device { back: MapRing::init(page), ring })
}

/// One deed of the client, of the world, or of M1. `None`: the input is at its end.
fn step(
    input: &mut Input<'_>,
    machine: &mut Machine<'_>,
    device: &mut Option<Device>,
    page: &'static PageWords,
    produced: &mut u32,
) -> Option<()> {
    match input.below(16)? {
        // Any word of the page.
        0 => page.store(usize::from(input.half()?) % 1024, input.word()?),
        // A slot that looks like a request, shown as the ring says.
        1..=4 => {
            put(page, *produced, &request(input)?);
            *produced = produced.wrapping_add(1);
            page.store(0, *produced);
        }
        // Only shown: the slots hold what they held.
        5 => {
            *produced = produced.wrapping_add(u32::from(input.below(18)?));
            page.store(0, *produced);
        }
        6 | 7 => serve(machine, device),
        8 => machine.read_ends(input.byte()?),
        9 => machine.hostile_maps(input.byte()?),
        10 => machine.hostile_unmaps(input.byte()?),
        11 => machine.quiet_asks(u64::from(input.byte()?) % PAGES),
        12 => machine.background(input.byte()?),
        // It is to be frozen, and may know.
        13 | 14 => {
            if let Some(device) = device {
                machine.order(device.ring);
            }
        }
        // The device goes; perhaps another one comes for the same domain.
        _ => {
            if let Some(gone) = device.take() {
                machine.detach(gone.ring);
            }
            *device = attach(machine, page);
            *produced = 0;
        }
    }
    Some(())
}

/// M1 takes what is on the ring, as the serve loop does: at most a ring's worth, and nothing after a fault.
fn serve(machine: &mut Machine<'_>, device: &mut Option<Device>) {
    let Some(Device { back, ring }) = device else { return };
    let ring = *ring;
    let mut closed = false;
    for _ in 0..mm_proto::RING_SLOTS {
        match back.pop_request() {
            Ok(Some(words)) => closed = machine.take(ring, &words).is_err(),
            Ok(None) => break,
            Err(_) => {
                machine.engine.blame(ring);
                closed = true;
            }
        }
        if closed {
            break;
        }
    }
    for response in machine.replies(ring) {
        // Each request that was taken has a place for its answer.
        assert!(closed || back.push_response(&response.encode()).is_ok(), "no place for a response");
    }
    if closed {
        machine.detach(ring);
        *device = None;
    } else {
        let _ = back.publish();
        let _ = back.final_check();
    }
}

fn put(page: &PageWords, index: u32, words: &[u32; SLOT_WORDS]) {
    let slot = (index % mm_proto::RING_SLOTS) as usize;
    for (word, value) in words.iter().enumerate() {
        page.store(16 + slot * SLOT_WORDS + word, *value);
    }
}

fn request(input: &mut Input<'_>) -> Option<[u32; SLOT_WORDS]> {
    let id = input.word()?;
    let page = u64::from(input.byte()?) % (PAGES + 2);
    let frozen = FROZEN_FIRST + page % 8;
    let bits = |input: &mut Input<'_>| Some(Bitmap([u64::from(input.half()?), 0, 0, 0, 0, 0, 0, 0]));
    let body = match input.below(18)? {
        0 => RequestBody::Hello { version: u32::from(input.below(3)?), window: 1 << input.below(11)? },
        1..=3 => RequestBody::Grant { page, wanted: input.word()? },
        4 => RequestBody::Copy { page, reference: input.word()? },
        5 => RequestBody::Release { reference: input.word()?, count: 1 << input.below(10)? },
        6 => RequestBody::Listen,
        7 => RequestBody::RevokeAck { reference: input.word()?, count: 1 << input.below(10)? },
        8 => RequestBody::Freeze { pages: u64::from(input.byte()?) % 24 },
        9 | 10 => {
            let word = input.word()?;
            let references = core::array::from_fn(|at| word.rotate_left(u32::try_from(at).unwrap_or(0)));
            RequestBody::Capture { count: 1 + u32::from(input.below(16)?), references }
        }
        11 => RequestBody::Keep { page: FROZEN_FIRST, bitmap: bits(input)? },
        12 => RequestBody::Commit { page: frozen, standstill: input.wide()? },
        13 => RequestBody::Abort { reason: AbortReason::Memory },
        14 => RequestBody::Hot { page: if page & 1 == 0 { 0 } else { FROZEN_FIRST }, bitmap: bits(input)? },
        15 => RequestBody::Thawed { duration: input.wide()?, connected: 0 },
        16 => RequestBody::Grant { page: frozen, wanted: input.word()? },
        _ => {
            let figure = input.wide()?;
            RequestBody::Report {
                written: figure,
                kernel: figure,
                mapped: 0,
                local_faults: figure,
                cow_breaks: 0,
                ahead: 0,
                ahead_used: 0,
                reserve: figure,
                populate_failed: 0,
            }
        }
    };
    Some(Request { id, body }.encode())
}
