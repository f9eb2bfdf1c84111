//! The kernel's heap: one piece of memory, set aside at boot.
//!
//! What a program makes the kernel keep is taken fallibly (`try_reserve`); small things that a call needs while it lasts are
//! not. So calls that make the kernel keep something are refused while the heap is nearly used up
//! (`mm_guest`'s `Memory::check_heap`), and what is left then is for those.

use core::mem::MaybeUninit;

use linked_list_allocator::LockedHeap;
use xen_rt::BootMemory;

#[global_allocator]
static HEAP: LockedHeap = LockedHeap::empty();

/// Least and most pages.
const PAGES: core::ops::RangeInclusive<usize> = 64..=1024;
/// One page of heap for so many of the domain's.
const SHARE: usize = 160;

/// Bytes in use.
pub(crate) fn used() -> usize {
    HEAP.lock().used()
}

/// Bytes that are left, in pieces of any size.
pub(crate) fn left() -> usize {
    HEAP.lock().free()
}

/// Sets the heap up; gives its pages, or `None` where there is no room.
pub(crate) fn start(memory: &mut BootMemory) -> Option<usize> {
    let pages = (memory.free_pages() / SHARE).clamp(*PAGES.start(), *PAGES.end());
    let bytes = memory.slice_with(pages * mm_proto::PAGE_SIZE, |_| MaybeUninit::uninit())?;
    HEAP.lock().init_from_slice(bytes);
    Some(pages)
}
