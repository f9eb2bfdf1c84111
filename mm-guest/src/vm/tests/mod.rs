//! The program's memory on the fake machine.

mod model;
mod random;

use super::*;
use crate::fake::{Fake, Mapped};
use crate::machine::{Lender, Prot, VolumeError};

/// Pages of the test's volume.
const VOLUME: u64 = 64;
/// Where tests map things.
const BASE: u64 = 0x10_0000;

/// A byte of the volume: different in each page and place.
fn volume_byte(page: u64, offset: u64) -> u8 {
    (page * 31 + offset * 7 + 1) as u8
}

fn fake(frames: u64) -> Fake {
    let volume = (0..VOLUME * 4096).map(|at| volume_byte(at / 4096, at % 4096)).collect();
    Fake::new(frames, volume)
}

fn memory(frames: u64) -> Memory<Fake> {
    Memory::new(fake(frames), 8)
}

/// A request to map pages of the volume as a file that starts at page 10 and has 20.
fn file(first: u64, pages: u64, rights: Rights) -> MapRequest {
    let backing =
        Backing::Volume { volume: 10 + first, valid: 20 - first, file_page: first, name: NameId(0) };
    MapRequest { backing, ..MapRequest::anonymous(pages * PAGE_SIZE, rights) }
}

const RX: Rights = Rights::from_bits(5);
const RO: Rights = Rights::from_bits(1);

#[test]
fn a_read_of_a_file_is_shared_and_its_neighbours_come_along_without_a_request() {
    let mut memory = memory(4);
    memory.map(&file(0, 20, RX).at(BASE)).unwrap();
    memory.fault(BASE + 5 * PAGE_SIZE, Access::Fetch).unwrap();
    // The window is four pages from 15 on; the block of eight has three of them.
    assert_eq!(memory.machine.lends, 1);
    assert_eq!(memory.machine.shared_places(), 3);
    assert_eq!(memory.counts.mapped, 3);
    assert!(memory.machine.mapped.values().all(|mapped| matches!(mapped, Mapped::Shared(_, true))));
    // Page 8 lies in the next block but is held: no request.
    memory.fault(BASE + 8 * PAGE_SIZE, Access::Read).unwrap();
    assert_eq!((memory.machine.lends, memory.counts.local, memory.counts.asked), (1, 1, 1));
    assert_eq!(memory.machine.used, 0);
    let mut bytes = [0; 3];
    memory.read_bytes(BASE + 8 * PAGE_SIZE + 4094, &mut bytes).unwrap();
    assert_eq!(bytes, [volume_byte(18, 4094), volume_byte(18, 4095), volume_byte(19, 0)]);
}

#[test]
fn a_write_to_a_shared_page_makes_it_private_and_leaves_the_volume_as_it_was() {
    let mut memory = memory(4);
    memory.map(&file(0, 4, Rights::READ_WRITE).at(BASE)).unwrap();
    memory.fault(BASE, Access::Read).unwrap();
    let before = memory.machine.volume.clone();
    memory.fault(BASE, Access::Write).unwrap();
    memory.write_bytes(BASE + 1, &[1, 2, 3]).unwrap();
    let mut bytes = [0; 5];
    memory.read_bytes(BASE, &mut bytes).unwrap();
    assert_eq!(bytes, [volume_byte(10, 0), 1, 2, 3, volume_byte(10, 4)]);
    assert_eq!(memory.machine.volume, before);
    assert_eq!((memory.counts.cow, memory.resident()), (1, (1, 3)));
}

#[test]
fn a_first_touch_that_writes_copies_at_once() {
    let mut memory = memory(4);
    memory.map(&file(0, 4, Rights::READ_WRITE).at(BASE)).unwrap();
    memory.fault(BASE + 4096, Access::Write).unwrap();
    assert_eq!((memory.counts.copied, memory.counts.cow, memory.resident()), (1, 0, (1, 0)));
}

#[test]
fn refused_pages_are_copied_and_failed_maps_are_asked_for_again() {
    let mut memory = memory(4);
    memory.map(&file(0, 20, RO).at(BASE)).unwrap();
    memory.machine.failing_maps = 1;
    memory.fault(BASE, Access::Read).unwrap();
    assert_eq!((memory.machine.lends, memory.counts.copied), (2, 0));
    memory.machine.failing_maps = 100;
    memory.fault(BASE + 16 * PAGE_SIZE, Access::Read).unwrap();
    assert_eq!(memory.counts.copied, 1);
    memory.machine.window = 0;
    memory.machine.held.clear();
    memory.fault(BASE + 12 * PAGE_SIZE, Access::Read).unwrap();
    assert_eq!(memory.counts.copied, 2);
    let mut byte = [0];
    memory.read_bytes(BASE + 12 * PAGE_SIZE, &mut byte).unwrap();
    assert_eq!(byte, [volume_byte(22, 0)]);
}

#[test]
fn each_fault_that_cannot_be_served_has_its_name() {
    let mut memory = memory(1);
    memory.map(&file(18, 4, RO).at(BASE)).unwrap();
    memory.map(&MapRequest::anonymous(PAGE_SIZE, Rights::NONE).at(BASE + 0x10_0000)).unwrap();
    let more = MapRequest { uncharged: true, ..MapRequest::anonymous(2 * PAGE_SIZE, Rights::READ_WRITE) };
    memory.map(&more.at(BASE + 0x20_0000)).unwrap();
    assert_eq!(memory.fault(0, Access::Read), Err(Fault::NotMapped));
    assert_eq!(memory.fault(u64::MAX, Access::Read), Err(Fault::NotMapped));
    assert_eq!(memory.fault(BASE, Access::Write), Err(Fault::Forbidden));
    assert_eq!(memory.fault(BASE, Access::Fetch), Err(Fault::Forbidden));
    assert_eq!(memory.fault(BASE + 0x10_0000, Access::Read), Err(Fault::Forbidden));
    assert_eq!(memory.fault(BASE + 2 * PAGE_SIZE, Access::Read), Err(Fault::BeyondEnd));
    memory.machine.unreadable.insert(29);
    assert_eq!(memory.fault(BASE + PAGE_SIZE, Access::Read), Err(Fault::Volume(VolumeError::Unreadable)));
    memory.fault(BASE + 0x20_0000, Access::Write).unwrap();
    assert_eq!(memory.fault(BASE + 0x20_1000, Access::Write), Err(Fault::NoMemory));
    memory.machine.gone = true;
    memory.machine.unreadable.clear();
    assert_eq!(memory.fault(BASE + PAGE_SIZE, Access::Read), Err(Fault::Volume(VolumeError::Gone)));
    assert_eq!(memory.counts.refused, 9);
}

#[test]
fn the_stack_grows_to_its_limit_and_no_further() {
    let mut memory = memory(4000);
    let request = MapRequest { grows_down: true, ..MapRequest::anonymous(PAGE_SIZE, Rights::READ_WRITE) };
    memory.map(&request.at(STACK_TOP - PAGE_SIZE)).unwrap();
    memory.fault(STACK_TOP - 100 * PAGE_SIZE, Access::Write).unwrap();
    assert!(memory.vmas.covers((STACK_TOP - 100 * PAGE_SIZE) / PAGE_SIZE..STACK_TOP / PAGE_SIZE));
    memory.fault(STACK_TOP - STACK_LIMIT, Access::Write).unwrap();
    assert_eq!(memory.fault(STACK_TOP - STACK_LIMIT - 1, Access::Write), Err(Fault::NotMapped));
}

#[test]
fn a_run_that_is_wanted_back_is_unmapped_everywhere_and_comes_again_on_demand() {
    let mut memory = memory(8);
    memory.map(&file(0, 8, Rights::READ_WRITE).at(BASE)).unwrap();
    memory.map(&file(4, 8, RX).at(BASE + 0x10_0000)).unwrap();
    for page in 0..8 {
        memory.read_bytes(BASE + page * PAGE_SIZE, &mut [0]).unwrap();
        memory.read_bytes(BASE + 0x10_0000 + page * PAGE_SIZE, &mut [0]).unwrap();
    }
    memory.fault(BASE + 5 * PAGE_SIZE, Access::Write).unwrap();
    assert_eq!(memory.distinct_shared(), Some(12));
    memory.drop_volume_run(VolumePage(14), 3);
    // Three places of the second mapping and two of the first: the third had been written.
    assert_eq!(memory.resident(), (1, 10));
    memory.machine.revoke_done(VolumePage(14), 3);
    memory.fault(BASE + 4 * PAGE_SIZE, Access::Read).unwrap();
    assert_eq!(memory.counts.refused, 0);
}

#[test]
fn the_heap_moves_and_what_it_gives_up_is_freed() {
    let mut memory = memory(64);
    memory.heap = BASE..BASE;
    assert_eq!(memory.set_break(0), BASE);
    assert_eq!(memory.set_break(BASE + 5000), BASE + 5000);
    memory.write_bytes(BASE + 4999, &[9]).unwrap();
    assert_eq!(memory.write_bytes(BASE + 2 * PAGE_SIZE, &[9]), Err(Errno::FAULT));
    memory.map(&MapRequest::anonymous(PAGE_SIZE, Rights::READ_WRITE).at(BASE + 4 * PAGE_SIZE)).unwrap();
    assert_eq!(memory.set_break(BASE + 5 * PAGE_SIZE), BASE + 5000, "something is in the way");
    assert_eq!(memory.set_break(BASE), BASE);
    assert_eq!(memory.machine.used, 0);
    assert_eq!(memory.set_break(1 << 46), BASE, "more than there is");
}

#[test]
fn a_large_range_costs_what_is_in_it_and_not_its_length() {
    let mut memory = memory(64);
    let huge = MapRequest { uncharged: true, ..MapRequest::anonymous(1 << 46, Rights::READ_WRITE) };
    let at = memory.map(&huge).unwrap();
    for place in [0, 1 << 30, (1 << 46) - 1] {
        memory.write_bytes(at + place, &[1]).unwrap();
    }
    assert_eq!(memory.map(&MapRequest { uncharged: false, ..huge }).unwrap_err(), Errno::NOMEM);
    memory.protect(at, 1 << 46, RO).unwrap();
    assert!(memory.machine.mapped.values().all(|mapped| matches!(mapped, Mapped::Private(_, Prot::Read))));
    memory.unmap(at, 1 << 46).unwrap();
    assert_eq!((memory.machine.used, memory.resident()), (0, (0, 0)));
}

#[test]
fn a_move_that_finds_no_memory_for_tables_loses_nothing() {
    let mut memory = memory(64);
    let at = memory.map(&MapRequest::anonymous(4 * PAGE_SIZE, Rights::READ_WRITE).at(BASE)).unwrap();
    memory.map(&MapRequest::anonymous(PAGE_SIZE, Rights::NONE).at(BASE + 4 * PAGE_SIZE)).unwrap();
    memory.write_bytes(at, b"one").unwrap();
    memory.machine.table_budget = Some(1);
    memory.write_bytes(at + 3 * PAGE_SIZE, b"two").unwrap();
    assert_eq!(memory.remap(at, 4 * PAGE_SIZE, 8 * PAGE_SIZE, 1, 0), Err(Errno::NOMEM));
    memory.machine.table_budget = None;
    let mut bytes = [0; 3];
    memory.read_bytes(at, &mut bytes).unwrap();
    assert_eq!(&bytes, b"one");
    memory.read_bytes(at + 3 * PAGE_SIZE, &mut bytes).unwrap();
    assert_eq!(&bytes, b"two");
    assert_eq!(memory.vmas.iter().count(), 2);
    let moved = memory.remap(at, 4 * PAGE_SIZE, 8 * PAGE_SIZE, 1, 0).unwrap();
    memory.read_bytes(moved + 3 * PAGE_SIZE, &mut bytes).unwrap();
    assert_eq!(&bytes, b"two");
    assert_eq!(memory.machine.used, 2);
}

#[test]
fn a_shared_page_of_a_file_in_memory_is_the_file() {
    let mut memory = memory(64);
    let store = memory.store.create().unwrap();
    memory.write_store(store, 0, &[1; 5000]).unwrap();
    let shared = |first| MapRequest {
        shared: true,
        backing: Backing::Stored { file: store, file_page: first, shared: true, name: NameId(0) },
        ..MapRequest::anonymous(2 * PAGE_SIZE, Rights::READ_WRITE)
    };
    memory.map(&shared(0).at(BASE)).unwrap();
    memory.map(&shared(1).at(BASE + 0x10_0000)).unwrap();
    memory.write_bytes(BASE + 4096, b"abc").unwrap();
    // The other place, the file, and back.
    let mut bytes = [0; 3];
    memory.read_bytes(BASE + 0x10_0000, &mut bytes).unwrap();
    assert_eq!(&bytes, b"abc");
    memory.write_store(store, 4097, b"X").unwrap();
    memory.read_bytes(BASE + 4096, &mut bytes).unwrap();
    assert_eq!(&bytes, b"aXc");
    // What nobody may read is read through the file all the same.
    memory.protect(BASE, 2 * PAGE_SIZE, Rights::NONE).unwrap();
    assert_eq!(memory.store.read(&mut memory.machine, store, 4096, &mut bytes), 3);
    assert_eq!(&bytes, b"aXc");
    // Behind the end there is nothing, and a shorter file takes its pages along.
    assert_eq!(memory.fault(BASE + 0x10_1000, Access::Read), Err(Fault::BeyondEnd));
    memory.truncate_store(store, 10).unwrap();
    assert_eq!(memory.fault(BASE + 0x10_0000, Access::Read), Err(Fault::BeyondEnd));
    memory.truncate_store(store, 5000).unwrap();
    memory.read_bytes(BASE + 0x10_0000, &mut bytes).unwrap();
    assert_eq!(bytes, [0; 3]);
    memory.clear();
    memory.delete_store(store);
    assert_eq!(memory.machine.used, 0);
}
