//! Traps, callbacks and segment selectors (`xen/include/public/{xen,callback}.h`, `arch-x86/xen-x86_64.h`).

/// Flat kernel code selector.
pub const KERNEL_CS: u16 = 0xe033;
/// Flat data and stack selector.
pub const KERNEL_SS: u16 = 0xe02b;
/// Flag of [`TrapInfo::flags`]: upcalls are masked when the handler starts.
pub const TRAP_MASKS_EVENTS: u8 = 4;

/// `struct trap_info`; a list ends with `address` 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct TrapInfo {
    /// Exception vector.
    pub vector: u8,
    /// Bits 0 and 1: privilege from which `int` may raise it; [`TRAP_MASKS_EVENTS`].
    pub flags: u8,
    /// Code selector.
    pub cs: u16,
    /// Handler.
    pub address: u64,
}
layout!(TrapInfo, 16, vector @ 0, flags @ 1, cs @ 2, address @ 8);

/// `struct callback_register`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CallbackRegister {
    /// [`CALLBACK_EVENT`] and its siblings.
    pub kind: u16,
    /// [`CALLBACK_MASKS_EVENTS`] or 0.
    pub flags: u16,
    /// Handler.
    pub address: u64,
}
layout!(CallbackRegister, 16, kind @ 0, flags @ 2, address @ 8);

/// Event upcall.
pub const CALLBACK_EVENT: u16 = 0;
/// Xen could not load a selector of ours.
pub const CALLBACK_FAILSAFE: u16 = 1;
/// `syscall` from user mode.
pub const CALLBACK_SYSCALL: u16 = 2;
/// Upcalls are masked when the callback starts.
pub const CALLBACK_MASKS_EVENTS: u16 = 1;
/// Flag of the iret frame: return by SYSRET, which loses rcx and r11 (`VGCF_in_syscall`).
pub const VGCF_IN_SYSCALL: u64 = 0x100;
