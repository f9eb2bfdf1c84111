//! Volumes: what kind each is of, and its reads.

use crate::engine::{Engine, Refusal};
use crate::frozen::FIRST;
use crate::ids::VolumeId;
use crate::queue::Queue;
use crate::table::NIL;

/// Volumes that an engine can have.
pub const VOLUMES: usize = 64;
/// Ranges of pages of one volume that are only copied.
pub const COPY_RANGES: usize = 8;

/// Whether pages of a volume are lent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// They are mapped by clients.
    Map,
    /// They are only copied.
    Copy,
    /// No ring leads there: pages are for M1's block service alone, which may also write them ([`Engine::fill`]).
    Private,
    /// As `Private`, and there is no disk below: a page is there from when it was written until it is forgotten.
    Memory,
    /// Pages of snapshots: rings reach them through a snapshot that they are attached to. There is one such volume
    /// ([`Engine::add_frozen`]).
    Frozen,
}

impl Sharing {
    /// Whether rings lead to volumes of this kind. Their pages never change.
    pub(crate) fn has_rings(self) -> bool {
        matches!(self, Self::Map | Self::Copy | Self::Frozen)
    }
}

/// A set of volumes whose clients may notice each other. A client's volumes are of one group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GroupId(pub u16);

/// Where a volume is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Life {
    Here,
    /// Nothing more of it is given out. `seen`: something of it was there when that was looked for last.
    Retired {
        seen: bool,
    },
    /// Its number is the next volume's.
    Free,
}

pub(crate) struct Volume {
    pub(crate) pages: u32,
    pub(crate) group: GroupId,
    pub(crate) sharing: Sharing,
    pub(crate) life: Life,
    /// Block reads under way.
    pub(crate) reads: u32,
    /// Requests that wait for one of them to end.
    pub(crate) parked: Queue,
    /// Turns in which a read is left to the block service, which was refused one.
    pub(crate) owed: u8,
    /// The block service had a read while requests waited for one: the next is theirs.
    pub(crate) theirs: bool,
    /// First and last page of what is only copied.
    pub(crate) copied: heapless::Vec<(u32, u32), COPY_RANGES>,
}

impl Volume {
    pub(crate) fn new(pages: u32, group: GroupId, sharing: Sharing) -> Self {
        Self {
            pages,
            group,
            sharing,
            life: Life::Here,
            reads: 0,
            parked: Queue::default(),
            owed: 0,
            theirs: false,
            copied: heapless::Vec::new(),
        }
    }

    /// Whether a request of a ring can have a read, where the volume may have so many.
    pub(crate) fn has_read(&self, limit: u32) -> bool {
        self.reads.saturating_add(u32::from(self.owed > 0)) < limit
    }

    /// A turn is over. True if a read that was left to the block service is to be had now, or in the next turn.
    pub(crate) fn end_turn(&mut self) -> bool {
        let left = self.owed > 0;
        self.owed = self.owed.saturating_sub(1);
        left && self.reads == 0 && !self.parked.is_empty()
    }
}

impl Engine<'_> {
    /// Adds a volume of this many pages: at most 2³¹ where rings lead to it, for what is above is the frozen part.
    ///
    /// # Errors
    /// [`Refusal::TooLong`], [`Refusal::TooManyVolumes`]; [`Refusal::Private`] for [`Sharing::Frozen`], which is added with
    /// [`Self::add_frozen`].
    pub fn add_volume(&mut self, pages: u64, group: GroupId, sharing: Sharing) -> Result<VolumeId, Refusal> {
        let pages = u32::try_from(pages).ok().filter(|pages| *pages < NIL).ok_or(Refusal::TooLong)?;
        if sharing == Sharing::Frozen {
            return Err(Refusal::Private);
        }
        if sharing.has_rings() && pages > FIRST {
            return Err(Refusal::TooLong);
        }
        self.place_volume(Volume::new(pages, group, sharing))
    }

    pub(crate) fn place_volume(&mut self, volume: Volume) -> Result<VolumeId, Refusal> {
        let free = self.volumes.iter().position(|volume| volume.life == Life::Free);
        let place = free.unwrap_or(self.volumes.len());
        let id = u16::try_from(place).map_err(|_| Refusal::TooManyVolumes)?;
        match self.volumes.get_mut(place) {
            Some(row) => *row = volume,
            None => self.volumes.push(volume).map_err(|_| Refusal::TooManyVolumes)?,
        }
        Ok(VolumeId(id))
    }

    /// Pages `first` to `last` of the volume are never lent, only copied. What is lent already stays so.
    ///
    /// # Errors
    /// [`Refusal::NoVolume`], [`Refusal::TooManyVolumes`] where the volume has [`COPY_RANGES`] already.
    pub fn copy_only(&mut self, volume: VolumeId, first: u64, last: u64) -> Result<(), Refusal> {
        let volume = self.volumes.get_mut(usize::from(volume.0)).ok_or(Refusal::NoVolume)?;
        let clip = |page: u64| u32::try_from(page).unwrap_or(NIL);
        volume.copied.push((clip(first), clip(last))).map_err(|_| Refusal::TooManyVolumes)
    }

    /// A volume that is there and not retired.
    pub(crate) fn volume(&self, volume: u16) -> Option<&Volume> {
        self.volumes.get(usize::from(volume)).filter(|volume| volume.life == Life::Here)
    }

    /// Whether this page of the volume is only copied.
    pub(crate) fn is_copy_only(&self, volume: u16, page: u32) -> bool {
        self.volume(volume)
            .is_some_and(|volume| volume.copied.iter().any(|(first, last)| (*first..=*last).contains(&page)))
    }
}
