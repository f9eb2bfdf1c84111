//! `poll` and `select` on what this kernel has: files are always ready, pipes, events and the console when they are.

use alloc::vec::Vec;

use super::Waited;
use crate::errno::{Errno, SysResult};
use crate::files::{Object, PIPE_SIZE};
use crate::kernel::Kernel;
use crate::machine::Machine;

const IN: u16 = 1;
const OUT: u16 = 4;
const ERR: u16 = 8;
const HUP: u16 = 0x10;
const NVAL: u16 = 0x20;
const READ_NORMAL: u16 = 0x40;
const WRITE_NORMAL: u16 = 0x100;

/// How long a call may wait.
#[derive(Clone, Copy)]
enum Patience {
    Forever,
    Nanoseconds(u64),
}

impl<M: Machine> Kernel<M> {
    /// What a descriptor is ready for.
    fn readiness(&mut self, fd: u64) -> u16 {
        let typed = self.memory.machine.console_ready();
        let Ok(description) = self.files.get(fd) else { return NVAL };
        let both = IN | READ_NORMAL | OUT | WRITE_NORMAL;
        match &description.object {
            object if Self::is_console(object) => {
                OUT | WRITE_NORMAL | if typed { IN | READ_NORMAL } else { 0 }
            }
            Object::PipeReader(pipe) => self.files.pipe(*pipe).map_or(HUP, |pipe| {
                let ready = if pipe.bytes.is_empty() { 0 } else { IN | READ_NORMAL };
                ready | if pipe.writers == 0 { HUP } else { 0 }
            }),
            Object::PipeWriter(pipe) => self.files.pipe(*pipe).map_or(ERR, |pipe| {
                let ready = if pipe.bytes.len() + 4096 <= PIPE_SIZE { OUT | WRITE_NORMAL } else { 0 };
                ready | if pipe.readers == 0 { ERR } else { 0 }
            }),
            Object::Event(counter, _) => OUT | WRITE_NORMAL | if *counter > 0 { IN | READ_NORMAL } else { 0 },
            Object::Path => NVAL,
            _ => both,
        }
    }

    fn deadline(&self, patience: Patience) -> Option<u64> {
        match patience {
            Patience::Forever => None,
            Patience::Nanoseconds(count) => Some(self.memory.machine.monotonic().saturating_add(count)),
        }
    }

    fn poll_until(&mut self, array: u64, count: u64, patience: Patience) -> SysResult {
        if count > self.files.limit {
            return Err(Errno::INVAL);
        }
        let mut fds: Vec<(i32, u16, u16)> = Vec::new();
        fds.try_reserve_exact(count as usize)?;
        for index in 0..count {
            let word = self.memory.read_u64(array.wrapping_add(8 * index))?;
            fds.push((word as i32, (word >> 32) as u16, 0));
        }
        let deadline = self.deadline(patience);
        let look = |kernel: &mut Self| {
            let mut any = false;
            for (fd, wanted, found) in &mut fds {
                let ready = if *fd < 0 { 0 } else { kernel.readiness(*fd as u64) };
                *found = ready & (*wanted | ERR | HUP | NVAL);
                any |= *found != 0;
            }
            any
        };
        if self.wait_until(deadline, look) == Waited::Interrupted {
            return Err(Errno::INTR);
        }
        for (index, (.., found)) in fds.iter().enumerate() {
            self.memory.write_bytes(array.wrapping_add(8 * index as u64 + 6), &found.to_le_bytes())?;
        }
        Ok(fds.iter().filter(|(.., found)| *found != 0).count() as u64)
    }

    pub(super) fn sys_poll(&mut self, array: u64, count: u64, milliseconds: u64) -> SysResult {
        let milliseconds = milliseconds as i32;
        let patience = match u64::try_from(milliseconds) {
            Ok(milliseconds) => Patience::Nanoseconds(milliseconds * 1_000_000),
            Err(_) => Patience::Forever,
        };
        self.poll_until(array, count, patience)
    }

    fn patience_of_timespec(&mut self, at: u64) -> Result<Patience, Errno> {
        if at == 0 {
            return Ok(Patience::Forever);
        }
        Ok(Patience::Nanoseconds(self.read_timespec(at)?))
    }

    /// Replaces the signal mask while a call waits.
    fn swap_mask(&mut self, mask: Option<u64>) -> Result<(), Errno> {
        if let Some(at) = mask.filter(|at| *at != 0) {
            let mask = self.memory.read_u64(at)?;
            let signals = &mut self.process.signals;
            signals.saved = Some(signals.blocked);
            signals.set_blocked(mask);
        }
        Ok(())
    }

    /// Puts it back, unless a handler is about to run under it, whose return will.
    fn restore_mask<T>(&mut self, result: Result<T, Errno>) -> Result<T, Errno> {
        if !matches!(result, Err(Errno::INTR))
            && let Some(saved) = self.process.signals.saved.take()
        {
            self.process.signals.set_blocked(saved);
        }
        result
    }

    pub(super) fn sys_ppoll(&mut self, array: u64, count: u64, time: u64, mask: u64) -> SysResult {
        let patience = self.patience_of_timespec(time)?;
        self.swap_mask(Some(mask))?;
        let result = self.poll_until(array, count, patience);
        self.restore_mask(result)
    }

    fn select_until(&mut self, count: u64, sets: [u64; 3], patience: Patience) -> SysResult {
        const WANTED: [u16; 3] = [IN | HUP | ERR, OUT | ERR, 0];
        let count = (count as i32).try_into().unwrap_or(u64::MAX);
        if count > 1024 {
            return Err(Errno::INVAL);
        }
        let words = count.div_ceil(64) as usize;
        let mut wanted = [[0_u64; 16]; 3];
        for (set, at) in wanted.iter_mut().zip(sets) {
            for (index, word) in set.iter_mut().take(words).enumerate() {
                if at != 0 {
                    *word = self.memory.read_u64(at + 8 * index as u64)?;
                }
            }
        }
        let is_set = |set: &[u64; 16], fd: u64| set[fd as usize / 64] >> (fd % 64) & 1 == 1;
        for fd in 0..count {
            if wanted.iter().any(|set| is_set(set, fd)) {
                self.files.get(fd)?;
            }
        }
        let mut found = [[0_u64; 16]; 3];
        let deadline = self.deadline(patience);
        let look = |kernel: &mut Self| {
            let mut any = false;
            for fd in 0..count {
                for ((set, found), events) in wanted.iter().zip(&mut found).zip(WANTED) {
                    let ready = is_set(set, fd) && kernel.readiness(fd) & events != 0;
                    found[fd as usize / 64] |= u64::from(ready) << (fd % 64);
                    any |= ready;
                }
            }
            any
        };
        if self.wait_until(deadline, look) == Waited::Interrupted {
            return Err(Errno::INTR);
        }
        for (set, at) in found.iter().zip(sets) {
            if at != 0 {
                self.memory.write_words(at, &set[..words])?;
            }
        }
        Ok(found.iter().flatten().map(|word| u64::from(word.count_ones())).sum())
    }

    pub(super) fn sys_select(&mut self, count: u64, sets: [u64; 3], time: u64) -> SysResult {
        let patience = if time == 0 {
            Patience::Forever
        } else {
            let [seconds, microseconds] = self.memory.read_words(time)?;
            Patience::Nanoseconds(super::time::from_parts(seconds, microseconds.saturating_mul(1000))?)
        };
        self.select_until(count, sets, patience)
    }

    pub(super) fn sys_pselect6(&mut self, count: u64, sets: [u64; 3], time: u64, mask: u64) -> SysResult {
        let patience = self.patience_of_timespec(time)?;
        // The last argument points to the address of the mask, and its size.
        let mask = if mask == 0 { None } else { Some(self.memory.read_u64(mask)?) };
        self.swap_mask(mask)?;
        let result = self.select_until(count, sets, patience);
        self.restore_mask(result)
    }
}
