//! A page that another domain may write while we look at it.

use crate::sync::{AtomicU32, Ordering};

/// Bytes of a page.
pub const PAGE_SIZE: usize = 4096;

/// 32-bit words of a page. (Loom's model keeps only what its rings need: it tracks each atomic of each execution.)
pub const WORDS: usize = if cfg!(loom) { 20 } else { PAGE_SIZE / 4 };

/// One page of memory as words that anybody may change at any time.
///
/// All memory pages are handed around as `&'static PageWords`: the words are atomics, so it is sound to share them with
/// another domain, and nothing here ever makes a plain reference to their bytes. Bytes are in the machine's order
/// (little-endian on every machine that Xen's x86 ABI knows).
#[cfg_attr(not(loom), repr(C, align(4096)))]
pub struct PageWords([AtomicU32; WORDS]);

impl PageWords {
    /// A page of zeros.
    #[cfg(not(loom))]
    #[must_use]
    pub const fn new() -> Self {
        Self([const { AtomicU32::new(0) }; WORDS])
    }

    /// A page of zeros.
    #[cfg(loom)]
    #[must_use]
    pub fn new() -> Self {
        Self(core::array::from_fn(|_| AtomicU32::new(0)))
    }

    /// The word at `index`, for those who choose their own ordering.
    ///
    /// # Panics
    /// If `index` is 1024 or more: indices are the program's own, never a peer's.
    #[must_use]
    pub fn word(&self, index: usize) -> &AtomicU32 {
        &self.0[index]
    }

    /// Reads the word at `index`; what the peer wrote before it stored this word is visible afterwards (acquire).
    ///
    /// # Panics
    /// As [`Self::word`].
    #[must_use]
    pub fn load(&self, index: usize) -> u32 {
        self.word(index).load(Ordering::Acquire)
    }

    /// Writes the word at `index` after everything that was written before (release).
    ///
    /// # Panics
    /// As [`Self::word`].
    pub fn store(&self, index: usize, value: u32) {
        self.word(index).store(value, Ordering::Release);
    }

    /// Copies the bytes from `offset` on into `out`, at any alignment. `false`, and nothing copied, if that leaves the page.
    ///
    /// Not atomic as a whole: a peer that writes meanwhile may tear it. Copy once, then judge the copy.
    #[must_use]
    pub fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        if !inside(offset, out.len()) {
            return false;
        }
        let (mut index, skip) = (offset / 4, offset % 4);
        let mut rest = out;
        if skip != 0 {
            let n = rest.len().min(4 - skip);
            let (head, tail) = rest.split_at_mut(n);
            head.copy_from_slice(&self.bytes(index)[skip..skip + n]);
            rest = tail;
            index += 1;
        }
        let mut chunks = rest.chunks_exact_mut(4);
        for chunk in &mut chunks {
            chunk.copy_from_slice(&self.bytes(index));
            index += 1;
        }
        let last = chunks.into_remainder();
        if !last.is_empty() {
            let n = last.len();
            last.copy_from_slice(&self.bytes(index)[..n]);
        }
        true
    }

    /// Copies `data` into the page from `offset` on, at any alignment. `false`, and nothing written, if that leaves the page.
    ///
    /// Whole words are stored, so where `data` begins or ends inside a word the other bytes of that word are written back
    /// as they were read just before: two domains must not write bytes of one word at the same time.
    #[must_use]
    pub fn write(&self, offset: usize, data: &[u8]) -> bool {
        if !inside(offset, data.len()) {
            return false;
        }
        let (mut index, skip) = (offset / 4, offset % 4);
        let mut rest = data;
        if skip != 0 {
            let (head, tail) = rest.split_at(rest.len().min(4 - skip));
            self.merge(index, skip, head);
            rest = tail;
            index += 1;
        }
        let (words, last) = rest.as_chunks::<4>();
        for word in words {
            self.0[index].store(u32::from_ne_bytes(*word), Ordering::Relaxed);
            index += 1;
        }
        if !last.is_empty() {
            self.merge(index, 0, last);
        }
        true
    }

    /// Fills the page with zeros.
    pub fn zero(&self) {
        for word in &self.0 {
            word.store(0, Ordering::Relaxed);
        }
    }

    /// Makes this page a copy of `other`.
    pub fn copy_from(&self, other: &Self) {
        self.copy_start(other, WORDS * 4);
    }

    /// Makes the first `bytes` of this page those of `other`: whole words, and a page at most.
    pub fn copy_start(&self, other: &Self, bytes: usize) {
        for (to, from) in self.0.iter().zip(&other.0).take(bytes / 4) {
            to.store(from.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    fn bytes(&self, index: usize) -> [u8; 4] {
        self.0[index].load(Ordering::Relaxed).to_ne_bytes()
    }

    fn merge(&self, index: usize, skip: usize, data: &[u8]) {
        let mut bytes = self.bytes(index);
        bytes[skip..skip + data.len()].copy_from_slice(data);
        self.0[index].store(u32::from_ne_bytes(bytes), Ordering::Relaxed);
    }
}

impl Default for PageWords {
    fn default() -> Self {
        Self::new()
    }
}

impl core::fmt::Debug for PageWords {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "PageWords@{:p}", self.0.as_ptr())
    }
}

fn inside(offset: usize, len: usize) -> bool {
    offset.checked_add(len).is_some_and(|end| end <= WORDS * 4)
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<PageWords>() == PAGE_SIZE && align_of::<PageWords>() == PAGE_SIZE);
