//! Vector registers beyond SSE, where Xen gives them to the domain.

use core::arch::asm;
use core::sync::atomic::Ordering;

use super::traps::FIXUP;

/// CR4.OSXSAVE.
const OSXSAVE: u64 = 1 << 18;
/// CPUID leaf 1 ecx: XSAVE, AVX.
const XSAVE_AND_AVX: u32 = 1 << 26 | 1 << 28;
/// XCR0: x87, SSE, AVX.
const X87_SSE_AVX: u32 = 7;

/// CPUID as Xen means it for this domain: the bare instruction shows the hardware's bits
/// (`XEN_CPUID` in `xen/include/public/arch-x86/xen.h`).
fn cpuid(leaf: u32, subleaf: u32) -> [u32; 4] {
    let (a, b, c, d): (u32, u64, u32, u32);
    // SAFETY: Xen emulates the marked instruction. rbx is not ours to name, so it is put back.
    unsafe {
        asm!("mov {keep}, rbx", "ud2", ".ascii \"xen\"", "cpuid", "xchg {keep}, rbx",
            keep = out(reg) b, inlateout("eax") leaf => a, inlateout("ecx") subleaf => c, out("edx") d);
    }
    [a, u32::try_from(b & 0xffff_ffff).unwrap_or(0), c, d]
}

/// Lets user mode use AVX if Xen offers it. Without it programs find SSE only, and say so to themselves by XGETBV.
pub(crate) fn enable_avx() -> bool {
    let [_, _, features, _] = cpuid(1, 0);
    if features & XSAVE_AND_AVX != XSAVE_AND_AVX {
        return false;
    }
    let failed: u64;
    // SAFETY: Xen emulates CR4 and XCR0 writes of a PV kernel; one that it refuses raises #GP, whose handler goes on at
    // the label, with the flag still set.
    unsafe {
        asm!(
            "lea {there}, [rip + 2f]",
            "mov [{fixup}], {there}",
            "mov {failed:e}, 1",
            "mov {there}, cr4",
            "or {there}, {osxsave}",
            "mov cr4, {there}",
            "xsetbv",
            "xor {failed:e}, {failed:e}",
            "2:",
            "mov qword ptr [{fixup}], 0",
            there = out(reg) _,
            failed = out(reg) failed,
            fixup = in(reg) FIXUP.as_ptr(),
            osxsave = const OSXSAVE,
            in("ecx") 0,
            in("eax") X87_SSE_AVX,
            in("edx") 0,
        );
    }
    FIXUP.store(0, Ordering::Relaxed);
    failed == 0
}
