//! A program's address space.
//!
//! Only absent entries are filled; a grant's entry is never overwritten or moved, but unmapped by `GNTTABOP_unmap_grant_ref`; a
//! table that holds one is never taken away. All three leak the grant for ever otherwise (`put_page_from_l1e` in `xen/arch/x86/mm.c`).

use core::cell::Cell;
use core::sync::atomic::{AtomicU64, Ordering};

use heapless::Vec;
use xen::Hypervisor;
use xen_sys::grant::{MapGrantRef, UNMAP_BATCH, UnmapGrantRef, gntmap};
use xen_sys::memory::{Flush, MmuExtOp, MmuUpdate, MulticallEntry, mmuext};
use xen_sys::{DomId, Errno, GrantHandle, GrantRef, GrantStatus, PAGE_SHIFT, Pfn, grant, hypercall};

use super::shadow::{HANDLES, Shadow};
use super::{Frame, FramePool, Prot, UserPage};
use crate::machine::{load64, machine, store64, words};
use crate::tables::{self, Table, TableSource};
use crate::{layout, native, pte};

/// Grants that are mapped or unmapped in one hypercall.
pub(super) const BATCH: usize = UNMAP_BATCH;
/// Address bits of what one L1 table maps.
const REGION_SHIFT: u32 = PAGE_SHIFT + 9;
/// L4 entries of user space.
const USER_SLOTS: usize = 256;

/// The root that is loaded and hooked in now; 0 is none.
static ACTIVE: AtomicU64 = AtomicU64::new(0);

/// A program's page tables. End it by [`Self::destroy`].
#[derive(Debug)]
pub struct UserSpace {
    root: Table,
    /// The region of 2 MiB that was looked up last, and its tables, which stay as long as this address space.
    recent: Cell<Option<(u64, Tables)>>,
    /// Pages of tables and their companions, the root included.
    table_frames: usize,
    private: usize,
    shared: usize,
}

/// A page of another domain's to be mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedMap {
    /// Where.
    pub page: UserPage,
    /// Whose.
    pub owner: DomId,
    /// Its reference.
    pub reference: GrantRef,
    /// [`Prot::Read`] or [`Prot::ReadExec`].
    pub prot: Prot,
}

/// What is at an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Entry {
    /// Nothing.
    Absent,
    /// A frame of our own.
    Private {
        /// What the program may do with it.
        prot: Prot,
    },
    /// A page lent to us.
    Shared {
        /// The owner's reference.
        reference: GrantRef,
        /// [`Prot::Read`] or [`Prot::ReadExec`].
        prot: Prot,
    },
}

/// What [`UserSpace::unmap`] found.
#[derive(PartialEq, Eq, Debug)]
pub enum Unmapped {
    /// A frame, now the caller's.
    Private(Frame),
    /// A grant, not mapped there any more.
    Shared(GrantRef),
    /// Nothing.
    Absent,
}

/// Why a frame was not mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MapError {
    /// Something is mapped there.
    Occupied,
    /// No frame for a page table.
    OutOfFrames,
    /// Xen refused.
    Xen(Errno),
}

/// Why a shared page was not replaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplaceError {
    /// No shared page is there.
    NotShared,
    /// Xen refused the new entry. The grant is unmapped, the address absent.
    Xen(Errno),
}

/// Why protection was not changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProtectError {
    /// Nothing is mapped there.
    Absent,
    /// A shared page can be read or executed, not written, and not be without access: unmap or replace it.
    Shared,
    /// Xen refused.
    Xen(Errno),
}

/// The address is not mapped, or without access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotMapped {
    /// The first such address.
    pub va: u64,
}

/// The address is not a private page that may be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotWritable {
    /// The first such address.
    pub va: u64,
}

impl UserSpace {
    /// An empty address space.
    ///
    /// # Errors
    /// [`MapError::OutOfFrames`], or what Xen said to the new root.
    pub fn new(pool: &mut FramePool) -> Result<Self, MapError> {
        let root = Table(pool.take().ok_or(MapError::OutOfFrames)?);
        root.words().zero();
        root.seal().map_err(MapError::Xen)?;
        let mut pin = [MmuExtOp { cmd: mmuext::PIN_L4_TABLE, arg1: root.frame().0, arg2: 0 }];
        // SAFETY: an empty, read-only page.
        unsafe { native().mmuext(&mut pin) }.map_err(MapError::Xen)?;
        Ok(Self { root, recent: Cell::new(None), table_frames: 1, private: 0, shared: 0 })
    }

    /// Pages that this address space uses for itself: tables, and what is remembered about pages.
    #[must_use]
    pub const fn table_frames(&self) -> usize {
        self.table_frames
    }

    /// Private pages mapped now.
    #[must_use]
    pub const fn private_pages(&self) -> usize {
        self.private
    }

    /// Shared pages mapped now.
    #[must_use]
    pub const fn shared_pages(&self) -> usize {
        self.shared
    }

    /// What is at `page`.
    #[must_use]
    pub fn entry(&self, page: UserPage) -> Entry {
        match self.shadow(page) {
            Shadow::Absent => Entry::Absent,
            Shadow::Private { prot, .. } => Entry::Private { prot },
            Shadow::Shared { reference, executable, .. } => {
                Entry::Shared { reference, prot: if executable { Prot::ReadExec } else { Prot::Read } }
            }
        }
    }

    /// Maps a frame where nothing is.
    ///
    /// # Errors
    /// The frame comes back with the reason.
    pub fn map_private(
        &mut self,
        pool: &mut FramePool,
        page: UserPage,
        frame: Frame,
        prot: Prot,
    ) -> Result<(), (Frame, MapError)> {
        self.activate();
        let leaf = match self.leaf(pool, page) {
            Ok(leaf) => leaf,
            Err(error) => return Err((frame, error)),
        };
        if leaf.get() != Shadow::Absent {
            return Err((frame, MapError::Occupied));
        }
        if prot != Prot::None {
            let entry = pte::user(frame.mfn(), prot.writable(), prot.executable());
            // SAFETY: the address is user space's, and absent; the frame is nobody else's.
            if let Err(errno) = unsafe { native().update_va_mapping(page.address(), entry, Flush::None) } {
                return Err((frame, MapError::Xen(errno)));
            }
        }
        leaf.set(Shadow::Private { page: frame.0, prot });
        self.private += 1;
        Ok(())
    }

    /// Maps pages that other domains lend, read-only, each where nothing is; every entry gets a status.
    ///
    /// Xen's are passed on. Without asking Xen: [`GrantStatus::BAD_VIRT_ADDR`] where something is mapped already, or for a `prot` that a
    /// shared page cannot have; [`GrantStatus::NO_SPACE`] without a frame for a table. An executable page whose NX bit Xen
    /// keeps is unmapped again: [`GrantStatus::GENERAL_ERROR`]; see [`super::text_is_shareable`].
    ///
    /// # Panics
    /// If `statuses` is shorter than `maps`.
    pub fn map_shared(&mut self, pool: &mut FramePool, maps: &[SharedMap], statuses: &mut [GrantStatus]) {
        assert!(statuses.len() >= maps.len(), "a status for each map");
        self.activate();
        for (maps, statuses) in maps.chunks(BATCH).zip(statuses.chunks_mut(BATCH)) {
            self.map_shared_batch(pool, maps, statuses);
        }
    }

    fn map_shared_batch(&mut self, pool: &mut FramePool, maps: &[SharedMap], statuses: &mut [GrantStatus]) {
        let mut ops: Vec<MapGrantRef, BATCH> = Vec::new();
        // For each of them, which map it is and where that is described.
        let mut places: Vec<(usize, Leaf), BATCH> = Vec::new();
        for (index, map) in maps.iter().enumerate() {
            statuses[index] = match self.leaf(pool, map.page) {
                Ok(leaf)
                    if leaf.get() == Shadow::Absent && matches!(map.prot, Prot::Read | Prot::ReadExec) =>
                {
                    // Marks the place, so that a second map of it in this batch is refused.
                    leaf.set(Shadow::Shared {
                        reference: map.reference,
                        handle: GrantHandle(0),
                        executable: map.prot.executable(),
                    });
                    // A batch of maps is no longer than either.
                    let _ = ops.push(MapGrantRef {
                        host_addr: map.page.address(),
                        reference: map.reference.0,
                        dom: map.owner.0,
                        ..EMPTY_MAP
                    });
                    let _ = places.push((index, leaf));
                    GrantStatus::OKAY
                }
                Ok(_) => GrantStatus::BAD_VIRT_ADDR,
                Err(_) => GrantStatus::NO_SPACE,
            };
        }
        if ops.is_empty() {
            return;
        }
        // SAFETY: the addresses are user space's, and absent; tables for them exist.
        let asked = unsafe { native().grant_map(&mut ops) };
        let mut clear_nx: Vec<MmuUpdate, BATCH> = Vec::new();
        for (op, (index, leaf)) in ops.iter().zip(&places) {
            let status = if asked.is_err() { GrantStatus::GENERAL_ERROR } else { op.status };
            statuses[*index] = status;
            if !status.is_okay() {
                leaf.set(Shadow::Absent);
                continue;
            }
            let executable = maps[*index].prot.executable();
            let (reference, handle) = (GrantRef(op.reference), GrantHandle(op.handle));
            self.shared += 1;
            if handle.0 >= HANDLES {
                statuses[*index] = self.undo_map(*leaf, maps[*index].page, handle);
                continue;
            }
            leaf.set(Shadow::Shared { reference, handle, executable });
            if executable {
                let frame = xen_sys::Mfn(op.dev_bus_addr >> PAGE_SHIFT);
                let ptr = leaf.tables.l1.entry_address(leaf.index);
                let _ = clear_nx.push(MmuUpdate { ptr, val: pte::user(frame, false, true) });
            }
        }
        // SAFETY: the same frames and access as Xen has just put there, but executable.
        if clear_nx.is_empty() || unsafe { native().mmu_update(&mut clear_nx) }.is_ok() {
            return;
        }
        for (index, leaf) in &places {
            let (page, executable) = (maps[*index].page, maps[*index].prot.executable());
            if let Shadow::Shared { handle, .. } = leaf.get()
                && executable
            {
                statuses[*index] = self.undo_map(*leaf, page, handle);
            }
        }
    }

    /// Takes a page out that was just mapped and cannot stay; gives its status.
    fn undo_map(&mut self, leaf: Leaf, page: UserPage, handle: GrantHandle) -> GrantStatus {
        unmap_grants(&mut [unmap_op(page, handle)]);
        leaf.set(Shadow::Absent);
        self.shared -= 1;
        GrantStatus::GENERAL_ERROR
    }

    /// Ends the sharing of a page: the grant is unmapped and `frame`, which has a copy of it by now, mapped instead, in one hypercall.
    /// Returns the reference that is not mapped there any more.
    ///
    /// # Errors
    /// The frame comes back with the reason.
    pub fn replace_shared(
        &mut self,
        page: UserPage,
        frame: Frame,
        prot: Prot,
    ) -> Result<GrantRef, (Frame, ReplaceError)> {
        self.activate();
        let Some(leaf) = self.find(page) else { return Err((frame, ReplaceError::NotShared)) };
        let Shadow::Shared { reference, handle, .. } = leaf.get() else {
            return Err((frame, ReplaceError::NotShared));
        };
        let entry = match prot {
            Prot::None => pte::ABSENT,
            _ => pte::user(frame.mfn(), prot.writable(), prot.executable()),
        };
        let mut unmap = [unmap_op(page, handle)];
        let mut calls = [
            MulticallEntry {
                op: hypercall::GRANT_TABLE_OP,
                result: 0,
                args: [grant::op::UNMAP_GRANT_REF, (&raw mut unmap).addr() as u64, 1, 0, 0, 0],
            },
            MulticallEntry {
                op: hypercall::UPDATE_VA_MAPPING,
                result: 0,
                args: [page.address(), entry, Flush::Page.bits(), 0, 0, 0],
            },
        ];
        // SAFETY: the mapping is ours, and only the program uses it; the frame is nobody else's.
        let asked = unsafe { native().multicall(&mut calls) };
        assert!(
            asked.is_ok() && calls[0].result == 0 && unmap[0].status.is_okay(),
            "Xen does not know our mapping of {reference:?} at {page:?}: {asked:?}, {unmap:?}"
        );
        self.shared -= 1;
        if let Err(errno) = xen::native::check(calls[1].result) {
            leaf.set(Shadow::Absent);
            return Err((frame, ReplaceError::Xen(errno)));
        }
        leaf.set(Shadow::Private { page: frame.0, prot });
        self.private += 1;
        Ok(reference)
    }

    /// Takes pages out, in batches, and hands what was there to `found`, page by page in their order.
    pub fn unmap(&mut self, pages: &[UserPage], found: &mut dyn FnMut(UserPage, Unmapped)) {
        self.activate();
        for pages in pages.chunks(BATCH) {
            self.unmap_batch(pages, found);
        }
    }

    fn unmap_batch(&mut self, pages: &[UserPage], found: &mut dyn FnMut(UserPage, Unmapped)) {
        let mut grants = [EMPTY_UNMAP; BATCH];
        let mut grants_len = 0;
        let mut calls = [MulticallEntry::default(); BATCH];
        let mut calls_len = 0;
        let mut was = [Shadow::Absent; BATCH];
        for (page, was) in pages.iter().zip(&mut was) {
            let Some(leaf) = self.find(*page) else { continue };
            *was = leaf.get();
            leaf.set(Shadow::Absent);
            match *was {
                Shadow::Shared { handle, .. } => {
                    grants[grants_len] = unmap_op(*page, handle);
                    grants_len += 1;
                }
                Shadow::Private { prot, .. } if prot != Prot::None => {
                    calls[calls_len] = MulticallEntry {
                        op: hypercall::UPDATE_VA_MAPPING,
                        result: 0,
                        args: [page.address(), pte::ABSENT, Flush::Page.bits(), 0, 0, 0],
                    };
                    calls_len += 1;
                }
                _ => {}
            }
        }
        if calls_len != 0 {
            // SAFETY: private pages of the program; their frames stay ours.
            unsafe { native().multicall(&mut calls[..calls_len]) }.expect("own pages can be unmapped");
            for call in &calls[..calls_len] {
                assert!(call.result == 0, "own pages can be unmapped: {call:?}");
            }
        }
        unmap_grants(&mut grants[..grants_len]);
        for (page, was) in pages.iter().zip(was) {
            found(
                *page,
                match was {
                    Shadow::Absent => Unmapped::Absent,
                    Shadow::Private { page, .. } => {
                        self.private -= 1;
                        Unmapped::Private(Frame(page))
                    }
                    Shadow::Shared { reference, .. } => {
                        self.shared -= 1;
                        Unmapped::Shared(reference)
                    }
                },
            );
        }
    }

    /// Changes what the program may do with a page.
    ///
    /// # Errors
    /// [`ProtectError`]; nothing has changed.
    pub fn protect(&mut self, page: UserPage, prot: Prot) -> Result<(), ProtectError> {
        self.activate();
        let leaf = self.find(page).ok_or(ProtectError::Absent)?;
        let (new, entry) = match leaf.get() {
            Shadow::Absent => return Err(ProtectError::Absent),
            Shadow::Private { page: own, .. } => {
                let frame = machine().frame(own).expect("a mapped frame");
                let entry = match prot {
                    Prot::None => pte::ABSENT,
                    _ => pte::user(frame, prot.writable(), prot.executable()),
                };
                (Shadow::Private { page: own, prot }, entry)
            }
            Shadow::Shared { reference, handle, .. } if matches!(prot, Prot::Read | Prot::ReadExec) => {
                let executable = prot.executable();
                let frame = pte::frame(leaf.tables.l1.entry(leaf.index)).expect("a mapped grant");
                (Shadow::Shared { reference, handle, executable }, pte::user(frame, false, executable))
            }
            Shadow::Shared { .. } => return Err(ProtectError::Shared),
        };
        // SAFETY: the same frame with other access; of a grant's entry only NX changes.
        unsafe { native().update_va_mapping(page.address(), entry, Flush::Page) }
            .map_err(ProtectError::Xen)?;
        leaf.set(new);
        Ok(())
    }

    /// Ends the address space, if nothing is mapped in it any more: unmap first what is.
    ///
    /// # Errors
    /// The address space, if something is mapped.
    pub fn destroy(self, pool: &mut FramePool) -> Result<(), Self> {
        if self.private + self.shared != 0 {
            return Err(self);
        }
        if ACTIVE.load(Ordering::Relaxed) == self.root.0.0 {
            load_root(None).expect("user space can be left");
        }
        let mut unpin = [MmuExtOp { cmd: mmuext::UNPIN_TABLE, arg1: self.root.frame().0, arg2: 0 }];
        // SAFETY: neither loaded nor hooked in.
        unsafe { native().mmuext(&mut unpin) }.expect("own tables can be unpinned");
        free_tables(self.root, 4, pool);
        Ok(())
    }

    /// Loads this address space: user mode will see it, and so do linear addresses in hypercalls.
    pub(super) fn activate(&self) {
        if ACTIVE.load(Ordering::Relaxed) != self.root.0.0 {
            load_root(Some(self.root)).expect("own tables can be loaded");
        }
    }

    pub(super) fn shadow(&self, page: UserPage) -> Shadow {
        self.find(page).map_or(Shadow::Absent, |leaf| leaf.get())
    }

    /// The page's place, if there is a table for it.
    pub(super) fn find(&self, page: UserPage) -> Option<Leaf> {
        let (region, index) = (page.address() >> REGION_SHIFT, layout::index(page.address(), 1));
        if let Some((recent, tables)) = self.recent.get()
            && recent == region
        {
            return Some(Leaf { tables, index });
        }
        let mut table = self.root;
        for level in [4, 3, 2] {
            table = table.below(layout::index(page.address(), level))?;
        }
        let tables = Tables { l1: table, companion: machine().companion(table.0)? };
        self.recent.set(Some((region, tables)));
        Some(Leaf { tables, index })
    }

    /// The page's place, with tables made for it as needed.
    fn leaf(&mut self, pool: &mut FramePool, page: UserPage) -> Result<Leaf, MapError> {
        if let Some(leaf) = self.find(page) {
            return Ok(leaf);
        }
        let mut table = self.root;
        for level in [4, 3, 2] {
            let index = layout::index(page.address(), level);
            table = match table.below(index) {
                Some(below) => below,
                None => self.add_table(pool, table, level, index)?,
            };
        }
        self.find(page).ok_or(MapError::OutOfFrames)
    }

    /// A new empty table below `above`, which is of `level`; an L1 gets its companion.
    fn add_table(
        &mut self,
        pool: &mut FramePool,
        above: Table,
        level: u32,
        index: usize,
    ) -> Result<Table, MapError> {
        let table = Table(pool.take().ok_or(MapError::OutOfFrames)?);
        let companion = match level {
            2 => match pool.take() {
                Some(companion) => Some(companion),
                None => {
                    pool.free(Frame::from_kept(table.0));
                    return Err(MapError::OutOfFrames);
                }
            },
            _ => None,
        };
        table.words().zero();
        let hooked = table.seal().and_then(|()| above.hook(index, table)).and_then(|()| {
            // The kernel has the same half.
            if level == 4 { tables::root().hook(index, table) } else { Ok(()) }
        });
        // Xen does not refuse an empty page; if it did, two pages would be lost.
        hooked.map_err(MapError::Xen)?;
        self.table_frames += 1;
        if let Some(companion) = companion {
            // SAFETY: a page of ours that holds words.
            unsafe { words(companion) }.zero();
            machine().keep(table.0, companion);
            self.table_frames += 1;
        }
        Ok(table)
    }
}

/// What describes the pages of a region.
#[derive(Clone, Copy, Debug)]
struct Tables {
    l1: Table,
    companion: Pfn,
}

/// Where a page is described.
#[derive(Clone, Copy)]
pub(super) struct Leaf {
    tables: Tables,
    index: usize,
}

impl Leaf {
    pub(super) fn get(&self) -> Shadow {
        // SAFETY: companions are frames of ours that hold words.
        Shadow::decode(load64(unsafe { words(self.tables.companion) }, self.index))
    }

    /// The page-table entry itself.
    pub(super) fn entry(&self) -> u64 {
        self.tables.l1.entry(self.index)
    }

    /// Where it is, for Xen.
    pub(super) fn entry_address(&self) -> u64 {
        self.tables.l1.entry_address(self.index)
    }

    pub(super) fn set(&self, shadow: Shadow) {
        // SAFETY: as above.
        store64(unsafe { words(self.tables.companion) }, self.index, shadow.encode());
    }
}

/// Makes `root` user mode's root, and hooks its tables into the kernel's.
fn load_root(root: Option<Table>) -> Result<(), Errno> {
    let kernel = tables::root();
    for index in 0..USER_SLOTS {
        let new = root.map_or(pte::ABSENT, |root| root.entry(index));
        let old = kernel.entry(index);
        if pte::frame(old) != pte::frame(new) {
            let val = pte::frame(new).map_or(pte::ABSENT, pte::table);
            // SAFETY: user space's half only; no Rust object is there.
            unsafe { native().mmu_update(&mut [MmuUpdate { ptr: kernel.entry_address(index), val }]) }?;
        }
    }
    let mut load = [
        MmuExtOp { cmd: mmuext::NEW_USER_BASEPTR, arg1: root.map_or(0, |root| root.frame().0), arg2: 0 },
        MmuExtOp { cmd: mmuext::TLB_FLUSH_LOCAL, arg1: 0, arg2: 0 },
    ];
    // SAFETY: a pinned root, or none; user mode runs only with one.
    unsafe { native().mmuext(&mut load) }?;
    ACTIVE.store(root.map_or(0, |root| root.0.0), Ordering::Relaxed);
    Ok(())
}

/// Gives the tables of a root that is used nowhere back to the pool.
fn free_tables(table: Table, level: u32, pool: &mut FramePool) {
    if level > 1 {
        for index in 0..if level == 4 { USER_SLOTS } else { 512 } {
            if let Some(below) = table.below(index) {
                free_tables(below, level - 1, pool);
            }
        }
    } else if let Some(companion) = machine().companion(table.0) {
        pool.free(Frame::from_kept(companion));
    }
    table.unseal().expect("a page that is no table any more");
    pool.free(Frame::from_kept(table.0));
}

const EMPTY_MAP: MapGrantRef = MapGrantRef {
    host_addr: 0,
    flags: gntmap::HOST_MAP | gntmap::READONLY | gntmap::APPLICATION_MAP,
    reference: 0,
    dom: 0,
    status: GrantStatus::GENERAL_ERROR,
    handle: 0,
    dev_bus_addr: 0,
};

const EMPTY_UNMAP: UnmapGrantRef =
    UnmapGrantRef { host_addr: 0, dev_bus_addr: 0, handle: 0, status: GrantStatus::GENERAL_ERROR };

fn unmap_op(page: UserPage, handle: GrantHandle) -> UnmapGrantRef {
    UnmapGrantRef { host_addr: page.address(), handle: handle.0, ..EMPTY_UNMAP }
}

/// Unmaps grants of ours. That Xen does not know one of them is a bug of ours, and goes on as a leak if we did.
fn unmap_grants(ops: &mut [UnmapGrantRef]) {
    if ops.is_empty() {
        return;
    }
    // SAFETY: mappings in user space, which no Rust object refers to.
    unsafe { native().grant_unmap(ops) }.expect("own mappings can be unmapped");
    for op in ops {
        assert!(op.status.is_okay(), "Xen does not know our mapping: {op:?}");
    }
}
