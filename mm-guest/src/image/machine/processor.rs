//! Running the program, and how long it ran.

use mm_guest::{Console, Exit, Processor, ProcessorTime, Registers};
use xen_rt::user::{self, UserContext};

use super::Xen;
use crate::registers;

impl Processor for Xen {
    fn run(&mut self, registers: &mut Registers) -> Exit {
        self.context.regs = registers::to_context(registers);
        (self.context.fs_base, self.context.gs_base) = (registers.fs_base, registers.gs_base);
        if self.trace.is_open()
            && let Some(fault) = self.trace.resume(self.clock.now_ns())
            && self.fault_trace
        {
            self.console_write(alloc::format!("mm-guest: {fault}\n").as_bytes());
        }
        let resumed = xen::clock::tsc();
        self.used.1 += resumed.saturating_sub(self.trapped).saturating_sub(core::mem::take(&mut self.slept));
        let exit = self.context.run(&self.space);
        self.trapped = xen::clock::tsc();
        self.used.0 += self.trapped.saturating_sub(resumed);
        *registers = registers::from_context(&self.context);
        match exit {
            user::Exit::Syscall => Exit::Syscall,
            user::Exit::PageFault { va, write, fetch, .. } => Exit::PageFault { address: va, write, fetch },
            user::Exit::Exception { vector, code } => {
                Exit::Exception { vector, code: u32::try_from(code).unwrap_or(u32::MAX) }
            }
            user::Exit::Event => {
                self.take_events();
                Exit::Event
            }
        }
    }

    fn processor_time(&self) -> ProcessorTime {
        let (user, system) = self.used;
        ProcessorTime {
            user: self.used_before.user + self.clock.span_ns(user),
            system: self.used_before.system + self.clock.span_ns(system),
        }
    }

    fn set_processor_time(&mut self, used: ProcessorTime) {
        self.used_before = used;
    }

    fn fpu(&self) -> [u8; 512] {
        self.context.fx
    }

    fn set_fpu(&mut self, image: &[u8; 512]) {
        self.context.fx = *image;
    }

    fn vectors(&self) -> Option<[u8; 256]> {
        UserContext::upper_halves()
    }

    fn set_vectors(&mut self, halves: &[u8; 256]) -> bool {
        UserContext::set_upper_halves(halves)
    }

    fn hwcap(&self) -> u64 {
        u64::from(core::arch::x86_64::__cpuid(1).edx)
    }
}
