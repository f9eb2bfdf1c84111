//! A heap whose memory comes from Xen as it is needed: a range of the direct map, with frames behind its first pages only.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use spin::Mutex;
use xen_sys::{PAGE_SIZE, Pfn};

use crate::user::frame::{BATCH, END, give_back, populate};
use crate::{BootMemory, layout};

/// Pages by which it grows at least.
const STEP: usize = 8;

/// An image's global allocator. It never becomes smaller.
pub struct Heap(Mutex<Inner>);

struct Inner {
    list: linked_list_allocator::Heap,
    /// The first page without a frame, and the end of the range.
    next: u64,
    end: u64,
    /// Pages with a frame.
    pages: usize,
}

impl Heap {
    /// One that has nothing.
    #[must_use]
    pub const fn empty() -> Self {
        Self(Mutex::new(Inner { list: linked_list_allocator::Heap::empty(), next: 0, end: 0, pages: 0 }))
    }

    /// Sets aside room for `most` pages, of which the first `now` keep their frames; the others' go to Xen. Whether there was room: once, at
    /// boot.
    pub fn start(&self, memory: &mut BootMemory, now: usize, most: usize) -> bool {
        let mut inner = self.0.lock();
        if inner.end != 0 || now == 0 || now > most {
            return false;
        }
        let Some(first) = memory.take_top(most) else { return false };
        let Some(Pfn(number)) = layout::direct_pfn(first as u64) else { return false };
        inner.end = number + most as u64;
        inner.next = inner.end;
        // From the end on, so that what Xen does not take lies behind what stays anyway.
        while inner.next > number + now as u64 {
            let count = (inner.next - number - now as u64).min(BATCH as u64);
            let mut pages = [END; BATCH];
            for (page, back) in pages.iter_mut().zip(1..=count) {
                *page = Pfn(inner.next - back);
            }
            let pages = &pages[..usize::try_from(count).unwrap_or(BATCH)];
            let gone = give_back(pages);
            inner.next -= gone as u64;
            if gone < pages.len() {
                break;
            }
        }
        inner.pages = usize::try_from(inner.next - number).unwrap_or(0);
        let bytes = inner.pages * PAGE_SIZE;
        // SAFETY: taken from boot memory for this, mapped for ever, and the list is empty.
        unsafe { inner.list.init(first as *mut u8, bytes) };
        true
    }

    /// Bytes in use.
    #[must_use]
    pub fn used(&self) -> usize {
        self.0.lock().list.used()
    }

    /// Pages that have a frame.
    #[must_use]
    pub fn pages(&self) -> usize {
        self.0.lock().pages
    }

    /// Bytes that are left, in pieces of any size; where that is less than `wanted`, after Xen was asked for more.
    pub fn left(&self, wanted: usize) -> usize {
        let mut inner = self.0.lock();
        loop {
            let free = inner.list.free();
            if free >= wanted || !inner.grow(wanted - free) {
                return free;
            }
        }
    }
}

impl Inner {
    /// Bytes that could be left, in pieces of any size, with memory behind all of the range.
    fn most_left(&self) -> usize {
        let pages = usize::try_from(self.end - self.next).unwrap_or(0);
        self.list.free() + pages * PAGE_SIZE
    }

    /// Gets frames for so many bytes more, or for some of them; `false` where none came.
    fn grow(&mut self, bytes: usize) -> bool {
        let count = bytes.div_ceil(PAGE_SIZE).clamp(STEP, BATCH) as u64;
        let count = count.min(self.end - self.next);
        let mut pages = [END; BATCH];
        for (page, number) in pages.iter_mut().zip(self.next..self.next + count) {
            *page = Pfn(number);
        }
        let done = populate(&pages[..usize::try_from(count).unwrap_or(BATCH)]);
        self.next += done as u64;
        self.pages += done;
        if done > 0 {
            // SAFETY: these pages follow those that the list has, were set aside for it, and are mapped now.
            unsafe { self.list.extend(done * PAGE_SIZE) };
        }
        done > 0
    }
}

// SAFETY: what the list gives out lies in pages that it alone has, aligned and as large as was asked; a lock holds off nobody, on one
// virtual CPU, and nothing that it guards allocates.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let mut inner = self.0.lock();
        // What can never fit takes no memory from Xen on its way to being refused.
        if layout.size() > inner.most_left() {
            return ptr::null_mut();
        }
        loop {
            if let Ok(place) = inner.list.allocate_first_fit(layout) {
                return place.as_ptr();
            }
            // What is free at the end counts, but how much that is the list does not say.
            if !inner.grow(layout.size().saturating_add(layout.align())) {
                return ptr::null_mut();
            }
        }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        if let Some(place) = ptr::NonNull::new(place) {
            // SAFETY: the caller's promise: it is from `alloc`, with this layout.
            unsafe { self.0.lock().list.deallocate(place, layout) };
        }
    }
}
