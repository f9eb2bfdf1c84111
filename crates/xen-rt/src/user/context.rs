//! A program's registers, and running it until it traps.

use xen_sys::trap;

/// Pseudo-vector of an event upcall while the program ran.
pub(crate) const VECTOR_EVENT: u64 = 256;
/// Pseudo-vector of a system call.
pub(crate) const VECTOR_SYSCALL: u64 = 257;

/// Flags that a program may have as it likes: status flags, trap, direction, alignment check, identification.
const RFLAGS_FREE: u64 = 0x24_0dd5;
/// Always set: interrupts on (events are let through), and the bit that is always 1.
const RFLAGS_SET: u64 = 0x202;
/// Byte of the SSE control word in the FXSAVE area; its high half must be 0.
const MXCSR: usize = 24;

/// General registers.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "named as in the processor's manual")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
}

/// Everything of a program that is in the processor.
#[repr(C, align(16))]
#[derive(Clone, Debug)]
pub struct UserContext {
    /// General registers.
    pub regs: Registers,
    /// Base of FS: where thread-local storage is.
    pub fs_base: u64,
    /// Base of GS.
    pub gs_base: u64,
    /// x87 and SSE state, as FXSAVE stores it. Upper halves of AVX registers stay in the processor.
    pub fx: [u8; 512],
    pub(crate) vector: u64,
    pub(crate) error: u64,
}

// FXSAVE wants 16-byte alignment.
const _: () = assert!(core::mem::offset_of!(UserContext, fx).is_multiple_of(16));

/// Why a program stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// System call: its number is in rax, arguments in rdi, rsi, rdx, r10, r8, r9; rip is behind the instruction.
    Syscall,
    /// It touched memory that it may not, or not yet.
    PageFault {
        /// The address that it touched.
        va: u64,
        /// It wanted to write.
        write: bool,
        /// It wanted to run code there.
        fetch: bool,
        /// There is a page, with other rights.
        present: bool,
    },
    /// Another exception.
    Exception {
        /// The processor's vector.
        vector: u8,
        /// Its error code, or 0.
        code: u64,
    },
    /// An event is pending.
    Event,
}

impl UserContext {
    /// A program that is about to run its first instruction at `entry`.
    #[must_use]
    pub const fn new(entry: u64, stack: u64) -> Self {
        let mut fx = [0; 512];
        // What Linux starts programs with: x87 control 0x37f, MXCSR 0x1f80: all exceptions masked.
        fx[0] = 0x7f;
        fx[1] = 0x03;
        fx[MXCSR] = 0x80;
        fx[MXCSR + 1] = 0x1f;
        let regs = Registers {
            rip: entry,
            rsp: stack,
            rflags: RFLAGS_SET,
            rax: 0,
            rbx: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: 0,
            rbp: 0,
            r8: 0,
            r9: 0,
            r10: 0,
            r11: 0,
            r12: 0,
            r13: 0,
            r14: 0,
            r15: 0,
        };
        Self { regs, fs_base: 0, gs_base: 0, fx, vector: 0, error: 0 }
    }

    /// Makes the context one that the processor accepts: a program, or the kernel for it, may have written anything.
    pub(super) fn sanitise(&mut self) {
        self.regs.rflags = (self.regs.rflags & RFLAGS_FREE) | RFLAGS_SET;
        self.fx[MXCSR + 2] = 0;
        self.fx[MXCSR + 3] = 0;
    }

    /// What the last trap was.
    pub(super) fn exit(&self, fault_address: u64) -> Exit {
        match self.vector {
            VECTOR_EVENT => Exit::Event,
            VECTOR_SYSCALL => Exit::Syscall,
            14 => Exit::PageFault {
                va: fault_address,
                present: self.error & 1 != 0,
                write: self.error & 2 != 0,
                fetch: self.error & 16 != 0,
            },
            vector => Exit::Exception { vector: vector.to_le_bytes()[0], code: self.error },
        }
    }

    /// The flags word of the iret frame. The quick way back (SYSRET) puts rip into rcx and rflags into r11, which is what a system call does
    /// to them anyway.
    pub(super) fn iret_flags(&self) -> u64 {
        let quick = self.regs.rcx == self.regs.rip && self.regs.r11 == self.regs.rflags;
        if quick { trap::VGCF_IN_SYSCALL } else { 0 }
    }
}

impl UserContext {
    /// The upper halves of the AVX registers, as the program that ran last left them; `None` in a domain without AVX.
    #[must_use]
    pub fn upper_halves() -> Option<[u8; 256]> {
        #[cfg(feature = "image")]
        return crate::image::cpu::upper_halves();
        #[cfg(not(feature = "image"))]
        None
    }

    /// Replaces them, for the program that runs next. False in a domain without AVX.
    #[must_use]
    pub fn set_upper_halves(halves: &[u8; 256]) -> bool {
        #[cfg(feature = "image")]
        return crate::image::cpu::set_upper_halves(halves);
        #[cfg(not(feature = "image"))]
        {
            let _ = halves;
            false
        }
    }
}

#[cfg(feature = "image")]
mod run {
    use core::sync::atomic::{AtomicU64, Ordering};

    use xen::native::raw;
    use xen_sys::hypercall;
    use xen_sys::start::shared_info;

    use super::{Exit, UserContext};
    use crate::image::{boot::shared_info_word, user::xen_rt_enter_user};

    /// Bases that are loaded.
    static FS: AtomicU64 = AtomicU64::new(0);
    static GS: AtomicU64 = AtomicU64::new(0);

    impl UserContext {
        /// Runs the program with the page tables that are loaded.
        pub(crate) fn enter(&mut self) -> Exit {
            self.sanitise();
            load_base(&FS, hypercall::SEGBASE_FS, &mut self.fs_base);
            load_base(&GS, hypercall::SEGBASE_GS_USER, &mut self.gs_base);
            let flags = self.iret_flags();
            // SAFETY: the state was made legal above; the stubs bring us back here with the callee-saved registers that
            // we have now.
            unsafe { xen_rt_enter_user(self, flags) };
            let address = shared_info_word(shared_info::CR2);
            self.exit(address)
        }
    }

    /// Loads a segment base if it is another one now. One that Xen refuses (not canonical) becomes 0.
    fn load_base(loaded: &AtomicU64, which: u64, base: &mut u64) {
        if loaded.load(Ordering::Relaxed) == *base {
            return;
        }
        // SAFETY: a segment base is the program's own affair; the kernel uses neither.
        if unsafe { raw(hypercall::SET_SEGMENT_BASE, [which, *base, 0, 0, 0]) } < 0 {
            *base = 0;
            // SAFETY: as above.
            unsafe { raw(hypercall::SET_SEGMENT_BASE, [which, 0, 0, 0, 0]) };
        }
        loaded.store(*base, Ordering::Relaxed);
    }
}
