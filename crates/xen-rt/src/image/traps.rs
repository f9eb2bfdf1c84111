//! Exceptions, event upcalls and system calls: the stubs that Xen jumps to.
//!
//! Xen pushes rcx, r11, an error code for the vectors that have one, and rip, cs, rflags, rsp, ss. The low bits of cs tell who
//! was interrupted: 0 the kernel, 3 user mode. Kernel and user run in the same ring, so the kernel's stubs go on where the kernel's stack
//! is, and user mode's arrive on a small stack and leave it for the one that [`crate::user::UserContext::run`] was called on.
//!
//! Upcalls are masked whenever kernel code runs, except inside `SCHEDOP_block`; the stub for that marks the upcall as taken, masks again,
//! and returns: the loop around the block looks at the ports.

use core::arch::global_asm;
use core::fmt;
use core::sync::atomic::{AtomicU64, Ordering};

use xen::native::{check, raw};
use xen_sys::trap::{self, CallbackRegister};
use xen_sys::{Errno, hypercall, start::shared_info};

use crate::user::context;

/// Registers when the kernel itself trapped, in the order in which the stub pushed them.
#[repr(C)]
pub(crate) struct KernelTrap {
    r15: u64,
    r14: u64,
    r13: u64,
    r12: u64,
    r11: u64,
    r10: u64,
    r9: u64,
    r8: u64,
    rdi: u64,
    rsi: u64,
    rbp: u64,
    rbx: u64,
    rdx: u64,
    rcx: u64,
    rax: u64,
    vector: u64,
    error: u64,
    rip: u64,
    cs: u64,
    rflags: u64,
    rsp: u64,
    ss: u64,
}

impl fmt::Display for KernelTrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rax, rbx, rcx, rdx, rsi, rdi, rbp, rsp, .. } = self;
        let Self { r8, r9, r10, r11, r12, r13, r14, r15, .. } = self;
        writeln!(f, "  rip {:016x} flags {:x} cs {:x} ss {:x}", self.rip, self.rflags, self.cs, self.ss)?;
        writeln!(f, "  rax {rax:016x} rbx {rbx:016x} rcx {rcx:016x} rdx {rdx:016x}")?;
        writeln!(f, "  rsi {rsi:016x} rdi {rdi:016x} rbp {rbp:016x} rsp {rsp:016x}")?;
        writeln!(f, "  r8  {r8:016x} r9  {r9:016x} r10 {r10:016x} r11 {r11:016x}")?;
        write!(f, "  r12 {r12:016x} r13 {r13:016x} r14 {r14:016x} r15 {r15:016x}")
    }
}

/// Where to go on if the next kernel exception was expected; 0 otherwise.
pub(crate) static FIXUP: AtomicU64 = AtomicU64::new(0);

global_asm!(
    r#"
    # One line of the trap table: struct trap_info in xen/include/public/arch-x86/xen.h.
    .macro trap_line vector, dpl
        .pushsection .rodata.traps, "a", @progbits
        .byte \vector, \dpl + {masks_events}
        .short {cs}
        .long 0
        .quad xen_rt_trap_\vector
        .popsection
    .endm
    .macro trap_without vector, dpl=0
        trap_line \vector, \dpl
        .balign 16
    xen_rt_trap_\vector:
        pop rcx
        pop r11
        push 0
        push \vector
        jmp xen_rt_trap
    .endm
    .macro trap_with vector
        trap_line \vector, 0
        .balign 16
    xen_rt_trap_\vector:
        pop rcx
        pop r11
        push \vector
        jmp xen_rt_trap
    .endm

    .pushsection .rodata.traps, "a", @progbits
    .balign 16
    .global xen_rt_trap_table, xen_rt_event, xen_rt_syscall, xen_rt_failsafe
    xen_rt_trap_table:
    .popsection

    # NMI (2), double fault (8) and machine check (18) are Xen's own.
    .pushsection .text.traps, "ax", @progbits
    trap_without 0
    trap_without 1
    trap_without 3, 3
    trap_without 4, 3
    trap_without 5
    trap_without 6
    trap_without 7
    trap_with 10
    trap_with 11
    trap_with 12
    trap_with 13
    trap_with 14
    trap_without 16
    trap_with 17
    trap_without 19
    .pushsection .rodata.traps, "a", @progbits
        .quad 0, 0
    .popsection

        .balign 16
    xen_rt_event:
        pop rcx
        pop r11
        push 0
        push {event}
        mov byte ptr [rip + xen_rt_shared_info + {upcall_pending}], 0
        test byte ptr [rsp + 24], 3
        jnz xen_rt_user_trap
        # Return with upcalls masked: Xen takes the mask from the interrupt flag.
        and dword ptr [rsp + 32], {not_if}
        push rax
        jmp xen_rt_return

        .balign 16
    xen_rt_syscall:
        pop rcx
        pop r11
        push 0
        push {syscall}
        jmp xen_rt_user_trap

        .balign 16
    xen_rt_failsafe:
        ud2

    # vector, error, rip, cs, rflags, rsp, ss are on the stack.
        .balign 16
    xen_rt_trap:
        test byte ptr [rsp + 24], 3
        jnz xen_rt_user_trap
        cld
        push rax
        push rcx
        push rdx
        push rbx
        push rbp
        push rsi
        push rdi
        push r8
        push r9
        push r10
        push r11
        push r12
        push r13
        push r14
        push r15
        mov rdi, rsp
        mov rbx, rsp
        sub rsp, 512
        and rsp, -16
        fxsave64 [rsp]
        call {kernel_trap}
        fxrstor64 [rsp]
        mov rsp, rbx
        pop r15
        pop r14
        pop r13
        pop r12
        pop r11
        pop r10
        pop r9
        pop r8
        pop rdi
        pop rsi
        pop rbp
        pop rbx
        pop rdx
        pop rcx
    # rax, vector, error, rip, cs, … become rax, r11, rcx, flags, rip, cs, …
    xen_rt_return:
        mov rax, [rsp]
        mov [rsp], r11
        mov [rsp + 8], rcx
        mov qword ptr [rsp + 16], 0
        push rax
        mov dword ptr [rsp + 44], 0 # the mask that Xen saved above cs
        mov eax, {iret}
        syscall
        ud2
    .popsection
    "#,
    masks_events = const trap::TRAP_MASKS_EVENTS,
    cs = const trap::KERNEL_CS,
    event = const context::VECTOR_EVENT,
    syscall = const context::VECTOR_SYSCALL,
    upcall_pending = const shared_info::UPCALL_PENDING,
    not_if = const !0x200_i32,
    iret = const hypercall::IRET,
    kernel_trap = sym kernel_trap,
);

unsafe extern "C" {
    static xen_rt_trap_table: u8;
    static xen_rt_event: u8;
    static xen_rt_syscall: u8;
    static xen_rt_failsafe: u8;
    static xen_rt_trap_stack: u8;
}

/// Tells Xen about the stubs.
pub(crate) fn install() -> Result<(), Errno> {
    let callbacks = [
        (trap::CALLBACK_EVENT, &raw const xen_rt_event),
        (trap::CALLBACK_FAILSAFE, &raw const xen_rt_failsafe),
        (trap::CALLBACK_SYSCALL, &raw const xen_rt_syscall),
    ];
    // SAFETY: the table and the stubs above are what Xen expects of them.
    unsafe { check(raw(hypercall::SET_TRAP_TABLE, [&raw const xen_rt_trap_table as u64, 0, 0, 0, 0])) }?;
    for (kind, stub) in callbacks {
        let callback = CallbackRegister { kind, flags: trap::CALLBACK_MASKS_EVENTS, address: stub as u64 };
        let args = [hypercall::CALLBACKOP_REGISTER, &raw const callback as u64, 0, 0, 0];
        // SAFETY: Xen reads the structure.
        unsafe { check(raw(hypercall::CALLBACK_OP, args)) }?;
    }
    // SAFETY: the stack is used by traps from user mode only, which leave it before the next one.
    unsafe {
        let stack = &raw const xen_rt_trap_stack as u64;
        check(raw(hypercall::STACK_SWITCH, [u64::from(trap::KERNEL_SS), stack, 0, 0, 0]))
    }?;
    Ok(())
}

/// An exception in the kernel: a bug, unless it was expected.
extern "C" fn kernel_trap(frame: &mut KernelTrap) {
    let fixup = FIXUP.swap(0, Ordering::Relaxed);
    if fixup != 0 {
        frame.rip = fixup;
        return;
    }
    let address = super::boot::shared_info_word(shared_info::CR2);
    super::panic::set_trap_origin(frame.rip, frame.rbp);
    panic!(
        "exception {} with error {:#x} in the kernel, address {address:#x}\n{frame}",
        frame.vector, frame.error
    );
}
