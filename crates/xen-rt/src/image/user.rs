//! Into user mode and out of it.

use core::arch::global_asm;
use core::mem::offset_of;

use xen_sys::{hypercall, trap};

use crate::user::{Registers, UserContext};

global_asm!(
    r#"
    .pushsection .bss.user, "aw", @nobits
    .balign 8
    xen_rt_context:
        .skip 8
    xen_rt_kernel_rsp:
        .skip 8
    .popsection
    .pushsection .rodata.user, "a", @progbits
    .balign 4
    xen_rt_mxcsr:
        .long 0x1f80
    .popsection

    .pushsection .text.user, "ax", @progbits
    # extern "C" fn xen_rt_enter_user(context: rdi, iret_flags: rsi); returns when the program traps.
    .global xen_rt_enter_user, xen_rt_user_trap
    xen_rt_enter_user:
        push rbx
        push rbp
        push r12
        push r13
        push r14
        push r15
        mov [rip + xen_rt_kernel_rsp], rsp
        mov [rip + xen_rt_context], rdi
        push {ss}
        push qword ptr [rdi + {rsp}]
        push qword ptr [rdi + {rflags}]
        push {cs}
        push qword ptr [rdi + {rip}]
        push rsi
        push qword ptr [rdi + {rcx}]
        push qword ptr [rdi + {r11}]
        push qword ptr [rdi + {rax}]
        fxrstor64 [rdi + {fx}]
        mov rbx, [rdi + {rbx}]
        mov rdx, [rdi + {rdx}]
        mov rsi, [rdi + {rsi}]
        mov rbp, [rdi + {rbp}]
        mov r8, [rdi + {r8}]
        mov r9, [rdi + {r9}]
        mov r10, [rdi + {r10}]
        mov r12, [rdi + {r12}]
        mov r13, [rdi + {r13}]
        mov r14, [rdi + {r14}]
        mov r15, [rdi + {r15}]
        mov rdi, [rdi + {rdi}]
        mov eax, {iret}
        syscall
        ud2

    # vector, error, rip, cs, rflags, rsp, ss are on the trap stack.
    xen_rt_user_trap:
        push rax
        mov rax, [rip + xen_rt_context]
        mov [rax + {rbx}], rbx
        mov [rax + {rcx}], rcx
        mov [rax + {rdx}], rdx
        mov [rax + {rsi}], rsi
        mov [rax + {rdi}], rdi
        mov [rax + {rbp}], rbp
        mov [rax + {r8}], r8
        mov [rax + {r9}], r9
        mov [rax + {r10}], r10
        mov [rax + {r11}], r11
        mov [rax + {r12}], r12
        mov [rax + {r13}], r13
        mov [rax + {r14}], r14
        mov [rax + {r15}], r15
        pop qword ptr [rax + {rax}]
        pop qword ptr [rax + {vector}]
        pop qword ptr [rax + {error}]
        pop qword ptr [rax + {rip}]
        pop rbx
        pop qword ptr [rax + {rflags}]
        pop qword ptr [rax + {rsp}]
        fxsave64 [rax + {fx}]
        mov rsp, [rip + xen_rt_kernel_rsp]
        # What Rust relies on, whatever the program did to them.
        cld
        fninit
        ldmxcsr [rip + xen_rt_mxcsr]
        pop r15
        pop r14
        pop r13
        pop r12
        pop rbp
        pop rbx
        ret
    .popsection
    "#,
    ss = const trap::KERNEL_SS,
    cs = const trap::KERNEL_CS,
    iret = const hypercall::IRET,
    rax = const REGISTERS + offset_of!(Registers, rax),
    rbx = const REGISTERS + offset_of!(Registers, rbx),
    rcx = const REGISTERS + offset_of!(Registers, rcx),
    rdx = const REGISTERS + offset_of!(Registers, rdx),
    rsi = const REGISTERS + offset_of!(Registers, rsi),
    rdi = const REGISTERS + offset_of!(Registers, rdi),
    rbp = const REGISTERS + offset_of!(Registers, rbp),
    rsp = const REGISTERS + offset_of!(Registers, rsp),
    r8 = const REGISTERS + offset_of!(Registers, r8),
    r9 = const REGISTERS + offset_of!(Registers, r9),
    r10 = const REGISTERS + offset_of!(Registers, r10),
    r11 = const REGISTERS + offset_of!(Registers, r11),
    r12 = const REGISTERS + offset_of!(Registers, r12),
    r13 = const REGISTERS + offset_of!(Registers, r13),
    r14 = const REGISTERS + offset_of!(Registers, r14),
    r15 = const REGISTERS + offset_of!(Registers, r15),
    rip = const REGISTERS + offset_of!(Registers, rip),
    rflags = const REGISTERS + offset_of!(Registers, rflags),
    vector = const offset_of!(UserContext, vector),
    error = const offset_of!(UserContext, error),
    fx = const offset_of!(UserContext, fx),
);

const REGISTERS: usize = offset_of!(UserContext, regs);

unsafe extern "C" {
    /// # Safety
    /// The context's user page tables are loaded, its SSE control word is a legal one.
    pub(crate) fn xen_rt_enter_user(context: *mut UserContext, iret_flags: u64);
}
