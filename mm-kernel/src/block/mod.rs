//! The block service: disks for stock frontends, out of the same pages that the map service lends.
//!
//! A disk is a base volume with something over it: nothing (it is read-only), pages in memory that go with the client, or an overlay on
//! the store disk. Requests become [`Job`]s. A job goes through its blocks of 4096 bytes, copies what is in M1's memory between there
//! and the client's pages, begins to read what is not, and goes on when that has come. Nothing is kept of the client's but its ring.

mod barrier;
mod close;
mod figures;
mod freeze;
mod hold;
mod image;
mod job;
mod keep;
mod read;
mod turn;
mod write;

use mm_engine::{SnapshotId, VolumeId};
use mm_store::{Hidden, OverlayId, ZeroRow};
use xen::ForeignPages;
use xen_drivers::blkback::{BlockRing, OpenError};
use xen_drivers::vbdback::{BlockFeatures, BlockOffer, BlockRingInfo, DeviceId, Info};
use xen_drivers::{Frame, Platform};
use xen_sys::{DomId, Port};

use crate::effects::Hands;
use crate::overlays::Finished;
use crate::volumes::VolumeFacts;
pub(crate) use figures::{ALL_BOUNDS, CLIENT_BOUNDS, KINDS, Requests, Totals};
use freeze::{FREEZING, Freezing};
use hold::{Cost, Hold};
pub(crate) use image::Image;
use job::Job;
use write::InMemory;

/// Ring pages of one client: 4, so 128 requests.
pub const RING_ORDER: u8 = 2;
/// Sectors of 512 bytes in a block.
const BLOCK_SECTORS: u64 = 8;

/// What is over a disk's base.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Over {
    /// Nothing: the disk is the base.
    Nothing,
    /// Pages of the engine's volume for what is only in memory, from this one on.
    Memory(u64),
    /// An overlay of the store's.
    Store(OverlayId),
}

/// What is below a disk's overlay.
#[derive(Clone, Copy)]
pub(crate) struct Below {
    /// The volume, and its pages.
    pub(crate) base: VolumeId,
    pub(crate) pages: u64,
    /// The snapshot, and what it has over that.
    pub(crate) snapshot: Option<SnapshotId>,
    pub(crate) image: Option<Image>,
}

/// A client's disk.
pub(crate) struct GuestDisk {
    pub(crate) id: DeviceId,
    pub(crate) domain: DomId,
    /// Number of the virtual device.
    pub(crate) devid: u32,
    /// The volume's place in the configuration.
    pub(crate) volume: usize,
    base: VolumeId,
    /// Its blocks, and the disk's.
    pages: u32,
    over: Over,
    /// The snapshot that its client is attached to, and what that has over the base.
    pub(crate) snapshot: Option<SnapshotId>,
    image: Option<Image>,
    /// Writes wait: a snapshot is being taken.
    frozen: bool,
    /// Blocks of it that are only in memory.
    held: u32,
    ring: Option<BlockRing>,
    /// There may be requests on its ring.
    pending: bool,
    /// Jobs of it.
    jobs: usize,
    /// One of them is a barrier: nothing more is taken before it is answered.
    barred: bool,
    /// Answers that its client does not see yet, and whether it waits for one of them with all else.
    hold: Hold,
    urgent: bool,
    /// The block behind the last read: who goes on there reads in sequence.
    next_block: u64,
    /// Blocks that are read ahead of it then.
    ahead: u64,
    pub(crate) requests: Requests,
}

impl GuestDisk {
    /// Whether a stock frontend is connected.
    pub(crate) fn is_connected(&self) -> bool {
        self.ring.is_some()
    }

    /// Bytes that were written over its base and are only in memory; none where nothing is kept there.
    pub(crate) fn memory_bytes(&self) -> Option<u64> {
        matches!(self.over, Over::Memory(_)).then(|| u64::from(self.held) * mm_proto::PAGE_SIZE as u64)
    }
}

/// All disks and what is under way on them.
pub struct Block {
    platform: Platform,
    window: &'static mut dyn ForeignPages,
    /// For indirect requests' segments.
    scratch: Frame,
    /// Holds zeroes.
    zero: Frame,
    disks: &'static mut [Option<GuestDisk>],
    jobs: &'static mut [Option<Job>],
    /// Of the last job.
    serial: u32,
    /// What is only in memory, and how many pages of its volume each disk has.
    memory: Option<InMemory>,
    span: u64,
    /// A disk may have requests on its ring.
    knocked: bool,
    /// A disk has some that there was no room for.
    held_back: bool,
    /// Disks that are being copied into snapshots.
    freezing: [Option<Freezing>; FREEZING],
    /// Something has happened for which a job may have waited.
    awake: bool,
    /// A job waits for a frame.
    pub(crate) starved: bool,
    /// When the first of the rings is to be looked at for which answers are held.
    pub(crate) held_until: Option<u64>,
    /// What a request takes that waits for nothing.
    cost: Cost,
    /// Of all disks that there ever were.
    totals: Totals,
}

/// What [`Block::new`] needs of M1's memory.
pub struct BlockMemory {
    /// As many places as devices.
    pub(crate) disks: &'static mut [Option<GuestDisk>],
    pub(crate) jobs: &'static mut [Option<Job>],
    pub(crate) scratch: Frame,
    pub(crate) zero: Frame,
    /// Blocks that read as zeroes, of what is only in memory.
    pub(crate) hidden: Hidden<'static>,
}

impl BlockMemory {
    /// Takes it at boot; nothing if there is not as much. `seed` is secret.
    #[must_use]
    pub fn new(memory: &mut xen_rt::BootMemory, devices: usize, jobs: usize, seed: u64) -> Option<Self> {
        // A row for each 64 KiB, 24 bytes of memory.
        let rows = if memory.free_pages() > 4096 { 4096 } else { 256 };
        let hidden = Hidden::new(
            memory.slice_with(rows, |_| ZeroRow::default())?,
            memory.slice(Hidden::buckets(rows), 0)?,
            seed,
        );
        let (scratch, zero) = (memory.page()?, memory.page()?);
        let frame = |words| Frame { words, mfn: xen_rt::mfn_of(words) };
        Some(Self {
            disks: memory.slice_with(devices, |_| None)?,
            jobs: memory.slice_with(jobs, |_| None)?,
            scratch: frame(scratch),
            zero: frame(zero),
            hidden,
        })
    }
}

impl Block {
    /// No disks yet. `memory` is a volume of the engine's for what is only in memory, of so many pages; no disk may have more than
    /// `quota` of it.
    #[must_use]
    pub fn new(
        platform: Platform,
        window: &'static mut dyn ForeignPages,
        memory: BlockMemory,
        volume: Option<(VolumeId, u64)>,
        quota: Option<u32>,
    ) -> Self {
        let BlockMemory { disks, jobs, scratch, zero, hidden } = memory;
        zero.words.zero();
        let span =
            volume.map_or(0, |(_, pages)| pages) / u64::try_from(disks.len()).unwrap_or(u64::MAX).max(1);
        let memory = volume.map(|(volume, _)| InMemory { volume, hidden, quota: quota.unwrap_or(u32::MAX) });
        Self {
            platform,
            window,
            scratch,
            zero,
            disks,
            jobs,
            serial: 0,
            memory,
            span,
            knocked: false,
            held_back: false,
            freezing: [const { None }; FREEZING],
            awake: false,
            starved: false,
            held_until: None,
            cost: Cost::NEW,
            totals: Totals::NONE,
        }
    }

    /// What a device of this volume offers stock frontends; `None` where nothing can be written over it that should.
    pub(crate) fn offer(&self, volume: &VolumeFacts, info: &Info, overlay: bool) -> Option<BlockOffer> {
        let Info { read_only, discard, .. } = *info;
        let writable = BlockFeatures { discard, ..BlockFeatures::ALL };
        let features = if read_only { BlockFeatures::READ } else { writable };
        let fits = read_only || overlay || self.memory.is_some() && volume.pages <= self.span;
        fits.then_some(BlockOffer {
            sectors: volume.pages * BLOCK_SECTORS,
            read_only,
            features: BlockFeatures { ring_order: RING_ORDER, ..features },
        })
    }

    /// A device was accepted, for the first time or again.
    pub(crate) fn add(
        &mut self,
        id: DeviceId,
        info: &Info,
        volume: usize,
        Below { base, pages, snapshot, image }: Below,
        overlay: Option<OverlayId>,
        hands: &mut Hands<'_>,
    ) {
        let there = self.disks.get(id.index()).and_then(Option::as_ref);
        if there.is_some_and(|disk| (disk.id, disk.base) == (id, base)) {
            return;
        }
        self.remove(id.index(), hands);
        let first = u64::try_from(id.index()).unwrap_or(0) * self.span;
        let over = match overlay {
            Some(overlay) => Over::Store(overlay),
            None if info.read_only => Over::Nothing,
            None => Over::Memory(first),
        };
        if let Some(place) = self.disks.get_mut(id.index()) {
            *place = Some(GuestDisk {
                id,
                domain: info.domain,
                devid: info.devid,
                volume,
                base,
                // As many as a volume of the engine's can have.
                pages: u32::try_from(pages).unwrap_or(u32::MAX),
                over,
                snapshot,
                image,
                frozen: false,
                held: 0,
                ring: None,
                pending: false,
                jobs: 0,
                barred: false,
                hold: Hold::NEW,
                urgent: false,
                next_block: 0,
                ahead: 0,
                requests: Requests::NONE,
            });
        }
    }

    /// A frontend has published its ring.
    ///
    /// # Errors
    /// [`OpenError`]: the device is to be closed.
    pub(crate) fn open(
        &mut self,
        index: usize,
        info: &BlockRingInfo,
        offer: BlockOffer,
    ) -> Result<(), OpenError> {
        let Some(disk) = self.disks.get_mut(index).and_then(Option::as_mut) else {
            return Err(OpenError::Map(xen::GrantStatus::GENERAL_ERROR));
        };
        let ring = BlockRing::open(self.platform, self.window, self.scratch, info, offer)?;
        if let Some(before) = disk.ring.replace(ring) {
            log::error!("bug: domain {} has a second ring", disk.domain.0);
            before.close(self.window);
        }
        disk.pending = true;
        self.knocked = true;
        Ok(())
    }

    /// An event came on this port: whether it is a disk's.
    pub(crate) fn raise(&mut self, port: Port) -> bool {
        let of = |disk: &&mut GuestDisk| disk.ring.as_ref().is_some_and(|ring| ring.port() == port);
        let disk = self.disks.iter_mut().flatten().find(of);
        let found = disk.map(|disk| disk.pending = true).is_some();
        self.knocked |= found;
        found
    }

    /// Whether something has happened since the last turn that jobs may wait for.
    pub(crate) fn is_awake(&self) -> bool {
        self.awake
    }

    /// Something that jobs may wait for has happened.
    pub(crate) fn wake(&mut self) {
        self.awake = true;
    }

    /// A job's blocks have come to the store's disk, or its flush is done.
    pub(crate) fn finished(&mut self, finished: &Finished) {
        self.awake = true;
        let Finished { asker, blocks, good } = *finished;
        let job = self.jobs.get_mut(usize::from(asker.job)).and_then(Option::as_mut);
        // It may be another's place by now: who asked has gone.
        if let Some(job) = job.filter(|job| job.serial == asker.serial) {
            job.on_its_way = job.on_its_way.saturating_sub(blocks.max(1));
            job.failed |= !good;
        }
    }

    /// What was counted of all disks that there ever were.
    pub(crate) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Rows in use, and all, that remember which blocks in memory read as zeroes.
    pub(crate) fn hidden_rows(&self) -> (u32, u32) {
        self.memory.as_ref().map_or((0, 0), |memory| memory.hidden.rows())
    }

    /// No disk may keep more blocks in memory than this from now on.
    #[cfg(test)]
    pub(crate) fn limit_memory(&mut self, blocks: u32) {
        if let Some(memory) = &mut self.memory {
            memory.quota = blocks;
        }
    }

    /// All disks.
    pub(crate) fn disks(&self) -> impl Iterator<Item = &GuestDisk> {
        self.disks.iter().flatten()
    }
}

/// What a disk is called among those that are in memory: its place.
fn memory_number(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}
