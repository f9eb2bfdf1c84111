//! System calls on the fake machine, with a small EROFS image as the root.

mod data;
mod files;
mod hostile;
mod process;
mod tmp;

use crate::errno::{Errno, SysResult};
use crate::fake::Fake;
use crate::kernel::Kernel;
use crate::options::Options;
use crate::page::PAGE_SIZE;
use crate::vm::{MapRequest, Rights};

pub(crate) static PLAIN: &[u8] = include_bytes!("../../../../crates/erofs/seeds/plain.erofs");
static INLINE: &[u8] = include_bytes!("../../../../crates/erofs/seeds/inline.erofs");
static CHUNKED: &[u8] = include_bytes!("../../../../crates/erofs/seeds/chunked.erofs");
static INDEXED: &[u8] = include_bytes!("../../../../crates/erofs/seeds/indexed.erofs");

/// The program's memory in these tests: strings come at its start, buffers behind.
pub(crate) const SCRATCH: u64 = 0x10_0000;
const BUFFER: u64 = SCRATCH + 0x4000;
const SCRATCH_PAGES: u64 = 64;

/// What a file of the image of `length` bytes holds (see `crates/erofs/tests/seeds.rs`).
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| ((at * 7 + at / 251) % 256) as u8).collect()
}

/// A kernel without a program, and the means to call it.
pub(crate) struct Guest {
    pub(crate) kernel: Kernel<Fake>,
    strings: u64,
}

impl Guest {
    pub(crate) fn with(image: &[u8], frames: u64) -> Self {
        let mut volume = image.to_vec();
        volume.resize(volume.len().next_multiple_of(4096), 0);
        let Ok(kernel) = Kernel::new(Fake::new(frames, volume), Options::default()) else {
            panic!("the image is no root");
        };
        Self::beside(kernel)
    }

    pub(crate) fn beside(mut kernel: Kernel<Fake>) -> Self {
        let request = MapRequest::anonymous(SCRATCH_PAGES * PAGE_SIZE, Rights::READ_WRITE);
        kernel.memory.map(&MapRequest { uncharged: true, ..request }.at(SCRATCH)).unwrap();
        Self { kernel, strings: SCRATCH }
    }

    /// One that is there already.
    pub(crate) fn of(kernel: Kernel<Fake>) -> Self {
        Self { kernel, strings: SCRATCH }
    }

    pub(crate) fn new() -> Self {
        Self::with(PLAIN, 4096)
    }

    pub(crate) fn call(&mut self, call: u64, args: &[u64]) -> SysResult {
        let mut all = [0; 6];
        all[..args.len()].copy_from_slice(args);
        self.kernel.vfs.tmp.set_now(1_700_000_000_000_000_000);
        self.kernel.dispatch(call, all)
    }

    /// Puts bytes where the program could have them.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u64 {
        if self.strings + bytes.len() as u64 > BUFFER {
            self.strings = SCRATCH;
        }
        let at = self.strings;
        self.kernel.memory.write_bytes(at, bytes).unwrap();
        self.strings += bytes.len().next_multiple_of(16) as u64;
        at
    }

    pub(crate) fn path(&mut self, path: &str) -> u64 {
        let mut bytes = path.as_bytes().to_vec();
        bytes.push(0);
        self.put(&bytes)
    }

    pub(crate) fn get(&mut self, at: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.kernel.memory.read_bytes(at, &mut bytes).unwrap();
        bytes
    }

    fn open(&mut self, path: &str, flags: u32, mode: u64) -> SysResult {
        let path = self.path(path);
        self.call(2, &[path, u64::from(flags), mode])
    }

    fn read(&mut self, fd: u64, length: u64) -> Result<Vec<u8>, Errno> {
        let read = self.call(0, &[fd, BUFFER, length])?;
        Ok(self.get(BUFFER, read as usize))
    }

    fn write(&mut self, fd: u64, bytes: &[u8]) -> SysResult {
        self.kernel.memory.write_bytes(BUFFER, bytes).unwrap();
        self.call(1, &[fd, BUFFER, bytes.len() as u64])
    }

    pub(crate) fn read_file(&mut self, path: &str) -> Result<Vec<u8>, Errno> {
        let fd = self.open(path, 0, 0)?;
        let bytes = self.read(fd, 0x8000);
        self.call(3, &[fd]).unwrap();
        bytes
    }

    pub(crate) fn write_file(&mut self, path: &str, bytes: &[u8]) -> SysResult {
        let fd = self.open(path, 0o1101, 0o644)?;
        let written = self.write(fd, bytes);
        self.call(3, &[fd]).unwrap();
        written
    }

    /// Mode, links, size and blocks of what a path names.
    fn stat(&mut self, path: &str) -> Result<(u32, u64, u64, u64), Errno> {
        let path = self.path(path);
        self.call(6, &[path, BUFFER])?;
        let bytes = self.get(BUFFER, 144);
        let wide = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        Ok((wide(24) as u32, wide(16), wide(48), wide(64)))
    }

    /// Names in a directory, read with a buffer of so many bytes.
    fn names(&mut self, path: &str, buffer: u64) -> Result<Vec<String>, Errno> {
        let fd = self.open(path, 0o200_000, 0)?;
        let mut names = Vec::new();
        loop {
            let length = self.call(217, &[fd, BUFFER, buffer])? as usize;
            if length == 0 {
                break;
            }
            let bytes = self.get(BUFFER, length);
            let mut at = 0;
            while at < length {
                let record = u16::from_le_bytes([bytes[at + 16], bytes[at + 17]]) as usize;
                let name = &bytes[at + 19..at + record];
                let end = name.iter().position(|byte| *byte == 0).unwrap();
                names.push(String::from_utf8(name[..end].to_vec()).unwrap());
                at += record;
            }
        }
        self.call(3, &[fd]).unwrap();
        Ok(names)
    }
}
