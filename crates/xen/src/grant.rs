//! Our grant table, version 1 (`xen/include/public/grant_table.h`): what this domain lends to others.
//!
//! Entries are written as two words, the frame first and flags with domain last in one store; Xen changes the flags at any
//! time, so an entry is never a Rust structure. References below 8 belong to the toolstack.

use core::sync::atomic::{AtomicU32, Ordering};

use xen_ring::PageWords;
use xen_sys::grant::{self as abi, gntcopy, gtf};
use xen_sys::{DomId, Errno, GrantRef, GrantStatus, Mfn};

use crate::Hypervisor;

mod refs;
pub use refs::RefPool;

/// What the grantee may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Access {
    /// Map read-only, copy from.
    ReadOnly,
    /// Map writable, copy to.
    ReadWrite,
}

/// Why an entry was not made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PermitError {
    /// The reference is reserved, or beyond [`GrantTable::capacity`].
    OutOfRange,
    /// The entry is permitted already, or still in use from before.
    Occupied,
    /// The frame is not one that may be lent: not ours, the program's own memory, or beyond the 16 TiB that an entry can say.
    Unshareable,
}

/// The grantee has the page mapped: the frame and the reference stay as they are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InUse;

/// Where a table's frames come from, and which of our frames may be lent. `xen-rt` has the real one, the fake its own.
pub trait GrantArea: Sync {
    /// Makes the first `frames` frames of the area the table's, mapped and writable.
    fn grow(&self, frames: u32) -> Result<(), Errno>;
    /// Whether `frame` holds nothing but words that may change at any time, so that lending it, or having Xen copy into it,
    /// harms nobody here.
    fn may_share(&self, frame: Mfn) -> bool;
    /// Takes note that `frame` is lent under one more reference; `false`: it may not be.
    fn lend(&self, frame: Mfn) -> bool {
        self.may_share(frame)
    }
    /// One of those references has been taken back.
    fn unlend(&self, frame: Mfn) {
        let _ = frame;
    }
}

/// This domain's grant table.
pub struct GrantTable {
    area: &'static [PageWords],
    source: &'static dyn GrantArea,
    /// Frames that are in use.
    frames: AtomicU32,
}

impl GrantTable {
    /// A table in `area`, which `source` fills; its length is the most that it can grow to.
    #[must_use]
    pub const fn new(area: &'static [PageWords], source: &'static dyn GrantArea) -> Self {
        Self { area, source, frames: AtomicU32::new(0) }
    }

    /// Entries that can be used now: references below this number.
    #[must_use]
    pub fn capacity(&self) -> u32 {
        self.frames.load(Ordering::Relaxed) * abi::ENTRIES_PER_FRAME
    }

    /// The most that [`Self::capacity`] can become.
    #[must_use]
    pub fn capacity_max(&self) -> u32 {
        self.frames_max() * abi::ENTRIES_PER_FRAME
    }

    /// Frames of the table now.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Frames of the table at most.
    #[must_use]
    pub fn frames_max(&self) -> u32 {
        u32::try_from(self.area.len()).unwrap_or(u32::MAX)
    }

    /// Grows the table to `frames` frames of 512 entries; nothing if it has as many. Xen allocates them in one go that cannot
    /// be interrupted: grow in steps of at most 64.
    ///
    /// # Errors
    /// `EINVAL`: beyond [`Self::frames_max`]. Others are Xen's.
    pub fn grow_to(&self, frames: u32) -> Result<(), Errno> {
        if frames <= self.frames() {
            return Ok(());
        }
        if frames > self.frames_max() {
            return Err(Errno::INVAL);
        }
        self.source.grow(frames)?;
        self.frames.store(frames, Ordering::Relaxed);
        Ok(())
    }

    /// Lends `frame` to `dom` under `reference`.
    ///
    /// # Errors
    /// [`PermitError`]; nothing has changed then.
    pub fn permit(
        &self,
        reference: GrantRef,
        dom: DomId,
        frame: Mfn,
        access: Access,
    ) -> Result<(), PermitError> {
        let (header, body) = self.entry(reference).ok_or(PermitError::OutOfRange)?;
        if header.load(Ordering::Acquire) & 0xffff != 0 {
            return Err(PermitError::Occupied);
        }
        let number = u32::try_from(frame.0).map_err(|_| PermitError::Unshareable)?;
        if !self.source.lend(frame) {
            return Err(PermitError::Unshareable);
        }
        let flags = match access {
            Access::ReadOnly => gtf::PERMIT_ACCESS | gtf::READONLY,
            Access::ReadWrite => gtf::PERMIT_ACCESS,
        };
        body.store(number, Ordering::Relaxed);
        // The frame before the flags: the header asks for a write barrier between them.
        header.store(u32::from(flags) | u32::from(dom.0) << 16, Ordering::SeqCst);
        Ok(())
    }

    /// Takes an entry back, if the grantee does not have it mapped now. Xen has no way to take a mapping away.
    ///
    /// # Errors
    /// [`InUse`]: mapped, or reserved for the toolstack. The entry is as before: new maps of it go on to succeed.
    pub fn try_revoke(&self, reference: GrantRef) -> Result<(), InUse> {
        let (header, body) = self.entry(reference).ok_or(InUse)?;
        let mut now = header.load(Ordering::SeqCst);
        // Xen changes only the two use bits, and each change is one of the grantee's hypercalls; we give up after a few.
        for _ in 0..16 {
            if in_use(now) {
                return Err(InUse);
            }
            match header.compare_exchange(now, 0, Ordering::SeqCst, Ordering::SeqCst) {
                Ok(0) => return Ok(()),
                Ok(_) => {
                    self.source.unlend(Mfn(u64::from(body.load(Ordering::Relaxed))));
                    return Ok(());
                }
                Err(changed) => now = changed,
            }
        }
        Err(InUse)
    }

    /// Whether the grantee has the page mapped for reading: this is what R is counted from.
    #[must_use]
    pub fn is_reading(&self, reference: GrantRef) -> bool {
        self.flags(reference) & gtf::READING != 0
    }

    /// Whether the grantee has the page mapped at all.
    #[must_use]
    pub fn is_in_use(&self, reference: GrantRef) -> bool {
        self.flags(reference) & (gtf::READING | gtf::WRITING) != 0
    }

    /// The entry's flags ([`gtf`]); 0 for one that is free, reserved, or beyond the capacity.
    #[must_use]
    pub fn flags(&self, reference: GrantRef) -> u16 {
        self.entry(reference).map_or(0, |(header, _)| {
            let [low, high, ..] = header.load(Ordering::SeqCst).to_le_bytes();
            u16::from_le_bytes([low, high])
        })
    }

    /// Copies within pages between own frames and other domains' grants, in one hypercall for 32; each copy has its status.
    ///
    /// An own frame that may not be shared gives [`GrantStatus::BAD_PAGE`] without asking Xen.
    ///
    /// # Errors
    /// Xen refused the call as a whole.
    pub fn copy(&self, hypervisor: &dyn Hypervisor, copies: &mut [PageCopy]) -> Result<(), Errno> {
        for batch in copies.chunks_mut(COPY_BATCH) {
            let mut raw = [EMPTY_COPY; COPY_BATCH];
            let mut used = 0;
            for copy in batch.iter_mut() {
                if self.source.may_share(copy.frame) {
                    raw[used] = copy.to_abi();
                    used += 1;
                    // Marks it as one that has a result in `raw`.
                    copy.status = GrantStatus::OKAY;
                } else {
                    copy.status = GrantStatus::BAD_PAGE;
                }
            }
            if used == 0 {
                continue;
            }
            // SAFETY: own frames are ones that hold nothing but words that may change (`may_share`).
            unsafe { hypervisor.grant_copy(&mut raw[..used]) }?;
            let asked = batch.iter_mut().filter(|copy| copy.status.is_okay());
            for (copy, done) in asked.zip(&raw[..used]) {
                copy.status = done.status;
            }
        }
        Ok(())
    }

    /// The entry's two words: flags with domain, and frame.
    fn entry(&self, reference: GrantRef) -> Option<(&AtomicU32, &AtomicU32)> {
        if reference.0 < abi::RESERVED_ENTRIES || reference.0 >= self.capacity() {
            return None;
        }
        let page = self.area.get((reference.0 / abi::ENTRIES_PER_FRAME) as usize)?;
        let word = (reference.0 % abi::ENTRIES_PER_FRAME) as usize * 2;
        Some((page.word(word), page.word(word + 1)))
    }
}

impl core::fmt::Debug for GrantTable {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "GrantTable({} of {} frames)", self.frames(), self.frames_max())
    }
}

fn in_use(header: u32) -> bool {
    header & u32::from(gtf::READING | gtf::WRITING) != 0
}

/// Copies of one hypercall.
const COPY_BATCH: usize = 32;
const EMPTY_COPY: abi::GrantCopy = abi::GrantCopy {
    source: abi::CopyEnd { ref_or_frame: 0, dom: 0, offset: 0 },
    dest: abi::CopyEnd { ref_or_frame: 0, dom: 0, offset: 0 },
    len: 0,
    flags: 0,
    status: GrantStatus::OKAY,
};

/// Which way a [`PageCopy`] goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// From our frame into the peer's page, which it granted writable.
    ToPeer,
    /// From the peer's page into our frame.
    FromPeer,
}

/// One copy between a frame of ours and a page that `peer` granted us.
#[derive(Clone, Copy, Debug)]
pub struct PageCopy {
    /// Our frame.
    pub frame: Mfn,
    /// Byte in our frame.
    pub offset: u16,
    /// The other domain.
    pub peer: DomId,
    /// Its grant.
    pub reference: GrantRef,
    /// Byte in its page.
    pub peer_offset: u16,
    /// Bytes. Neither end may leave its page ([`GrantStatus::BAD_COPY_ARG`]).
    pub len: u16,
    /// Which way.
    pub direction: Direction,
    /// Result.
    pub status: GrantStatus,
}

impl PageCopy {
    /// A whole page.
    #[must_use]
    pub const fn page(frame: Mfn, peer: DomId, reference: GrantRef, direction: Direction) -> Self {
        let status = GrantStatus::GENERAL_ERROR;
        Self { frame, offset: 0, peer, reference, peer_offset: 0, len: 4096, direction, status }
    }

    fn to_abi(self) -> abi::GrantCopy {
        let ours = abi::CopyEnd { ref_or_frame: self.frame.0, dom: DomId::SELF.0, offset: self.offset };
        let theirs = abi::CopyEnd {
            ref_or_frame: u64::from(self.reference.0),
            dom: self.peer.0,
            offset: self.peer_offset,
        };
        let (source, dest, flags) = match self.direction {
            Direction::ToPeer => (ours, theirs, gntcopy::DEST_GREF),
            Direction::FromPeer => (theirs, ours, gntcopy::SOURCE_GREF),
        };
        abi::GrantCopy { source, dest, len: self.len, flags, status: GrantStatus::GENERAL_ERROR }
    }
}
