//! Byte streams in a page: the console's (`io/console.h`) and xenstore's (`io/xs_wire.h`).

use crate::sync::{Ordering, fence};
use crate::{PageWords, RingFault};

/// Where one direction of a byte stream lies in its page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ByteRing {
    /// Offset of the first byte of data.
    data: usize,
    /// Bytes of data; a power of two.
    size: u32,
    /// Word of the consumer's index.
    cons: usize,
    /// Word of the producer's index.
    prod: usize,
}

impl ByteRing {
    /// Console, what somebody typed to the domain.
    pub const CONSOLE_IN: Self = Self { data: 0, size: 1024, cons: 768, prod: 769 };
    /// Console, what the domain prints.
    pub const CONSOLE_OUT: Self = Self { data: 1024, size: 2048, cons: 770, prod: 771 };
    /// Xenstore, from the domain to xenstored.
    pub const XENSTORE_REQUEST: Self = Self { data: 0, size: 1024, cons: 512, prod: 513 };
    /// Xenstore, from xenstored to the domain.
    pub const XENSTORE_REPLY: Self = Self { data: 1024, size: 1024, cons: 514, prod: 515 };

    /// Bytes that fit at once.
    #[must_use]
    pub const fn size(self) -> u32 {
        self.size
    }

    /// The writing side. It goes on from the index in the page: neither console nor xenstore indices start at 0 for one
    /// that joins later.
    #[must_use]
    pub fn producer(self, page: &'static PageWords) -> ByteProducer {
        ByteProducer { page, layout: self, prod: page.load(self.prod) }
    }

    /// The reading side, going on from the index in the page.
    #[must_use]
    pub fn consumer(self, page: &'static PageWords) -> ByteConsumer {
        ByteConsumer { page, layout: self, cons: page.load(self.cons) }
    }
}

/// The writing side of a [`ByteRing`].
#[derive(Debug)]
pub struct ByteProducer {
    page: &'static PageWords,
    layout: ByteRing,
    prod: u32,
}

impl ByteProducer {
    /// Bytes that can be written now.
    ///
    /// # Errors
    /// [`RingFault`]: the consumer's index is impossible.
    pub fn free(&self) -> Result<usize, RingFault> {
        let theirs = self.page.load(self.layout.cons);
        let used = self.prod.wrapping_sub(theirs);
        if used > self.layout.size {
            return Err(RingFault { ours: self.prod, theirs });
        }
        Ok((self.layout.size - used) as usize)
    }

    /// Writes as much of `data` as fits now; returns how many bytes. Notify the peer if that is not 0.
    ///
    /// # Errors
    /// [`RingFault`]: the consumer's index is impossible. Nothing was written.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, RingFault> {
        let free = self.free()?;
        // Xen's rings: read the consumer's index, then a full barrier, then write data that it has released.
        fence(Ordering::SeqCst);
        let data = &data[..data.len().min(free)];
        let at = (self.prod & (self.layout.size - 1)) as usize;
        let (head, tail) = data.split_at(data.len().min(self.layout.size as usize - at));
        let fits = self.page.write(self.layout.data + at, head) && self.page.write(self.layout.data, tail);
        debug_assert!(fits, "a layout lies within its page");
        self.prod = self.prod.wrapping_add(narrow(data.len()));
        self.page.store(self.layout.prod, self.prod);
        Ok(data.len())
    }
}

/// The reading side of a [`ByteRing`].
#[derive(Debug)]
pub struct ByteConsumer {
    page: &'static PageWords,
    layout: ByteRing,
    cons: u32,
}

impl ByteConsumer {
    /// Bytes that can be read now.
    ///
    /// # Errors
    /// [`RingFault`]: the producer's index is impossible.
    pub fn available(&self) -> Result<usize, RingFault> {
        let theirs = self.page.load(self.layout.prod);
        let used = theirs.wrapping_sub(self.cons);
        if used > self.layout.size {
            return Err(RingFault { ours: self.cons, theirs });
        }
        Ok(used as usize)
    }

    /// Takes as many bytes as there are and fit into `out`; returns how many. Notify the peer if that is not 0: it may wait
    /// for room.
    ///
    /// # Errors
    /// [`RingFault`]: the producer's index is impossible. Nothing was taken.
    pub fn read(&mut self, out: &mut [u8]) -> Result<usize, RingFault> {
        let len = self.available()?.min(out.len());
        let at = (self.cons & (self.layout.size - 1)) as usize;
        let (head, tail) = out[..len].split_at_mut(len.min(self.layout.size as usize - at));
        let fits = self.page.read(self.layout.data + at, head) && self.page.read(self.layout.data, tail);
        debug_assert!(fits, "a layout lies within its page");
        // The bytes must have been read before the producer may write over them.
        fence(Ordering::SeqCst);
        self.cons = self.cons.wrapping_add(narrow(len));
        self.page.store(self.layout.cons, self.cons);
        Ok(len)
    }
}

/// A length that was bounded by a ring's size, as an index step.
fn narrow(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(0)
}
