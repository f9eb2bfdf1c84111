//! The memory functions that compiled Rust calls. In assembly, because Rust written for them may be compiled into calls of
//! themselves. The toolchain's own for this target live in a C library, which an image does not have.

use core::arch::global_asm;

global_asm!(
    r#"
    .pushsection .text.memory, "ax", @progbits
    .global memcpy, memmove, memset, memcmp, bcmp, strlen
    memcpy:
        mov rax, rdi
        mov rcx, rdx
        shr rcx, 3
        rep movsq
        mov ecx, edx
        and ecx, 7
        rep movsb
        ret

    memmove:
        mov rax, rdi
        sub rax, rsi
        cmp rax, rdx            # destination inside the source: from the end
        jae memcpy
        mov rax, rdi
        lea rsi, [rsi + rdx - 1]
        lea rdi, [rdi + rdx - 1]
        mov rcx, rdx
        std
        rep movsb
        cld
        ret

    memset:
        mov r8, rdi
        movzx eax, sil
        mov r9, 0x0101010101010101
        imul rax, r9
        mov rcx, rdx
        shr rcx, 3
        rep stosq
        mov ecx, edx
        and ecx, 7
        rep stosb
        mov rax, r8
        ret

    bcmp:
    memcmp:
        mov rcx, rdx
    2:  cmp rcx, 8
        jb 3f
        mov rax, [rdi]
        mov rdx, [rsi]
        cmp rax, rdx
        jne 4f
        add rdi, 8
        add rsi, 8
        sub rcx, 8
        jmp 2b
    4:  bswap rax               # the first byte that differs decides
        bswap rdx
        cmp rax, rdx
        sbb eax, eax
        or eax, 1
        ret
    3:  test rcx, rcx
        jz 6f
        movzx eax, byte ptr [rdi]
        movzx edx, byte ptr [rsi]
        inc rdi
        inc rsi
        dec rcx
        sub eax, edx
        jz 3b
        ret
    6:  xor eax, eax
        ret

    strlen:
        xor eax, eax
    7:  cmp byte ptr [rdi + rax], 0
        je 8f
        inc rax
        jmp 7b
    8:  ret
    .popsection
    "#
);

/// Named by unwind tables that the linker drops; images do not unwind.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// As above.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume() {}
