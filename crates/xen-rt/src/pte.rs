//! Page-table entries as a PV guest writes them.
//!
//! Xen adds the user bit to everything. An entry without it is a kernel page: Xen marks it so and does not make it global; one with it is
//! shown to user mode. Absent is always 0: a non-present entry that names a frame crashes the domain on
//! processors with L1TF (`xen/arch/x86/include/asm/shadow.h`, `pv_l1tf_check_pte`).

use x86_64::structures::paging::PageTableFlags as F;
use xen_sys::{Mfn, PAGE_SHIFT};

/// The absent entry.
pub(crate) const ABSENT: u64 = 0;
/// Bits of an entry that are the frame's.
const FRAME: u64 = 0x000f_ffff_ffff_f000;

const KERNEL_READ: F = F::PRESENT.union(F::ACCESSED).union(F::NO_EXECUTE);

/// What a kernel mapping permits. There is no writable executable one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kernel {
    /// Constants, page tables.
    Read,
    /// Data.
    ReadWrite,
    /// Code.
    ReadExec,
}

/// A kernel page.
pub(crate) fn kernel(frame: Mfn, access: Kernel) -> u64 {
    let flags = match access {
        Kernel::Read => KERNEL_READ,
        Kernel::ReadWrite => KERNEL_READ.union(F::WRITABLE).union(F::DIRTY),
        Kernel::ReadExec => KERNEL_READ.difference(F::NO_EXECUTE),
    };
    entry(frame, flags)
}

/// A user page.
pub(crate) fn user(frame: Mfn, write: bool, execute: bool) -> u64 {
    let mut flags = F::PRESENT | F::ACCESSED | F::USER_ACCESSIBLE;
    // Xen's grant mappings have the dirty bit, so clearing NX of one leaves it as it was.
    flags |= F::DIRTY;
    flags.set(F::WRITABLE, write);
    flags.set(F::NO_EXECUTE, !execute);
    entry(frame, flags)
}

/// A table below another one. Access is decided by the last level.
pub(crate) fn table(frame: Mfn) -> u64 {
    entry(frame, F::PRESENT | F::WRITABLE | F::USER_ACCESSIBLE | F::ACCESSED | F::DIRTY)
}

fn entry(frame: Mfn, flags: F) -> u64 {
    (frame.address() & FRAME) | flags.bits()
}

/// The frame of a present entry.
pub(crate) fn frame(entry: u64) -> Option<Mfn> {
    (entry & F::PRESENT.bits() != 0).then_some(Mfn((entry & FRAME) >> PAGE_SHIFT))
}

/// The same entry as if the processor had not used it.
pub(crate) fn not_accessed(entry: u64) -> u64 {
    entry & !F::ACCESSED.bits()
}

/// Whether the processor has used the entry.
pub(crate) fn is_accessed(entry: u64) -> bool {
    entry & F::ACCESSED.bits() != 0
}

/// Whether a present entry lets code run.
pub(crate) fn is_executable(entry: u64) -> bool {
    entry & F::PRESENT.bits() != 0 && entry & F::NO_EXECUTE.bits() == 0
}
