//! The frame that a handler runs on, and the way back: `struct rt_sigframe` of `arch/x86/include/asm/sigframe.h`, with
//! `struct ucontext` and `struct sigcontext` of `uapi/asm`.

use super::{Action, AlternateStack, Info, SS_AUTODISARM, SS_ONSTACK, sa};
use crate::machine::Registers;
use crate::page::USER_END;

/// Bytes below the stack pointer that belong to the program (System V ABI, the red zone).
const RED_ZONE: u64 = 128;
const FXSAVE: u64 = 512;
/// Return address, `ucontext` (304 bytes), `siginfo`.
const FRAME: u64 = 8 + UCONTEXT + 128;
const UCONTEXT: u64 = 304;
/// Where `sigcontext` starts in `ucontext`, and the signal mask.
const SIGCONTEXT: usize = 40;
const MASK: usize = 296;
/// The selectors of a program under 64-bit Xen: `FLAT_USER_CS64` and `FLAT_USER_SS64`, as `arch-x86/xen-x86_64.h` has it.
const CODE_SELECTOR: u64 = 0xe033;
const STACK_SELECTOR: u64 = 0xe02b;
/// `UC_SIGCONTEXT_SS | UC_STRICT_RESTORE_SS`: the frame holds `ss`.
const UC_FLAGS: u64 = 6;
/// Flags of RFLAGS that a handler's return may set (`FIX_EFLAGS`).
const RFLAGS: u64 = 0x0005_0dd5;

/// A frame to be written to the program's stack, and the registers to go on with.
pub(crate) struct Frame {
    pub(crate) at: u64,
    pub(crate) bytes: [u8; FRAME as usize],
    /// Where the FXSAVE image goes.
    pub(crate) fpu_at: u64,
    pub(crate) registers: Registers,
}

/// The FXSAVE image of a program that starts: everything masked, all registers empty.
pub(crate) fn initial_fpu() -> [u8; 512] {
    let mut image = [0; 512];
    image[..2].copy_from_slice(&0x037f_u16.to_le_bytes());
    image[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    image
}

fn sigcontext(registers: &Registers, info: &Info, mask: u64, fpu_at: u64) -> [u64; 32] {
    let r = registers;
    let (vector, error, address) = info.trap;
    let mut words = [0; 32];
    words[..18].copy_from_slice(&[
        r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15, r.rdi, r.rsi, r.rbp, r.rbx, r.rdx, r.rax,
        r.rcx, r.rsp, r.rip, r.rflags,
    ]);
    words[18..24].copy_from_slice(&[
        CODE_SELECTOR | STACK_SELECTOR << 48,
        error,
        vector,
        mask,
        address,
        fpu_at,
    ]);
    words
}

/// Builds the frame for a handler. `None` where its stack cannot be.
pub(crate) fn build(
    registers: &Registers,
    info: &Info,
    action: &Action,
    stack: &AlternateStack,
    mask: u64,
) -> Option<Frame> {
    let on_alternate = stack.holds(registers.rsp);
    let switch = action.flags & sa::ONSTACK != 0 && stack.flags & super::SS_DISABLE == 0 && !on_alternate;
    let top =
        if switch { stack.base.checked_add(stack.size)? } else { registers.rsp.checked_sub(RED_ZONE)? };
    let fpu_at = top.checked_sub(FXSAVE)? & !63;
    let at = (fpu_at.checked_sub(FRAME)? & !15).checked_sub(8)?;
    if top > USER_END || (switch && at < stack.base) || action.flags & sa::RESTORER == 0 {
        return None;
    }
    let mut bytes = [0; FRAME as usize];
    let mut put = |offset: usize, word: u64| bytes[offset..offset + 8].copy_from_slice(&word.to_le_bytes());
    put(0, action.restorer);
    let context = 8;
    put(context, UC_FLAGS);
    put(context + 16, stack.base);
    put(context + 24, u64::from(stack.flags | if on_alternate { SS_ONSTACK } else { 0 }));
    put(context + 32, stack.size);
    for (index, word) in sigcontext(registers, info, mask, fpu_at).into_iter().enumerate() {
        put(context + SIGCONTEXT + 8 * index, word);
    }
    put(context + MASK, mask);
    let info_offset = 8 + UCONTEXT as usize;
    bytes[info_offset..].copy_from_slice(&info.encode());
    let after = Registers {
        rax: 0,
        rdi: u64::from(info.signal),
        rsi: at + info_offset as u64,
        rdx: at + context as u64,
        rip: action.handler & (u64::MAX >> 17),
        rsp: at,
        // Direction, trap and resume flags cleared, as the ABI wants at a function's start.
        rflags: registers.rflags & !(0x400 | 0x100 | 0x1_0000),
        ..*registers
    };
    Some(Frame { at, bytes, fpu_at, registers: after })
}

/// What `rt_sigreturn` finds.
pub(crate) struct Restored {
    pub(crate) registers: Registers,
    pub(crate) mask: u64,
    /// Where the FXSAVE image is; zero for none.
    pub(crate) fpu_at: u64,
    pub(crate) alternate: AlternateStack,
}

/// Bytes that [`restore`] wants, from the stack pointer on: the return address is gone, `ucontext` is on top.
pub(crate) const RESTORE: usize = UCONTEXT as usize;

/// Reads the registers back. Whatever the program wrote there, it comes back as a program: only user flags are taken, and
/// an address that is not canonical is left to fault.
pub(crate) fn restore(bytes: &[u8; RESTORE], before: &Registers) -> Restored {
    let word = |offset: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[offset..offset + 8]);
        u64::from_le_bytes(word)
    };
    let r = |index: usize| word(SIGCONTEXT + 8 * index);
    let registers = Registers {
        r8: r(0),
        r9: r(1),
        r10: r(2),
        r11: r(3),
        r12: r(4),
        r13: r(5),
        r14: r(6),
        r15: r(7),
        rdi: r(8),
        rsi: r(9),
        rbp: r(10),
        rbx: r(11),
        rdx: r(12),
        rax: r(13),
        rcx: r(14),
        rsp: r(15),
        rip: r(16) & (u64::MAX >> 17),
        rflags: before.rflags & !RFLAGS | r(17) & RFLAGS,
        fs_base: before.fs_base,
        gs_base: before.gs_base,
    };
    Restored {
        registers,
        mask: word(MASK),
        fpu_at: r(23),
        alternate: AlternateStack {
            base: word(16),
            size: word(32),
            flags: word(24) as u32 & (super::SS_DISABLE | SS_AUTODISARM),
        },
    }
}
