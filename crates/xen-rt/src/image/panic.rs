//! The end of a kernel that found a bug in itself: message and call chain on the console, then a shutdown that the toolstack
//! sees as a crash.

use core::panic::PanicInfo;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use xen::Hypervisor;
use xen::console::print_in_panic;
use xen_sys::sched::ShutdownReason;

use crate::native;

static PANICKING: AtomicBool = AtomicBool::new(false);
static TRAP_RIP: AtomicU64 = AtomicU64::new(0);
static TRAP_RBP: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    static _text_start: u8;
    static _text_end: u8;
    static xen_rt_guard: u8;
    static xen_rt_trap_stack: u8;
}

/// The panic that follows is about code at `rip`, whose frame is at `rbp`.
pub(crate) fn set_trap_origin(rip: u64, rbp: u64) {
    TRAP_RIP.store(rip, Ordering::Relaxed);
    TRAP_RBP.store(rbp, Ordering::Relaxed);
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    if !PANICKING.swap(true, Ordering::Relaxed) {
        print_in_panic(format_args!("{info}\n"));
        let rip = TRAP_RIP.load(Ordering::Relaxed);
        let mut rbp = TRAP_RBP.load(Ordering::Relaxed);
        if rip != 0 {
            print_in_panic(format_args!("  at {rip:#x}\n"));
        } else {
            // SAFETY: reads a register.
            unsafe {
                core::arch::asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags))
            };
        }
        backtrace(rbp);
    }
    native().shutdown(ShutdownReason::Crash);
    loop {
        native().sched_block();
    }
}

/// Follows the chain of frame pointers. Images are compiled with them; code that is not ends the chain early, no worse.
fn backtrace(mut rbp: u64) {
    let text = &raw const _text_start as u64..&raw const _text_end as u64;
    let stack = &raw const xen_rt_guard as u64 + 4096..&raw const xen_rt_trap_stack as u64 - 16;
    for _ in 0..64 {
        if !stack.contains(&rbp) || !rbp.is_multiple_of(8) {
            return;
        }
        // SAFETY: within the kernel's stack, which is mapped (the guard page between the two stacks could be hit only by a
        // frame pointer that is not one; PANICKING then ends it).
        let (next, rip) = unsafe { ((rbp as *const u64).read(), (rbp as *const u64).add(1).read()) };
        if !text.contains(&rip) {
            return;
        }
        print_in_panic(format_args!("  at {rip:#x}\n"));
        if next <= rbp {
            return;
        }
        rbp = next;
    }
}
