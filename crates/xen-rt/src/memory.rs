//! The memory that a domain starts with, handed out once at boot.

use core::marker::PhantomData;

use xen_ring::PageWords;
use xen_sys::{Mfn, PAGE_SIZE};

use crate::machine;

/// All memory that boot has left over. What it hands out lives for ever; there is no heap.
///
/// Pages come from the bottom, slices from the top. Pages may be lent to other domains; slices never are.
pub struct BootMemory {
    /// First byte that is free.
    bottom: usize,
    /// First byte that is not.
    top: usize,
    /// Called when the boundary of the pages moves.
    moved: fn(usize),
    /// As if it owned the bytes.
    _owned: PhantomData<&'static mut [u8]>,
}

impl BootMemory {
    /// # Safety
    /// The bytes must be mapped writable, hold nothing, and belong to nobody else for ever. `bottom` and `top` are page-aligned.
    pub(crate) unsafe fn new(bottom: usize, top: usize, moved: fn(usize)) -> Self {
        moved(bottom);
        Self { bottom, top, moved, _owned: PhantomData }
    }

    /// `count` pages one behind the other, or nothing if there are not as many. Their content is whatever it was: zeros, of a
    /// new domain, but that is no promise.
    pub fn pages(&mut self, count: usize) -> Option<&'static [PageWords]> {
        let first = self.take_bottom(count)?;
        // SAFETY: the bytes were free, are mapped, page-aligned and now taken; any content is a value of atomic words.
        Some(unsafe { core::slice::from_raw_parts(first as *const PageWords, count) })
    }

    /// One page.
    pub fn page(&mut self) -> Option<&'static PageWords> {
        self.pages(1)?.first()
    }

    /// A slice of `count` times `value`, or nothing if there is no room.
    pub fn slice<T: Copy>(&mut self, count: usize, value: T) -> Option<&'static mut [T]> {
        self.slice_with(count, |_| value)
    }

    /// A slice of `count` values, each made from its index, or nothing if there is no room. The values are never dropped.
    pub fn slice_with<T>(
        &mut self,
        count: usize,
        mut make: impl FnMut(usize) -> T,
    ) -> Option<&'static mut [T]> {
        let bytes = count.checked_mul(size_of::<T>())?;
        let start = self.top.checked_sub(bytes)? & !(align_of::<T>() - 1);
        if start < self.bottom {
            return None;
        }
        self.top = start;
        let first = start as *mut T;
        for index in 0..count {
            // SAFETY: within the bytes that were free and are taken now, aligned for T.
            unsafe { first.add(index).write(make(index)) };
        }
        // SAFETY: initialised just now, and nobody else has these bytes.
        Some(unsafe { core::slice::from_raw_parts_mut(first, count) })
    }

    /// A place of its own for one value, or nothing if there is no room: for what is too large for the stack. The value is never
    /// dropped.
    pub fn place<T>(&mut self, value: T) -> Option<&'static mut T> {
        let start = self.top.checked_sub(size_of::<T>())? & !(align_of::<T>() - 1);
        if start < self.bottom {
            return None;
        }
        self.top = start;
        let place = start as *mut T;
        // SAFETY: the bytes were free, are aligned for T and taken now.
        unsafe { place.write(value) };
        // SAFETY: initialised just now, and nobody else has these bytes.
        Some(unsafe { &mut *place })
    }

    /// Whole pages that are left.
    #[must_use]
    pub fn free_pages(&self) -> usize {
        (self.top / PAGE_SIZE * PAGE_SIZE).saturating_sub(self.bottom) / PAGE_SIZE
    }

    /// The machine frame of a page.
    ///
    /// # Panics
    /// If the page is not of this domain's memory.
    #[must_use]
    pub fn mfn_of(&self, page: &PageWords) -> Mfn {
        machine::mfn_of(page)
    }

    /// Takes `count` whole pages from the top; returns the first one's address.
    #[cfg(feature = "heap")]
    pub(crate) fn take_top(&mut self, count: usize) -> Option<usize> {
        let end = self.top / PAGE_SIZE * PAGE_SIZE;
        let first = end.checked_sub(count.checked_mul(PAGE_SIZE)?)?;
        if first < self.bottom {
            return None;
        }
        self.top = first;
        Some(first)
    }

    /// Takes `count` pages from the bottom; returns the first one's address.
    pub(crate) fn take_bottom(&mut self, count: usize) -> Option<usize> {
        let end = self.bottom.checked_add(count.checked_mul(PAGE_SIZE)?)?;
        if end > self.top {
            return None;
        }
        let first = self.bottom;
        self.bottom = end;
        (self.moved)(end);
        Some(first)
    }
}

impl core::fmt::Debug for BootMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "BootMemory({} pages)", self.free_pages())
    }
}

impl crate::tables::sealed::Sealed for BootMemory {}

impl crate::tables::TableSource for BootMemory {
    fn take(&mut self) -> Option<xen_sys::Pfn> {
        let page = crate::layout::direct_pfn(self.take_bottom(1)? as u64)?;
        machine::machine().keep(page, xen_sys::Pfn(0));
        Some(page)
    }
}
