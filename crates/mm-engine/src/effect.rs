//! What the engine wants done, and what it asks of the grant table.

use mm_proto::{Bitmap, CAPTURE_MAX, Response};

use crate::ids::{ClientId, FrameId, Reference, RequestId, RingId, SnapshotId, VolumeId};

/// Pages in one [`Read`], at most.
pub const READ_RUN: usize = 16;
/// Effects that one call gives, at most.
pub const EFFECTS: usize = 64;

/// Something for the caller to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Effect {
    /// Put a response on a ring, after [`Engine::stamp`](crate::Engine::stamp).
    Reply {
        /// The ring.
        ring: RingId,
        /// What to put there, without its `replied` time.
        response: Response,
    },
    /// Read pages of a volume into frames, and say [`Engine::read_done`](crate::Engine::read_done).
    Read(Read),
    /// Copy a frame to a client, and say [`Engine::copy_done`](crate::Engine::copy_done).
    Copy(Copy),
    /// Copy frames of a client's into frames, and say [`Engine::captured`](crate::Engine::captured).
    Capture(Capture),
    /// The instant of a snapshot: its client's program stands still. What was written to the client's disks until now belongs to it.
    Instant(SnapshotId),
    /// A client that was thawed from this snapshot has touched these pages early.
    Hot {
        /// The snapshot.
        snapshot: SnapshotId,
        /// First page, a multiple of 512.
        page: u32,
        /// Which of the 512 pages from there on; there are no others than the client may have.
        bitmap: Bitmap,
    },
}

/// A run of consecutive pages to read. Until `read_done` says otherwise the frames belong to the reader.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read {
    /// Of this volume,
    pub volume: VolumeId,
    /// from this page on,
    pub page: u64,
    /// into these frames, one page each.
    pub frames: heapless::Vec<FrameId, READ_RUN>,
}

/// A page to copy into a frame that the client has granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Copy {
    /// To be given back with the outcome.
    pub request: RequestId,
    /// Whose frame it goes to.
    pub client: ClientId,
    /// The frame of the store to copy.
    pub frame: FrameId,
    /// The client's own grant reference, as it said: unchecked.
    pub reference: u32,
}

/// Pages to copy from frames that the client has granted. Until `captured` says otherwise the frames belong to whoever copies.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Capture {
    /// To be given back with the outcomes.
    pub request: RequestId,
    /// Whose pages they are.
    pub client: ClientId,
    /// Where each goes, and the client's own grant reference for it: unchecked.
    pub pages: heapless::Vec<(FrameId, u32), CAPTURE_MAX>,
}

/// What came of a [`struct@Copy`], or of one page of a [`Capture`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Copied {
    /// The page is there.
    Done,
    /// Xen refused the client's reference.
    BadReference,
}

/// The effects of one call, in the order in which they are to happen.
#[derive(Clone, Debug, Default)]
pub struct Effects {
    list: heapless::Vec<Effect, EFFECTS>,
}

impl Effects {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { list: heapless::Vec::new() }
    }

    /// The effects in order.
    pub fn iter(&self) -> impl Iterator<Item = &Effect> {
        self.list.iter()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn clear(&mut self) {
        self.list.clear();
    }

    pub(crate) fn room(&self) -> usize {
        EFFECTS - self.list.len()
    }

    /// False where there is no room, which every call of the engine rules out before it begins something.
    pub(crate) fn push(&mut self, effect: Effect) -> bool {
        self.list.push(effect).is_ok()
    }
}

/// What is in frames, as far as the engine needs to know: plain memory.
pub trait Contents {
    /// A digest of the frame's bytes that nobody else can foretell.
    fn digest(&self, frame: FrameId) -> u64;

    /// Whether two frames have the same bytes.
    fn equal(&self, one: FrameId, other: FrameId) -> bool;
}

/// A client maps the entry at this moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InUse;

/// The grant table, as far as the engine needs answers from it at once. All of it is plain memory: no call may fail but
/// [`Self::try_revoke`].
pub trait Grants {
    /// Whether the client maps what the entry permits (`GTF_reading`).
    fn is_reading(&self, reference: Reference) -> bool;

    /// Writes the entry: this client may map this frame, read-only. The entry is clear.
    fn permit(&mut self, reference: Reference, client: ClientId, frame: FrameId);

    /// Clears the entry.
    ///
    /// # Errors
    /// [`InUse`] where the client maps it: the entry is as it was.
    fn try_revoke(&mut self, reference: Reference) -> Result<(), InUse>;
}
