//! System time and wall clock out of shared_info (`struct vcpu_time_info` and `wc_*` in `xen/include/public/xen.h`).

use xen_ring::PageWords;
use xen_sys::start::shared_info as at;

/// Reads time without a hypercall. A handle: copies read the same page.
#[derive(Clone, Copy)]
pub struct Clock {
    page: &'static PageWords,
    /// The time-stamp counter; a parameter so that tests have a time of their own.
    tsc: fn() -> u64,
}

/// What Xen says about the time-stamp counter.
struct TimeInfo {
    /// The counter's value at one moment, and the system time then.
    stamp: u64,
    system: u64,
    /// Nanoseconds for a tick, shifted by 32 bits, of a counter that is shifted itself.
    mul: u32,
    shift: i8,
}

impl TimeInfo {
    /// Nanoseconds of so many ticks.
    fn span(&self, ticks: u64) -> u64 {
        let ticks = u128::from(ticks);
        let scaled = if self.shift < 0 {
            ticks >> u32::from(self.shift.unsigned_abs()).min(127)
        } else {
            ticks << u32::from(self.shift.unsigned_abs()).min(32)
        };
        u64::try_from((scaled * u128::from(self.mul)) >> 32).unwrap_or(u64::MAX)
    }
}

impl Clock {
    /// Over the domain's shared_info page and a reader of the time-stamp counter.
    #[must_use]
    pub const fn new(shared_info: &'static PageWords, tsc: fn() -> u64) -> Self {
        Self { page: shared_info, tsc }
    }

    /// Nanoseconds of system time: since Xen booted, the unit of [`crate::Hypervisor::set_timer`].
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.consistent(|time| time.system.wrapping_add(time.span((self.tsc)().saturating_sub(time.stamp))))
    }

    /// Nanoseconds of system time when the time-stamp counter stood at `ticks`, not long ago.
    #[must_use]
    pub fn ns_at(&self, ticks: u64) -> u64 {
        self.consistent(|time| match ticks.checked_sub(time.stamp) {
            Some(since) => time.system.wrapping_add(time.span(since)),
            None => time.system.saturating_sub(time.span(time.stamp - ticks)),
        })
    }

    /// Nanoseconds that the time-stamp counter needs for so many ticks.
    #[must_use]
    pub fn span_ns(&self, ticks: u64) -> u64 {
        self.consistent(|time| time.span(ticks))
    }

    /// Works something out of fields that belong together.
    fn consistent(&self, work: impl Fn(&TimeInfo) -> u64) -> u64 {
        // Xen writes the fields of our own virtual CPU while we do not run, so the second round is the last; the
        // bound is for a page that is not Xen's.
        let mut result = 0;
        for _ in 0..64 {
            let version = self.page.load(at::TIME_VERSION / 4);
            result = work(&TimeInfo {
                stamp: self.wide(at::TSC_TIMESTAMP),
                system: self.wide(at::SYSTEM_TIME),
                mul: self.page.load(at::TSC_MUL / 4),
                shift: i8::from_le_bytes([self.page.load(at::TSC_SHIFT / 4).to_le_bytes()[0]]),
            });
            if version & 1 == 0 && self.page.load(at::TIME_VERSION / 4) == version {
                break;
            }
        }
        result
    }

    /// Nanoseconds since 1970-01-01 00:00 UTC, as far as Xen was told.
    #[must_use]
    pub fn unix_ns(&self) -> u64 {
        self.boot_unix_ns().saturating_add(self.now_ns())
    }

    /// Unix time in nanoseconds when system time was 0.
    fn boot_unix_ns(&self) -> u64 {
        let mut boot = 0;
        for _ in 0..64 {
            let version = self.page.load(at::WC_VERSION / 4);
            let seconds = u64::from(self.page.load(at::WC_SEC / 4))
                | u64::from(self.page.load(at::WC_SEC_HI / 4)) << 32;
            boot = seconds
                .saturating_mul(1_000_000_000)
                .saturating_add(u64::from(self.page.load(at::WC_NSEC / 4)));
            if version & 1 == 0 && self.page.load(at::WC_VERSION / 4) == version {
                break;
            }
        }
        boot
    }

    /// A 64-bit field. Its halves are read one after the other; the version word says whether they belong together.
    fn wide(&self, offset: usize) -> u64 {
        u64::from(self.page.load(offset / 4)) | u64::from(self.page.load(offset / 4 + 1)) << 32
    }
}

impl core::fmt::Debug for Clock {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Clock({} ns)", self.now_ns())
    }
}

/// The processor's time-stamp counter.
#[cfg(target_arch = "x86_64")]
#[must_use]
pub fn tsc() -> u64 {
    // SAFETY: RDTSC touches no memory. Xen lets guests execute it, or emulates it.
    unsafe { core::arch::x86_64::_rdtsc() }
}
