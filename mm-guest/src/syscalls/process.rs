//! The process: who it is, what it may use, how it ends.

use super::{Args, Waited};
use crate::errno::{Errno, SysResult};
use crate::kernel::{End, Kernel};
use crate::machine::Machine;
use crate::page::USER_END;
use crate::process::{NOFILE, PID, RESOURCES};

impl<M: Machine> Kernel<M> {
    pub(super) fn sys_exit(&mut self, status: u64) -> SysResult {
        self.ended = Some(End::Exited(status as u8));
        Ok(0)
    }

    pub(super) fn sys_uname(&mut self, at: u64) -> SysResult {
        let fields = [
            "Linux",
            "mm-guest",
            crate::release!(),
            concat!("mm-guest ", env!("CARGO_PKG_VERSION")),
            "x86_64",
            "(none)",
        ];
        for (index, field) in fields.into_iter().enumerate() {
            let mut bytes = [0; 65];
            bytes[..field.len()].copy_from_slice(field.as_bytes());
            self.memory.write_bytes(at + 65 * index as u64, &bytes)?;
        }
        Ok(0)
    }

    pub(super) fn sys_arch_prctl(&mut self, code: u64, address: u64) -> SysResult {
        const SET_GS: u64 = 0x1001;
        const SET_FS: u64 = 0x1002;
        const GET_FS: u64 = 0x1003;
        const GET_GS: u64 = 0x1004;
        match code {
            SET_FS | SET_GS if address >= USER_END => Err(Errno::PERM),
            SET_FS => {
                self.registers.fs_base = address;
                Ok(0)
            }
            SET_GS => {
                self.registers.gs_base = address;
                Ok(0)
            }
            GET_FS => self.memory.write_u64(address, self.registers.fs_base).map(|()| 0),
            GET_GS => self.memory.write_u64(address, self.registers.gs_base).map(|()| 0),
            _ => Err(Errno::INVAL),
        }
    }

    pub(super) fn sys_prctl(&mut self, a: Args) -> SysResult {
        const SET_PDEATHSIG: u64 = 1;
        const GET_PDEATHSIG: u64 = 2;
        const GET_DUMPABLE: u64 = 3;
        const SET_DUMPABLE: u64 = 4;
        const SET_NAME: u64 = 15;
        const GET_NAME: u64 = 16;
        const CAPBSET_READ: u64 = 23;
        const SET_NO_NEW_PRIVS: u64 = 38;
        const GET_NO_NEW_PRIVS: u64 = 39;
        match a[0] {
            SET_PDEATHSIG if a[1] <= 64 => {
                self.process.parent_death_signal = a[1] as u32;
                Ok(0)
            }
            GET_PDEATHSIG => {
                let signal = self.process.parent_death_signal;
                self.memory.write_u32(a[1], signal).map(|()| 0)
            }
            GET_DUMPABLE => Ok(self.process.dumpable),
            SET_DUMPABLE if a[1] <= 1 => {
                self.process.dumpable = a[1];
                Ok(0)
            }
            SET_NAME => {
                let mut name = [0; 16];
                let given = self.memory.read_path(a[1])?;
                let length = given.len().min(15);
                name[..length].copy_from_slice(&given[..length]);
                self.process.name = name;
                Ok(0)
            }
            GET_NAME => {
                let name = self.process.name;
                self.memory.write_bytes(a[1], &name).map(|()| 0)
            }
            CAPBSET_READ if a[1] <= 40 => Ok(0),
            SET_NO_NEW_PRIVS if a[1] == 1 => {
                self.process.no_new_privileges = true;
                Ok(0)
            }
            GET_NO_NEW_PRIVS => Ok(u64::from(self.process.no_new_privileges)),
            _ => Err(Errno::INVAL),
        }
    }

    pub(super) fn sys_personality(&mut self, wanted: u64) -> SysResult {
        // Linux's own personality is the only one.
        if matches!(wanted as u32, 0 | u32::MAX) { Ok(0) } else { Err(Errno::INVAL) }
    }

    pub(super) fn sys_set_robust_list(&mut self, head: u64, length: u64) -> SysResult {
        if length != 24 {
            return Err(Errno::INVAL);
        }
        self.process.robust_list = (head, length);
        Ok(0)
    }

    pub(super) fn sys_get_robust_list(&mut self, pid: u64, head: u64, length: u64) -> SysResult {
        if pid > PID {
            return Err(Errno::SRCH);
        }
        let (at, bytes) = self.process.robust_list;
        self.memory.write_u64(head, at)?;
        self.memory.write_u64(length, bytes).map(|()| 0)
    }

    pub(super) fn sys_prlimit(&mut self, pid: u64, resource: u64, new: u64, old: u64) -> SysResult {
        if pid > PID {
            return Err(Errno::SRCH);
        }
        let index = usize::try_from(resource).ok().filter(|index| *index < RESOURCES).ok_or(Errno::INVAL)?;
        let wanted: Option<[u64; 2]> = if new == 0 { None } else { Some(self.memory.read_words(new)?) };
        let (soft, hard) = self.process.limits[index];
        if old != 0 {
            self.memory.write_words(old, &[soft, hard])?;
        }
        if let Some([soft, most]) = wanted {
            if soft > most {
                return Err(Errno::INVAL);
            }
            if most > hard {
                return Err(Errno::PERM);
            }
            self.process.limits[index] = (soft, most);
            if index == NOFILE {
                self.files.limit = soft;
            }
        }
        Ok(0)
    }

    pub(super) fn sys_getrusage(&mut self, who: u64, at: u64) -> SysResult {
        let own = match who as i32 {
            0 | 1 => true,
            -1 => false,
            _ => return Err(Errno::INVAL),
        };
        let mut words = [0; 18];
        if own {
            let parts = |time: u64| [time / 1_000_000_000, time % 1_000_000_000 / 1000];
            let used = self.memory.machine.processor_time();
            words[..2].copy_from_slice(&parts(used.user));
            words[2..4].copy_from_slice(&parts(used.system));
            let (private, shared) = self.memory.resident();
            words[4] = 4 * (private + shared);
            // Minor faults: all that M1 was not asked for; major ones: the others.
            words[8] = self.memory.counts.total - self.memory.counts.asked;
            words[9] = self.memory.counts.asked;
        }
        self.memory.write_words(at, &words).map(|()| 0)
    }

    pub(super) fn sys_sysinfo(&mut self, at: u64) -> SysResult {
        let frames = self.memory.machine.frames();
        let uptime = self.memory.machine.monotonic() / 1_000_000_000;
        let mut words = [0; 14];
        words[..6].copy_from_slice(&[uptime, 0, 0, 0, frames.ceiling * 4096, frames.available * 4096]);
        // Words 6 to 9: shared, buffers, swap. Then the number of processes, high memory, and the unit.
        words[10] = 1;
        words[13] = 1;
        self.memory.write_words(at, &words).map(|()| 0)
    }

    pub(super) fn sys_sched_getaffinity(&mut self, pid: u64, size: u64, at: u64) -> SysResult {
        if pid > PID {
            return Err(Errno::SRCH);
        }
        if size < 8 || !size.is_multiple_of(8) {
            return Err(Errno::INVAL);
        }
        self.memory.write_u64(at, 1)?;
        Ok(8)
    }

    pub(super) fn sys_sched_setaffinity(&mut self, pid: u64, size: u64, at: u64) -> SysResult {
        if pid > PID {
            return Err(Errno::SRCH);
        }
        let mut mask = [0; 1];
        if size > 0 {
            self.memory.read_bytes(at, &mut mask)?;
        }
        if mask[0] & 1 == 1 { Ok(0) } else { Err(Errno::INVAL) }
    }

    pub(super) fn sys_sched_getparam(&mut self, at: u64) -> SysResult {
        self.memory.write_u32(at, 0).map(|()| 0)
    }

    pub(super) fn sys_getcpu(&mut self, cpu: u64, node: u64) -> SysResult {
        for at in [cpu, node] {
            if at != 0 {
                self.memory.write_u32(at, 0)?;
            }
        }
        Ok(0)
    }

    /// `setuid` and its like: to zero, or left as it is.
    pub(super) fn sys_set_id(&mut self, ids: &[u64]) -> SysResult {
        if ids.iter().all(|id| matches!(*id as u32, 0 | u32::MAX)) { Ok(0) } else { Err(Errno::INVAL) }
    }

    /// `getresuid`, `getresgid`.
    pub(super) fn sys_get_ids(&mut self, addresses: &[u64]) -> SysResult {
        for at in addresses {
            self.memory.write_u32(*at, 0)?;
        }
        Ok(0)
    }

    pub(super) fn sys_getrandom(&mut self, at: u64, length: u64, flags: u64) -> SysResult {
        if flags & !7 != 0 || flags & 6 == 6 {
            return Err(Errno::INVAL);
        }
        let mut chunk = [0; 1024];
        let length = length.min(0x01ff_ffff);
        let mut done = 0;
        while done < length {
            let part = ((length - done) as usize).min(chunk.len());
            self.random.fill(&mut chunk[..part]);
            match self.memory.write_bytes(at.wrapping_add(done), &chunk[..part]) {
                Ok(()) => done += part as u64,
                Err(error) if done == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// With one thread nobody can wake a waiter: only its time-out or a signal can.
    pub(super) fn sys_futex(&mut self, a: Args) -> SysResult {
        const PRIVATE: u64 = 128;
        const REALTIME: u64 = 256;
        const WAIT: u64 = 0;
        const WAKE: u64 = 1;
        const WAIT_BITSET: u64 = 9;
        const WAKE_BITSET: u64 = 10;
        let [address, operation, value, time, ..] = a;
        if !address.is_multiple_of(4) {
            return Err(Errno::INVAL);
        }
        match operation & !(PRIVATE | REALTIME) {
            command @ (WAIT | WAIT_BITSET) => {
                if command == WAIT_BITSET && a[5] as u32 == 0 {
                    return Err(Errno::INVAL);
                }
                let deadline = match time {
                    0 => None,
                    at => {
                        let time = self.read_timespec(at)?;
                        let machine = &self.memory.machine;
                        let now = machine.monotonic();
                        // WAIT's time is relative, WAIT_BITSET's absolute on the clock it names.
                        let from = match (command, operation & REALTIME) {
                            (WAIT, _) => 0,
                            (_, 0) => now,
                            _ => machine.realtime(),
                        };
                        Some(now.saturating_add(time.saturating_sub(from)))
                    }
                };
                if self.memory.read_u32(address)? != value as u32 {
                    return Err(Errno::AGAIN);
                }
                match self.wait_until(deadline, |_| false) {
                    Waited::TimedOut => Err(Errno::TIMEDOUT),
                    _ if deadline.is_some() => Err(Errno::INTR),
                    _ => Err(Errno::RESTARTSYS),
                }
            }
            WAKE | WAKE_BITSET => {
                self.memory.read_u32(address)?;
                Ok(0)
            }
            _ => Err(Errno::NOSYS),
        }
    }
}
