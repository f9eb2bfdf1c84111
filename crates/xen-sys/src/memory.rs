//! Page tables and memory reservations (`xen/include/public/{xen,memory}.h`).

/// Sub-operations of `memory_op` (`XENMEM_*`).
pub mod op {
    #![expect(missing_docs, reason = "named as in the header")]
    pub const DECREASE_RESERVATION: u64 = 1;
    pub const CURRENT_RESERVATION: u64 = 3;
    pub const MAXIMUM_RESERVATION: u64 = 4;
    pub const POPULATE_PHYSMAP: u64 = 6;
}

/// Commands of `mmuext_op` (`MMUEXT_*`).
pub mod mmuext {
    #![expect(missing_docs, reason = "named as in the header")]
    pub const PIN_L4_TABLE: u32 = 3;
    pub const UNPIN_TABLE: u32 = 4;
    pub const NEW_BASEPTR: u32 = 5;
    pub const TLB_FLUSH_LOCAL: u32 = 6;
    pub const INVLPG_LOCAL: u32 = 7;
    pub const NEW_USER_BASEPTR: u32 = 15;
}

/// What `update_va_mapping` flushes (`UVMF_*`); on one virtual CPU, the local TLB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flush {
    /// Nothing: the entry was not present before.
    None,
    /// The whole TLB.
    All,
    /// The one page.
    Page,
}

impl Flush {
    /// The flags word.
    #[must_use]
    pub const fn bits(self) -> u64 {
        match self {
            Self::None => 0,
            Self::All => 1,
            Self::Page => 2,
        }
    }
}

/// `struct mmu_update`. `ptr` bits 0 and 1 choose the kind: 0 normal entry, 1 machine-to-physical.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MmuUpdate {
    /// Machine address of the entry.
    pub ptr: u64,
    /// Its new value.
    pub val: u64,
}
layout!(MmuUpdate, 16, ptr @ 0, val @ 8);

/// `struct mmuext_op`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MmuExtOp {
    /// [`mmuext`].
    pub cmd: u32,
    /// `arg1`: a machine frame or a linear address.
    pub arg1: u64,
    /// `arg2`.
    pub arg2: u64,
}
layout!(MmuExtOp, 24, cmd @ 0, arg1 @ 8, arg2 @ 16);

/// `struct multicall_entry`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct MulticallEntry {
    /// Hypercall number.
    pub op: u64,
    /// Result, negative for an error.
    pub result: i64,
    /// Arguments.
    pub args: [u64; 6],
}
layout!(MulticallEntry, 64, op @ 0, result @ 8, args @ 16);

/// `struct xen_memory_reservation`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MemoryReservation {
    /// Guest address of the list of frames.
    pub extent_start: u64,
    /// How many.
    pub nr_extents: u64,
    /// 0: single pages.
    pub extent_order: u32,
    /// 0.
    pub mem_flags: u32,
    /// Whose.
    pub domid: u16,
}
layout!(MemoryReservation, 32, extent_start @ 0, nr_extents @ 8, extent_order @ 16, mem_flags @ 20, domid @ 24);
