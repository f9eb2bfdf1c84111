//! The first instructions, the stacks, and the ELF notes by which the domain builder knows the image
//! (`xen/include/public/elfnote.h`).

use core::arch::global_asm;

/// Bytes of the kernel's stack.
pub(crate) const STACK: usize = if cfg!(feature = "large-stack") { 192 } else { 128 } * 1024;
/// Bytes of the stack on which traps from user mode arrive; they leave it at once.
pub(crate) const TRAP_STACK: usize = 4096;

global_asm!(
    r#"
    .pushsection .note.Xen, "a", @note
    .macro xen_note type, size
        .balign 4
        .long 4
        .long \size
        .long \type
        .asciz "Xen"
    .endm
        xen_note 6, 3           # GUEST_OS
        .asciz "M1"
        xen_note 5, 8           # XEN_VERSION
        .asciz "xen-3.0"
        xen_note 8, 8           # LOADER
        .asciz "generic"
        xen_note 9, 4           # PAE_MODE
        .asciz "yes"
        xen_note 1, 8           # ENTRY
        .quad _start
        xen_note 3, 8           # VIRT_BASE
        .quad 0xffffffff80000000
        xen_note 4, 8           # PADDR_OFFSET
        .quad 0
        .balign 4
    .popsection

    # A page at the bottom of each stack is unmapped at boot.
    .pushsection .bss.stacks, "aw", @nobits
    .balign 4096
    .global xen_rt_guard, xen_rt_stack, xen_rt_trap_stack, xen_rt_shared_info
    xen_rt_guard:
        .skip 4096
    xen_rt_stack_bottom:
        .skip {stack}
    xen_rt_stack:
    xen_rt_trap_guard:
        .skip 4096
        .skip {trap_stack}
    xen_rt_trap_stack:
    # Its frame is replaced by Xen's page.
    xen_rt_shared_info:
        .skip 4096
    .popsection

    # Xen starts us with rsi = start_info and rsp = top of its boot stack.
    .pushsection .text.start, "ax", @progbits
    .global _start
    _start:
        cld
        mov rdi, rsi
        mov rsi, rsp
        lea rsp, [rip + xen_rt_stack]
        xor ebp, ebp
        call {start}
        ud2
    .popsection
    "#,
    stack = const STACK,
    trap_stack = const TRAP_STACK,
    start = sym super::boot::start,
);
