//! The grant table's frames: Xen's, mapped into an area of their own.

use core::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};

use spin::Once;
use xen::grant::GrantArea;
use xen::{GrantTable, Hypervisor};
use xen_ring::PageWords;
use xen_sys::memory::Flush;
use xen_sys::{Errno, Mfn, PAGE_SIZE};

use crate::machine::machine;
use crate::{BootMemory, layout, native, pte, tables};

/// Frames that the table may grow to here, whatever Xen allows: 65,536 frames are 2^25 references.
const FRAMES_MAX: u32 = 65_536;

struct Area {
    /// Room for the list of all frames, which Xen fills anew at every growth.
    list: AtomicPtr<Mfn>,
    len: AtomicUsize,
}

static AREA: Area = Area { list: AtomicPtr::new(core::ptr::null_mut()), len: AtomicUsize::new(0) };
static TABLE: Once<GrantTable> = Once::new();

/// Reserves the area for as many frames as Xen allows, and makes the first one usable.
pub(crate) fn install(memory: &mut BootMemory) -> &'static GrantTable {
    let (_, max) = native().grant_query_size().expect("grant table size");
    let max = max.min(FRAMES_MAX) as usize;
    let list = memory.slice(max, Mfn(0)).expect("memory for the grant table's list");
    AREA.len.store(list.len(), Ordering::Relaxed);
    AREA.list.store(list.as_mut_ptr(), Ordering::Relaxed);
    for first in (0..max).step_by(512) {
        tables::ensure(layout::GRANT_BASE + (first * PAGE_SIZE) as u64, 1, memory)
            .expect("tables for the grant table");
    }
    // SAFETY: addresses of this area are used for nothing else; GrantTable touches only frames that `grow` has mapped.
    let area = unsafe { core::slice::from_raw_parts(layout::GRANT_BASE as *const PageWords, max) };
    let table = TABLE.call_once(|| GrantTable::new(area, &AREA));
    table.grow_to(1).expect("the first grant frame");
    table
}

impl GrantArea for Area {
    fn grow(&self, frames: u32) -> Result<(), Errno> {
        let len = self.len.load(Ordering::Relaxed);
        if frames as usize > len {
            return Err(Errno::INVAL);
        }
        // SAFETY: the slice that `install` leaked; only this function uses it, on the one virtual CPU, and it does not
        // call itself.
        let list = unsafe { core::slice::from_raw_parts_mut(self.list.load(Ordering::Relaxed), len) };
        native().grant_setup_table(frames, list)?;
        for (index, frame) in list.iter().take(frames as usize).enumerate() {
            let address = layout::GRANT_BASE + (index * PAGE_SIZE) as u64;
            if tables::is_mapped(address) {
                continue;
            }
            // SAFETY: a fresh frame of the table, at an address that is the area's.
            unsafe {
                native().update_va_mapping(address, pte::kernel(*frame, pte::Kernel::ReadWrite), Flush::None)
            }?;
        }
        Ok(())
    }

    fn lend(&self, frame: Mfn) -> bool {
        machine().lend(frame)
    }

    fn unlend(&self, frame: Mfn) {
        machine().unlend(frame);
    }

    fn may_share(&self, frame: Mfn) -> bool {
        machine().may_share(frame)
    }
}
