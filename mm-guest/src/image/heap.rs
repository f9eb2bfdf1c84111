//! The kernel's heap: addresses that are set aside at boot, with memory from Xen behind as much of them as was needed so far.
//!
//! What a program makes the kernel keep is taken fallibly (`try_reserve`); small things that a call needs while it lasts are
//! not. So calls that make the kernel keep something are refused while the heap is nearly used up, or Xen has no memory for more of it
//! (`mm_guest`'s `Memory::check_heap`), and what is left then is for those.

use xen_rt::{BootMemory, Heap};

#[global_allocator]
static HEAP: Heap = Heap::empty();

/// Least and most pages.
const PAGES: core::ops::RangeInclusive<usize> = 64..=1024;
/// One page of heap for so many of the domain's.
const SHARE: usize = 160;
/// Pages that have memory from the beginning.
const FIRST: usize = 16;

/// Bytes in use.
pub(crate) fn used() -> usize {
    HEAP.used()
}

/// Pages of memory behind it.
pub(crate) fn pages() -> usize {
    HEAP.pages()
}

/// Bytes that are left, in pieces of any size, once there is memory for as many as the kernel wants left.
pub(crate) fn left() -> usize {
    HEAP.left(mm_guest::HEAP_KEPT)
}

/// Sets the heap up; `None` where there is no room.
pub(crate) fn start(memory: &mut BootMemory) -> Option<()> {
    let pages = (memory.free_pages() / SHARE).clamp(*PAGES.start(), *PAGES.end());
    HEAP.start(memory, FIRST, pages).then_some(())
}
