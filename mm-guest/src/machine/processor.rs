//! Running the program, and what comes of it.

/// The program's registers, as they were when it trapped.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
#[expect(missing_docs, reason = "the names are the processor's")]
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
    pub fs_base: u64,
    pub gs_base: u64,
}

/// Why the program stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It made a system call: number in `rax`.
    Syscall,
    /// It touched a page that its tables do not allow.
    PageFault {
        /// The address (CR2).
        address: u64,
        /// It wrote.
        write: bool,
        /// It fetched an instruction.
        fetch: bool,
    },
    /// Any other exception.
    Exception {
        /// The processor's vector.
        vector: u8,
        /// Error code, zero where the vector has none.
        code: u32,
    },
    /// Something happened outside (an event, a timer): look at [`revoked`](super::Lender::revoked) and the clocks.
    Event,
}

/// Nanoseconds of the processor's time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct ProcessorTime {
    /// In the program's own code.
    pub user: u64,
    /// In the kernel on its behalf.
    pub system: u64,
}

/// The processor, and what the program has in it.
pub trait Processor {
    /// Runs the program until it traps.
    fn run(&mut self, registers: &mut Registers) -> Exit;
    /// How long the program has used the processor, up to when it trapped last.
    fn processor_time(&self) -> ProcessorTime;
    /// Sets the processor time from which this machine counts on.
    fn set_processor_time(&mut self, used: ProcessorTime);
    /// The FXSAVE image of the program.
    fn fpu(&self) -> [u8; 512];
    /// Replaces it. Reserved MXCSR bits are cleared, not trusted.
    fn set_fpu(&mut self, image: &[u8; 512]);
    /// Upper halves of the AVX registers, where the program has them.
    fn vectors(&self) -> Option<[u8; 256]>;
    /// Replaces them. False where this machine has none.
    fn set_vectors(&mut self, halves: &[u8; 256]) -> bool;
    /// CPUID leaf 1 EDX: `AT_HWCAP`.
    fn hwcap(&self) -> u64;
}
