//! Copies between frames of ours and a client's pages, gathered and made in few hypercalls.

use xen::grant::{Direction, PageCopy};
use xen::{DomId, Errno, GrantStatus, Mfn};

use super::{MAX_PIECES, Piece};
use crate::Platform;

/// Not every copy was made. Where bytes went to the client, some may be there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CopyFailed {
    /// Xen's status of the first that failed: a reference that is not the client's to give, or not writable, mostly. The client's
    /// affair: its request fails.
    Status {
        /// Which of those that were pushed.
        index: usize,
        /// What Xen says.
        status: GrantStatus,
    },
    /// Xen refused the call as a whole.
    Refused(Errno),
}

/// Copies to be made for one client; as many as a request has pieces.
#[derive(Clone, Debug)]
pub struct Copies {
    peer: DomId,
    list: heapless::Vec<PageCopy, MAX_PIECES>,
}

impl Copies {
    /// None yet.
    #[must_use]
    pub const fn new(peer: DomId) -> Self {
        Self { peer, list: heapless::Vec::new() }
    }

    /// Another one: of `piece`, with `frame` as the disk's block.
    ///
    /// # Errors
    /// There is no room: [`Self::run`] first.
    pub fn push(&mut self, piece: &Piece, frame: Mfn, direction: Direction) -> Result<(), xen_ring::Full> {
        self.list.push(piece.copy(self.peer, frame, direction)).map_err(|_| xen_ring::Full)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Makes them all, 32 in a hypercall. [`Self::results`] has each one's status; [`Self::clear`] makes room.
    ///
    /// # Errors
    /// [`CopyFailed`]; the others were made all the same, unless the call as a whole was refused.
    pub fn run(&mut self, platform: Platform) -> Result<(), CopyFailed> {
        platform.grants.copy(platform.hypervisor, &mut self.list).map_err(CopyFailed::Refused)?;
        match self.list.iter().enumerate().find(|(_, copy)| !copy.status.is_okay()) {
            Some((index, copy)) => Err(CopyFailed::Status { index, status: copy.status }),
            None => Ok(()),
        }
    }

    /// Each copy, with its status after [`Self::run`].
    #[must_use]
    pub fn results(&self) -> &[PageCopy] {
        &self.list
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.list.clear();
    }
}
