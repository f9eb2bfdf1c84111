//! The parts that need no Xen.

use std::sync::atomic::{AtomicUsize, Ordering};

use xen_ring::PageWords;
use xen_sys::{Mfn, PAGE_SIZE, Pfn};

use crate::machine::{LINKS, Slot};
use crate::{BootMemory, copy_page, layout, pte, zero_page};

/// Memory of the host, as boot would hand it over.
fn memory(pages: usize) -> (BootMemory, usize, usize) {
    let region: Vec<PageWords> = (0..pages).map(|_| PageWords::new()).collect();
    let region: &'static mut [PageWords] = region.leak();
    let bottom = region.as_mut_ptr().expose_provenance();
    let top = bottom + pages * PAGE_SIZE;
    // SAFETY: leaked, and referred to by nobody else.
    (unsafe { BootMemory::new(bottom, top, |_| ()) }, bottom, top)
}

#[test]
fn pages_come_from_the_bottom_and_slices_from_the_top() {
    let (mut memory, bottom, top) = memory(8);
    let pages = memory.pages(2).unwrap();
    assert_eq!(pages.as_ptr().addr(), bottom);
    let slice = memory.slice(100, 7_u32).unwrap();
    assert_eq!(slice.as_ptr_range().end.addr(), top);
    assert!(slice.iter().all(|word| *word == 7));
    assert_eq!(memory.free_pages(), 5);
    assert_eq!(memory.page().unwrap() as *const PageWords as usize, bottom + 2 * PAGE_SIZE);
    slice[99] = 8;
    pages[1].store(3, 9);
    assert_eq!((slice[99], pages[1].load(3)), (8, 9));
}

#[test]
fn what_is_not_there_is_not_handed_out() {
    let (mut memory, ..) = memory(4);
    assert!(memory.pages(5).is_none());
    assert!(memory.pages(usize::MAX).is_none());
    assert!(memory.pages(usize::MAX / PAGE_SIZE).is_none());
    assert!(memory.slice(4 * PAGE_SIZE + 1, 0_u8).is_none());
    assert!(memory.slice(usize::MAX, 0_u64).is_none());
    assert!(memory.slice(usize::MAX / 8, 0_u64).is_none());
    assert_eq!(memory.free_pages(), 4, "a refusal takes nothing");
    assert_eq!(memory.slice(1, 0_u8).unwrap().len(), 1);
    assert!(memory.pages(4).is_none(), "a part of the last page is taken");
    assert_eq!(memory.pages(3).unwrap().len(), 3);
    assert_eq!(memory.slice(PAGE_SIZE - 1, 0_u8).unwrap().len(), PAGE_SIZE - 1);
    assert!(memory.slice(1, 0_u8).is_none());
    assert_eq!(memory.slice(0, 0_u8).unwrap().len(), 0);
    assert_eq!(memory.free_pages(), 0);
}

#[test]
fn slices_are_aligned_and_do_not_overlap() {
    #[derive(Clone, Copy, PartialEq, Debug)]
    #[repr(align(64))]
    struct Wide(u8);
    let (mut memory, ..) = memory(4);
    let bytes = memory.slice(3, 1_u8).unwrap();
    let wide = memory.slice(5, Wide(2)).unwrap();
    let words = memory.slice(7, 3_u64).unwrap();
    let place = memory.place(Wide(4)).unwrap();
    assert!(wide.as_ptr().addr().is_multiple_of(64) && words.as_ptr().addr().is_multiple_of(8));
    assert!((place as *const Wide).addr().is_multiple_of(64));
    bytes.fill(0xff);
    words.fill(u64::MAX);
    assert!(wide.iter().all(|value| *value == Wide(2)) && *place == Wide(4));
}

#[test]
fn the_boundary_of_the_pages_is_told() {
    static MOVED: AtomicUsize = AtomicUsize::new(0);
    let region: &'static mut [PageWords] = (0..4).map(|_| PageWords::new()).collect::<Vec<_>>().leak();
    let bottom = region.as_mut_ptr().expose_provenance();
    // SAFETY: leaked, and referred to by nobody else.
    let mut memory =
        unsafe { BootMemory::new(bottom, bottom + 4 * PAGE_SIZE, |at| MOVED.store(at, Ordering::Relaxed)) };
    assert_eq!(MOVED.load(Ordering::Relaxed), bottom);
    memory.slice(10, 0_u8).unwrap();
    assert_eq!(MOVED.load(Ordering::Relaxed), bottom, "slices are never lent");
    memory.pages(2).unwrap();
    assert_eq!(MOVED.load(Ordering::Relaxed), bottom + 2 * PAGE_SIZE);
}

#[test]
fn no_kernel_page_is_writable_and_executable() {
    let frame = Mfn(0x1234_5678);
    for access in [pte::Kernel::Read, pte::Kernel::ReadWrite, pte::Kernel::ReadExec] {
        let entry = pte::kernel(frame, access);
        assert_eq!(pte::frame(entry), Some(frame));
        assert!(entry & 2 == 0 || !pte::is_executable(entry));
        assert_eq!(entry & 4, 0, "a user bit would make it global");
    }
    assert_eq!(pte::kernel(frame, pte::Kernel::ReadWrite), 0x8000_0123_4567_8063);
    assert_eq!(pte::kernel(frame, pte::Kernel::ReadExec), 0x0000_0123_4567_8021);
}

#[test]
fn user_entries_say_what_the_program_may() {
    let frame = Mfn(0x42);
    assert_eq!(pte::user(frame, true, false), 0x8000_0000_0004_2067);
    // What Xen leaves of a grant mapping, but for NX.
    assert_eq!(pte::user(frame, false, true), 0x4_2065);
    assert_eq!(pte::table(frame), 0x4_2067);
    assert_eq!(pte::frame(pte::ABSENT), None);
    assert!(!pte::is_executable(pte::ABSENT));
}

#[test]
fn addresses_go_through_the_right_entries() {
    assert_eq!(layout::index(layout::DIRECT_BASE, 4), 272);
    assert_eq!(layout::index(layout::GRANT_BASE, 4), 273);
    assert_eq!(layout::index(layout::FOREIGN_BASE, 4), 274);
    assert_eq!(layout::index(layout::USER_END - 1, 4), 255);
    assert_eq!(layout::index(layout::VIRT_BASE, 4), 511);
    assert_eq!([1, 2, 3].map(|level| layout::index(0x7f12_3456_7000, level)), [0x167, 0x1a2, 0x48]);
    let last = Pfn(layout::DIRECT_PAGES - 1);
    assert_eq!(layout::direct_pfn(layout::direct(last)), Some(last));
    assert_eq!(layout::direct_pfn(layout::GRANT_BASE), None, "the grant table is none of our frames");
    assert_eq!(layout::direct_pfn(layout::DIRECT_BASE - 1), None);
}

#[test]
fn a_words_three_meanings_do_not_mix() {
    let frame = Mfn((1 << 38) - 1);
    for slot in [
        Slot::Out { frame, lent: 0 },
        Slot::Out { frame: Mfn(0), lent: LINKS - 1 },
        Slot::Kept { frame, link: Pfn(0) },
        Slot::Kept { frame: Mfn(0), link: Pfn(LINKS - 1) },
        Slot::GivenBack { next: Pfn(0) },
        Slot::GivenBack { next: Pfn(LINKS - 1) },
    ] {
        assert_eq!(Slot::decode(slot.encode()), slot);
    }
    // What the domain builder wrote.
    assert_eq!(Slot::decode(0x7_1234), Slot::Out { frame: Mfn(0x7_1234), lent: 0 });
}

#[test]
fn pages_are_copied_and_cleared_whole() {
    let [a, b] = [PageWords::new(), PageWords::new()];
    (1..=1024_u32).zip(0..).for_each(|(value, index)| a.store(index, value));
    copy_page(&b, &a);
    assert!((1..=1024_u32).zip(0..).all(|(value, index)| b.load(index) == value));
    zero_page(&a);
    assert!((0..1024).all(|index| a.load(index) == 0 && b.load(index) != 0));
}
