//! Vector registers beyond SSE, where Xen gives them to the domain.

use core::arch::asm;
use core::sync::atomic::{AtomicBool, Ordering};

use super::traps::FIXUP;

/// CR4.OSXSAVE.
const OSXSAVE: u64 = 1 << 18;
/// CPUID leaf 1 ecx: XSAVE, AVX.
const XSAVE_AND_AVX: u32 = 1 << 26 | 1 << 28;
/// XCR0: x87, SSE, AVX.
const X87_SSE_AVX: u32 = 7;

/// Whether there is AVX state to be saved.
static AVX: AtomicBool = AtomicBool::new(false);
/// The AVX component of XSAVE's mask; where it is in the area (Intel's manual, volume 1, section 13.4.3: fixed for this component in
/// every processor so far, and looked up all the same).
const YMM: u32 = 4;
const HALVES: usize = 256;
/// An XSAVE area for the components up to AVX.
#[repr(C, align(64))]
struct Area([u8; 832]);
const YMM_OFFSET: usize = 576;
/// MXCSR in the legacy region, which XRSTOR of the AVX component loads too; the program's own comes with its FXSAVE image.
const MXCSR: core::ops::Range<usize> = 24..28;
const MXCSR_DEFAULT: u32 = 0x1f80;
/// XSTATE_BV in the header: components that the area holds.
const XSTATE_BV: usize = 512;

/// The upper halves of the sixteen AVX registers, which stay in the processor while the kernel runs; `None` without AVX.
pub(crate) fn upper_halves() -> Option<[u8; HALVES]> {
    if !AVX.load(Ordering::Relaxed) {
        return None;
    }
    let mut area = Area([0; 832]);
    // SAFETY: writes to the area, which is aligned and large enough for this component.
    unsafe { asm!("xsave [{}]", in(reg) area.0.as_mut_ptr(), in("eax") YMM, in("edx") 0, options(nostack)) };
    let mut halves = [0; HALVES];
    // In its initial state it is not written, and zero.
    if u32::from(area.0[XSTATE_BV]) & YMM != 0 {
        halves.copy_from_slice(&area.0[YMM_OFFSET..YMM_OFFSET + HALVES]);
    }
    Some(halves)
}

/// Puts them back. False without AVX.
pub(crate) fn set_upper_halves(halves: &[u8; HALVES]) -> bool {
    if !AVX.load(Ordering::Relaxed) {
        return false;
    }
    let mut area = Area([0; 832]);
    area.0[MXCSR].copy_from_slice(&MXCSR_DEFAULT.to_le_bytes());
    area.0[XSTATE_BV] = YMM.to_le_bytes()[0];
    area.0[YMM_OFFSET..YMM_OFFSET + HALVES].copy_from_slice(halves);
    // SAFETY: a sound area. The kernel has nothing in these halves, and its MXCSR is the default.
    unsafe { asm!("xrstor [{}]", in(reg) area.0.as_ptr(), in("eax") YMM, in("edx") 0, options(nostack)) };
    true
}

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
    let [size, offset, ..] = cpuid(0xd, 2);
    let known = (size as usize, offset as usize) == (HALVES, YMM_OFFSET);
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
    AVX.store(failed == 0 && known, Ordering::Relaxed);
    failed == 0
}
