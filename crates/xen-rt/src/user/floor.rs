//! The hypercalls of the fault path with nothing around them: what a client kernel's faults are compared with.
//!
//! Who uses it: `tests/guests/fault-floor`. The pages are never recorded in the address space, so nothing else there may use
//! them.

use xen::Hypervisor;
use xen_ring::PageWords;
use xen_sys::grant::{MapGrantRef, UnmapGrantRef, gntmap};
use xen_sys::memory::{Flush, MmuUpdate, MulticallEntry};
use xen_sys::{DomId, GrantRef, GrantStatus, Mfn, PAGE_SHIFT, grant, hypercall};

use super::{Frame, FramePool, Prot, UserPage, UserSpace};
use crate::machine::copy_page;
use crate::{layout, native, pte, tables};

/// Most pages of a [`Floor`].
pub const FLOOR_PAGES: usize = 64;

/// What is at a page.
#[derive(Debug)]
enum State {
    Absent,
    Shared,
    Own(Frame),
}

/// Pages in a row that other domains lend, mapped and broken up by hypercalls alone.
#[derive(Debug)]
pub struct Floor {
    space: UserSpace,
    /// Machine address of the first page's entry.
    entries: u64,
    ops: [MapGrantRef; FLOOR_PAGES],
    states: [State; FLOOR_PAGES],
    pages: usize,
}

impl Floor {
    /// Pages from `first` on for these references of `owner`, all in one region of 2 MiB, none mapped yet.
    ///
    /// `None`: they do not lie so, are too many, something is mapped there, or there is no frame for a table.
    pub fn new(
        mut space: UserSpace,
        pool: &mut FramePool,
        owner: DomId,
        first: UserPage,
        references: &[GrantRef],
    ) -> Option<Self> {
        let base = first.address();
        let end = base + ((references.len() as u64) << PAGE_SHIFT);
        if references.is_empty() || references.len() > FLOOR_PAGES || base >> 21 != (end - 1) >> 21 {
            return None;
        }
        for index in 0..references.len() as u64 {
            let page = UserPage::try_new(base + (index << PAGE_SHIFT))?;
            if space.entry(page) != super::Entry::Absent {
                return None;
            }
        }
        // Makes the tables, which stay.
        let frame = pool.alloc().ok()?;
        if let Err((frame, _)) = space.map_private(pool, first, frame, Prot::Read) {
            pool.free(frame);
            return None;
        }
        space.unmap(&[first], &mut |_, found| {
            if let super::Unmapped::Private(frame) = found {
                pool.free(frame);
            }
        });
        let entries = tables::l1_of(base)?.entry_address(layout::index(base, 1));
        let ops = core::array::from_fn(|index| MapGrantRef {
            host_addr: base + ((index as u64) << PAGE_SHIFT),
            flags: gntmap::HOST_MAP | gntmap::READONLY | gntmap::APPLICATION_MAP,
            reference: references.get(index).map_or(0, |reference| reference.0),
            dom: owner.0,
            status: GrantStatus::GENERAL_ERROR,
            handle: 0,
            dev_bus_addr: 0,
        });
        Some(Self {
            space,
            entries,
            ops,
            states: [const { State::Absent }; FLOOR_PAGES],
            pages: references.len(),
        })
    }

    /// The address space.
    pub const fn space(&self) -> &UserSpace {
        &self.space
    }

    /// Maps `count` pages from the one with this index on, in one batch, executable in a second one if wanted. All must
    /// be absent. Tells whether all were mapped.
    pub fn map(&mut self, index: usize, count: usize, executable: bool) -> bool {
        self.space.activate();
        let Some(end) = index.checked_add(count).filter(|end| *end <= self.pages) else { return false };
        if self.states[index..end].iter().any(|state| !matches!(state, State::Absent)) {
            return false;
        }
        let ops = &mut self.ops[index..end];
        // SAFETY: the addresses are user space's, and absent; a table for them exists.
        let asked = unsafe { native().grant_map(ops) }.is_ok();
        let mut all = asked;
        let mut clear_nx: heapless::Vec<MmuUpdate, FLOOR_PAGES> = heapless::Vec::new();
        for (at, (op, state)) in (index as u64..).zip(ops.iter().zip(&mut self.states[index..end])) {
            if !asked || !op.status.is_okay() {
                all = false;
                continue;
            }
            *state = State::Shared;
            if executable {
                let frame = Mfn(op.dev_bus_addr >> PAGE_SHIFT);
                let update = MmuUpdate { ptr: self.entries + 8 * at, val: pte::user(frame, false, true) };
                // There is room for all pages.
                let _ = clear_nx.push(update);
            }
        }
        // SAFETY: the same frames and access as Xen has just put there, but executable.
        all && (!executable || unsafe { native().mmu_update(&mut clear_nx) }.is_ok())
    }

    /// Copies the shared page with this index to `frame`, and maps that in its place in one multicall. Tells whether it was.
    pub fn break_shared(&mut self, index: usize, frame: Frame) -> bool {
        self.space.activate();
        let (Some(op), Some(state)) = (self.ops.get(index), self.states.get_mut(index)) else { return false };
        if !matches!(state, State::Shared) {
            return false;
        }
        // SAFETY: mapped there until the multicall below; words may be changed by anybody.
        copy_page(frame.words(), unsafe { &*(op.host_addr as *const PageWords) });
        let mut unmap = [unmap_op(op)];
        let entry = pte::user(frame.mfn(), true, false);
        let mut calls = [
            MulticallEntry {
                op: hypercall::GRANT_TABLE_OP,
                result: 0,
                args: [grant::op::UNMAP_GRANT_REF, (&raw mut unmap).addr() as u64, 1, 0, 0, 0],
            },
            MulticallEntry {
                op: hypercall::UPDATE_VA_MAPPING,
                result: 0,
                args: [op.host_addr, entry, Flush::Page.bits(), 0, 0, 0],
            },
        ];
        // SAFETY: the mapping is ours, and only the program uses it; the frame is kept until `undo`.
        let asked = unsafe { native().multicall(&mut calls) };
        *state = State::Own(frame);
        asked.is_ok() && calls.iter().all(|call| call.result == 0) && unmap[0].status.is_okay()
    }

    /// Takes everything out again.
    ///
    /// # Panics
    /// If Xen does not know one of the mappings.
    pub fn undo(&mut self, pool: &mut FramePool) {
        self.space.activate();
        for (op, state) in self.ops.iter().zip(&mut self.states) {
            match core::mem::replace(state, State::Absent) {
                State::Absent => {}
                State::Shared => {
                    let mut unmap = [unmap_op(op)];
                    // SAFETY: a mapping in user space, which no Rust object refers to.
                    let asked = unsafe { native().grant_unmap(&mut unmap) };
                    assert!(asked.is_ok() && unmap[0].status.is_okay(), "own mappings can be unmapped");
                }
                State::Own(frame) => {
                    // SAFETY: a private page of the program; its frame stays ours.
                    unsafe { native().update_va_mapping(op.host_addr, pte::ABSENT, Flush::Page) }
                        .expect("own pages can be unmapped");
                    pool.free(frame);
                }
            }
        }
    }
}

fn unmap_op(op: &MapGrantRef) -> UnmapGrantRef {
    UnmapGrantRef {
        host_addr: op.host_addr,
        dev_bus_addr: 0,
        handle: op.handle,
        status: GrantStatus::GENERAL_ERROR,
    }
}
