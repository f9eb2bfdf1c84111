//! Clocks, sleeping and timers.

use super::Waited;
use crate::errno::{Errno, SysResult};
use crate::kernel::Kernel;
use crate::machine::Machine;

const SECOND: u64 = 1_000_000_000;

/// Nanoseconds from seconds and nanoseconds as the program gives them; centuries are cut short.
pub(super) fn from_parts(seconds: u64, nanoseconds: u64) -> Result<u64, Errno> {
    if seconds as i64 <= -1 || nanoseconds >= SECOND {
        return Err(Errno::INVAL);
    }
    Ok(seconds.saturating_mul(SECOND).saturating_add(nanoseconds))
}

impl<M: Machine> Kernel<M> {
    pub(super) fn read_timespec(&mut self, at: u64) -> Result<u64, Errno> {
        let [seconds, nanoseconds] = self.memory.read_words(at)?;
        from_parts(seconds, nanoseconds)
    }

    fn write_timespec(&mut self, at: u64, time: u64) -> SysResult {
        self.memory.write_words(at, &[time / SECOND, time % SECOND]).map(|()| 0)
    }

    /// Nanoseconds on a clock.
    fn clock(&self, clock: u64) -> Result<u64, Errno> {
        let machine = &self.memory.machine;
        match clock as i32 {
            // REALTIME, its coarse form, TAI (without leap seconds known: the same).
            0 | 5 | 11 => Ok(machine.realtime()),
            // MONOTONIC, RAW, COARSE, BOOTTIME: a domain that is paused does not notice.
            1 | 4 | 6 | 7 => Ok(machine.monotonic()),
            // CPU time of the process and of its thread, also under their dynamic numbers.
            2 | 3 | -6 | -2 => {
                let used = machine.processor_time();
                Ok(used.user + used.system)
            }
            _ => Err(Errno::INVAL),
        }
    }

    pub(super) fn sys_clock_gettime(&mut self, clock: u64, at: u64) -> SysResult {
        let now = self.clock(clock)?;
        self.write_timespec(at, now)
    }

    pub(super) fn sys_clock_getres(&mut self, clock: u64, at: u64) -> SysResult {
        self.clock(clock)?;
        if at == 0 { Ok(0) } else { self.write_timespec(at, 1) }
    }

    pub(super) fn sys_gettimeofday(&mut self, at: u64, zone: u64) -> SysResult {
        let now = self.memory.machine.realtime();
        if at != 0 {
            self.memory.write_words(at, &[now / SECOND, now % SECOND / 1000])?;
        }
        if zone != 0 {
            self.memory.write_u64(zone, 0)?;
        }
        Ok(0)
    }

    pub(super) fn sys_time(&mut self, at: u64) -> SysResult {
        let now = self.memory.machine.realtime() / SECOND;
        if at != 0 {
            self.memory.write_u64(at, now)?;
        }
        Ok(now)
    }

    /// Sleeps to a moment of the monotonic clock; tells what was left to a sleeper that was interrupted.
    fn sleep(&mut self, deadline: u64, left: u64) -> SysResult {
        if self.wait_until(Some(deadline), |_| false) == Waited::Interrupted {
            if left != 0 {
                let rest = deadline.saturating_sub(self.memory.machine.monotonic());
                self.write_timespec(left, rest)?;
            }
            return Err(Errno::INTR);
        }
        Ok(0)
    }

    pub(super) fn sys_nanosleep(&mut self, time: u64, left: u64) -> SysResult {
        let time = self.read_timespec(time)?;
        let deadline = self.memory.machine.monotonic().saturating_add(time);
        self.sleep(deadline, left)
    }

    pub(super) fn sys_clock_nanosleep(&mut self, clock: u64, flags: u64, time: u64, left: u64) -> SysResult {
        const ABSOLUTE: u64 = 1;
        let now = self.clock(clock)?;
        let time = self.read_timespec(time)?;
        let length = if flags & ABSOLUTE != 0 { time.saturating_sub(now) } else { time };
        let deadline = self.memory.machine.monotonic().saturating_add(length);
        self.sleep(deadline, if flags & ABSOLUTE != 0 { 0 } else { left })
    }

    /// What is left of the alarm clock, and its interval: nanoseconds.
    fn alarm_left(&self) -> (u64, u64) {
        let (at, interval) = self.process.alarm;
        let now = self.memory.machine.monotonic();
        (if at == 0 { 0 } else { at.saturating_sub(now).max(1000) }, interval)
    }

    fn set_alarm(&mut self, after: u64, interval: u64) {
        let at = if after == 0 { 0 } else { self.memory.machine.monotonic().saturating_add(after) };
        self.process.alarm = (at, interval);
        self.arm_alarm();
    }

    pub(super) fn sys_alarm(&mut self, seconds: u64) -> SysResult {
        let (left, _) = self.alarm_left();
        self.set_alarm((seconds & 0xffff_ffff) * SECOND, 0);
        Ok(left.div_ceil(SECOND))
    }

    pub(super) fn sys_getitimer(&mut self, which: u64, at: u64) -> SysResult {
        let (left, interval) = match which {
            0 => self.alarm_left(),
            // Timers on CPU time are never set.
            1 | 2 => (0, 0),
            _ => return Err(Errno::INVAL),
        };
        let parts = |time: u64| [time / SECOND, time % SECOND / 1000];
        let ([a, b], [c, d]) = (parts(interval), parts(left));
        self.memory.write_words(at, &[a, b, c, d]).map(|()| 0)
    }

    /// `ITIMER_REAL` only.
    pub(super) fn sys_setitimer(&mut self, which: u64, new: u64, old: u64) -> SysResult {
        if which != 0 {
            return Err(Errno::INVAL);
        }
        let words: [u64; 4] = if new == 0 { [0; 4] } else { self.memory.read_words(new)? };
        let interval = from_parts(words[0], words[1].saturating_mul(1000))?;
        let after = from_parts(words[2], words[3].saturating_mul(1000))?;
        if old != 0 {
            self.sys_getitimer(which, old)?;
        }
        self.set_alarm(after, interval);
        Ok(0)
    }

    pub(super) fn sys_times(&mut self, at: u64) -> SysResult {
        /// A hundredth of a second, `USER_HZ`.
        const TICK: u64 = SECOND / 100;
        if at != 0 {
            let used = self.memory.machine.processor_time();
            let times = [used.user / TICK, used.system / TICK, 0, 0];
            self.memory.write_words(at, &times)?;
        }
        Ok(self.memory.machine.monotonic() / TICK)
    }
}
