//! The calls about signals.

use super::Waited;
use crate::errno::{Errno, SysResult};
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::process::PID;
use crate::signal::{self, Action, AlternateStack, Info, number};

/// Bytes of a signal set.
const SET: u64 = 8;

impl<M: Machine> Kernel<M> {
    pub(super) fn sys_rt_sigaction(&mut self, signal: u64, new: u64, old: u64, size: u64) -> SysResult {
        let signal = check(signal)?;
        if size != SET || (new != 0 && matches!(signal, number::KILL | number::STOP)) {
            return Err(Errno::INVAL);
        }
        let wanted: Option<[u64; 4]> = if new == 0 { None } else { Some(self.memory.read_words(new)?) };
        let now = self.process.signals.action(signal);
        if old != 0 {
            self.memory.write_words(old, &[now.handler, now.flags, now.restorer, now.mask])?;
        }
        if let Some([handler, flags, restorer, mask]) = wanted {
            let action = Action { handler, flags, restorer, mask };
            self.process.signals.actions[signal as usize - 1] = action;
        }
        Ok(0)
    }

    pub(super) fn sys_rt_sigprocmask(&mut self, how: u64, new: u64, old: u64, size: u64) -> SysResult {
        if size != SET {
            return Err(Errno::INVAL);
        }
        let before = self.process.signals.blocked;
        if new != 0 {
            let set = self.memory.read_u64(new)?;
            let mask = match how {
                0 => before | set,
                1 => before & !set,
                2 => set,
                _ => return Err(Errno::INVAL),
            };
            self.process.signals.set_blocked(mask);
        }
        if old != 0 {
            self.memory.write_u64(old, before)?;
        }
        Ok(0)
    }

    pub(super) fn sys_rt_sigreturn(&mut self) -> SysResult {
        let mut bytes = [0; signal::RESTORE];
        if self.memory.read_bytes(self.registers.rsp, &mut bytes).is_err() {
            self.process.signals.force(Info::kernel(number::SEGV));
            return Ok(0);
        }
        let restored = signal::restore(&bytes, &self.registers);
        if restored.fpu_at != 0 {
            let mut fpu = [0; 512];
            if self.memory.read_bytes(restored.fpu_at, &mut fpu).is_err() {
                self.process.signals.force(Info::kernel(number::SEGV));
                return Ok(0);
            }
            self.memory.machine.set_fpu(&fpu);
        }
        self.registers = restored.registers;
        self.process.signals.set_blocked(restored.mask);
        self.process.signals.alternate = restored.alternate;
        Ok(0)
    }

    pub(super) fn sys_rt_sigpending(&mut self, at: u64, size: u64) -> SysResult {
        if size > SET {
            return Err(Errno::INVAL);
        }
        let pending = self.process.signals.pending() & self.process.signals.blocked;
        self.memory.write_bytes(at, &pending.to_le_bytes()[..size as usize]).map(|()| 0)
    }

    pub(super) fn sys_rt_sigtimedwait(&mut self, set: u64, info: u64, time: u64, size: u64) -> SysResult {
        if size != SET {
            return Err(Errno::INVAL);
        }
        let set = self.memory.read_u64(set)?;
        let deadline = match time {
            0 => None,
            at => Some(self.read_timespec(at)?.saturating_add(self.memory.machine.monotonic())),
        };
        let waited = self.wait_until(deadline, |kernel| kernel.process.signals.pending() & set != 0);
        match waited {
            Waited::TimedOut => Err(Errno::AGAIN),
            Waited::Interrupted => Err(Errno::INTR),
            Waited::Ready => {
                let taken = self.process.signals.take(set).ok_or(Errno::AGAIN)?;
                if info != 0 {
                    self.memory.write_bytes(info, &taken.encode())?;
                }
                Ok(u64::from(taken.signal))
            }
        }
    }

    pub(super) fn sys_rt_sigsuspend(&mut self, mask: u64, size: u64) -> SysResult {
        if size != SET {
            return Err(Errno::INVAL);
        }
        let mask = self.memory.read_u64(mask)?;
        let signals = &mut self.process.signals;
        signals.saved = Some(signals.blocked);
        signals.set_blocked(mask);
        self.sys_pause()
    }

    pub(super) fn sys_pause(&mut self) -> SysResult {
        self.wait_until(None, |_| false);
        Err(Errno::INTR)
    }

    pub(super) fn sys_sigaltstack(&mut self, new: u64, old: u64) -> SysResult {
        let now = self.process.signals.alternate;
        let on_it = now.holds(self.registers.rsp);
        let wanted: Option<[u64; 3]> = if new == 0 { None } else { Some(self.memory.read_words(new)?) };
        if old != 0 {
            let flags = u64::from(now.flags | if on_it { signal::SS_ONSTACK } else { 0 });
            self.memory.write_words(old, &[now.base, flags, now.size])?;
        }
        if let Some([base, flags, size]) = wanted {
            let flags = flags as u32;
            if on_it {
                return Err(Errno::PERM);
            }
            if flags & !(signal::SS_ONSTACK | signal::SS_DISABLE | signal::SS_AUTODISARM) != 0 {
                return Err(Errno::INVAL);
            }
            self.process.signals.alternate = if flags & signal::SS_DISABLE != 0 {
                AlternateStack::NONE
            } else if size < signal::MIN_STACK {
                return Err(Errno::NOMEM);
            } else {
                AlternateStack { base, size, flags: flags & signal::SS_AUTODISARM }
            };
        }
        Ok(0)
    }

    /// To itself: its number, its group, or everybody but itself (which is nobody).
    pub(super) fn sys_kill(&mut self, pid: i32, signal: u64) -> SysResult {
        if !matches!(pid, 0 | 1) {
            return Err(Errno::SRCH);
        }
        self.send(signal, false)
    }

    pub(super) fn sys_tgkill(&mut self, group: u64, thread: u64, signal: u64) -> SysResult {
        if (group as i32) < 1 || (thread as i32) < 1 {
            return Err(Errno::INVAL);
        }
        if group != PID || thread != PID {
            return Err(Errno::SRCH);
        }
        self.send(signal, true)
    }

    fn send(&mut self, signal: u64, to_thread: bool) -> SysResult {
        if signal != 0 {
            let signal = check(signal)?;
            self.process.signals.send(Info::sent(signal, to_thread));
        }
        Ok(0)
    }

    pub(super) fn sys_rt_sigqueueinfo(&mut self, pid: u64, signal: u64, info: u64) -> SysResult {
        if pid != PID {
            return Err(Errno::SRCH);
        }
        let signal = check(signal)?;
        let words: [u64; 4] = self.memory.read_words(info)?;
        let code = words[1] as i32;
        self.process.signals.send(Info { signal, code, value: words[2], extra: words[3], trap: (0, 0, 0) });
        Ok(0)
    }
}

/// A signal's number, if it is one.
fn check(signal: u64) -> Result<u32, Errno> {
    match signal as u32 {
        signal @ 1..=64 => Ok(signal),
        _ => Err(Errno::INVAL),
    }
}
