//! The kernel's own access to the program's memory. It never trusts an address: pages are faulted in as the program's
//! own access would, copy-on-write included, and what the program may not touch gives `EFAULT`.

use alloc::vec::Vec;

use super::{Access, Memory};
use crate::errno::Errno;
use crate::machine::Machine;
use crate::page::{PAGE_SIZE, USER_END};

/// Longest path, its terminating zero included (`PATH_MAX`).
pub(crate) const PATH_MAX: usize = 4096;

/// Bytes of the heap that are kept for what a call needs while it lasts.
pub const HEAP_KEPT: usize = 48 << 10;

impl<M: Machine> Memory<M> {
    fn check(address: u64, length: usize) -> Result<(), Errno> {
        match address.checked_add(length as u64) {
            Some(end) if end <= USER_END => Ok(()),
            _ => Err(Errno::FAULT),
        }
    }

    /// Reads the program's memory.
    pub(crate) fn read_bytes(&mut self, address: u64, to: &mut [u8]) -> Result<(), Errno> {
        Self::check(address, to.len())?;
        let mut done = 0;
        while done < to.len() {
            let at = address + done as u64;
            let length = (to.len() - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            let part = &mut to[done..done + length];
            let mut tries = 0;
            while self.machine.read_user(at, part).is_err() {
                tries += 1;
                if tries > 4 || self.fault(at, Access::Read).is_err() {
                    return Err(Errno::FAULT);
                }
            }
            done += length;
        }
        Ok(())
    }

    /// Writes the program's memory.
    pub(crate) fn write_bytes(&mut self, address: u64, from: &[u8]) -> Result<(), Errno> {
        Self::check(address, from.len())?;
        let mut done = 0;
        while done < from.len() {
            let at = address + done as u64;
            let length = (from.len() - done).min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            let part = &from[done..done + length];
            let mut tries = 0;
            while self.machine.write_user(at, part).is_err() {
                tries += 1;
                if tries > 4 || self.fault(at, Access::Write).is_err() {
                    return Err(Errno::FAULT);
                }
            }
            done += length;
        }
        Ok(())
    }

    /// Reads an array of bytes.
    pub(crate) fn read_array<const N: usize>(&mut self, address: u64) -> Result<[u8; N], Errno> {
        let mut bytes = [0; N];
        self.read_bytes(address, &mut bytes)?;
        Ok(bytes)
    }

    pub(crate) fn read_u32(&mut self, address: u64) -> Result<u32, Errno> {
        Ok(u32::from_le_bytes(self.read_array(address)?))
    }

    pub(crate) fn read_u64(&mut self, address: u64) -> Result<u64, Errno> {
        Ok(u64::from_le_bytes(self.read_array(address)?))
    }

    pub(crate) fn write_u32(&mut self, address: u64, value: u32) -> Result<(), Errno> {
        self.write_bytes(address, &value.to_le_bytes())
    }

    pub(crate) fn write_u64(&mut self, address: u64, value: u64) -> Result<(), Errno> {
        self.write_bytes(address, &value.to_le_bytes())
    }

    /// Reads `N` words.
    pub(crate) fn read_words<const N: usize>(&mut self, address: u64) -> Result<[u64; N], Errno> {
        let mut words = [0; N];
        for (index, word) in words.iter_mut().enumerate() {
            *word = self.read_u64(address.wrapping_add(8 * index as u64))?;
        }
        Ok(words)
    }

    /// Writes words.
    pub(crate) fn write_words(&mut self, address: u64, words: &[u64]) -> Result<(), Errno> {
        for (index, word) in words.iter().enumerate() {
            self.write_u64(address.wrapping_add(8 * index as u64), *word)?;
        }
        Ok(())
    }

    /// Refuses what would make the kernel keep more while its heap is nearly used up: paths, files and mappings.
    pub(crate) fn check_heap(&self) -> Result<(), Errno> {
        if self.machine.heap_left() < HEAP_KEPT { Err(Errno::NOMEM) } else { Ok(()) }
    }

    /// Reads a path: a string that ends with a zero byte, without it.
    pub(crate) fn read_path(&mut self, address: u64) -> Result<Vec<u8>, Errno> {
        self.check_heap()?;
        self.read_path_always(address)
    }

    /// The same, also where the heap is nearly used up: for what gives something back.
    pub(crate) fn read_path_always(&mut self, address: u64) -> Result<Vec<u8>, Errno> {
        self.read_string(address, PATH_MAX - 1).map_err(|error| match error {
            Errno::TOOBIG => Errno::NAMETOOLONG,
            error => error,
        })
    }

    /// Reads a string of at most so many bytes that ends with a zero byte, without it; `E2BIG` for a longer one.
    pub(crate) fn read_string(&mut self, address: u64, most: usize) -> Result<Vec<u8>, Errno> {
        let mut string = Vec::new();
        let mut chunk = [0; 256];
        while string.len() <= most {
            let at = address.checked_add(string.len() as u64).ok_or(Errno::FAULT)?;
            let length = chunk.len().min((PAGE_SIZE - at % PAGE_SIZE) as usize);
            self.read_bytes(at, &mut chunk[..length])?;
            let end = chunk[..length].iter().position(|byte| *byte == 0);
            string.try_reserve(length)?;
            string.extend_from_slice(&chunk[..end.unwrap_or(length)]);
            if end.is_some() {
                return if string.len() <= most { Ok(string) } else { Err(Errno::TOOBIG) };
            }
        }
        Err(Errno::TOOBIG)
    }

    /// Makes every page of the range present, as far as it can be.
    pub(crate) fn populate(&mut self, range: core::ops::Range<u64>) {
        for page in range {
            let write = self.vmas.find(page).is_some_and(|vma| {
                vma.rights.write() && !matches!(vma.backing, super::Backing::Volume { .. })
            });
            let access = if write { Access::Write } else { Access::Read };
            if !self.is_present(page) && self.fault(page * PAGE_SIZE, access).is_err() {
                return;
            }
        }
    }
}
