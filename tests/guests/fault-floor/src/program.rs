//! Programs for user mode, assembled by hand: each touches r10 pages from r9 on, and gives the time-stamp counter's
//! difference in rdi with a system call; then again.

const fn program(touch: [u8; 3]) -> [u8; 46] {
    let [a, b, c] = touch;
    [
        0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, // rdtsc; shl rdx, 32; or rax, rdx
        0x49, 0x89, 0xc0, // mov r8, rax
        a, b, c, // the touch
        0x49, 0x81, 0xc1, 0x00, 0x10, 0x00, 0x00, // add r9, 4096
        0x49, 0xff, 0xca, 0x75, 0xf1, // dec r10; jnz to the touch
        0x0f, 0x31, 0x48, 0xc1, 0xe2, 0x20, 0x48, 0x09, 0xd0, // rdtsc; shl rdx, 32; or rax, rdx
        0x4c, 0x29, 0xc0, 0x48, 0x89, 0xc7, // sub rax, r8; mov rdi, rax
        0x0f, 0x05, 0xeb, 0xd2, // syscall; jmp to the start
    ]
}

/// mov rbx, [r9]
pub(crate) const READS: [u8; 46] = program([0x49, 0x8b, 0x19]);
/// mov [r9], rbx
pub(crate) const WRITES: [u8; 46] = program([0x49, 0x89, 0x19]);
/// call r9
pub(crate) const CALLS: [u8; 46] = program([0x41, 0xff, 0xd1]);
/// ret
pub(crate) const RETURN: u8 = 0xc3;
