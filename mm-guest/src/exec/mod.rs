//! Loading a program: its segments, its interpreter's, its heap and its stack, as Linux's `binfmt_elf.c` leaves them.

mod image;
mod stack;
#[cfg(test)]
mod tests;

use alloc::vec::Vec;

pub use image::ImageError;
pub(crate) use image::{Image, Load};
pub(crate) use stack::Stack;

use crate::errno::Errno;
use crate::files::Object;
use crate::fs::{Last, Walked};
use crate::kernel::Kernel;
use crate::machine::{Machine, Registers};
use crate::page::{PAGE_SIZE, round_down, round_up};
use crate::vm::{Backing, MapRequest, Place, Rights, STACK_TOP};

/// Where a position-independent program goes. Low in the same GiB as the stack, so that one page of tables covers all;
/// addresses are not randomised.
const PIE_BASE: u64 = 0x7fff_c000_0000;
/// Pages of stack that are mapped from the start; it grows from there.
const STACK_START: u64 = 33;
/// Nested `#!` lines.
const MAX_SCRIPTS: u32 = 4;

/// Why a program did not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ExecError {
    /// It, its interpreter or its script's interpreter could not be opened or read.
    File(Errno),
    /// It is no program that this kernel runs.
    Format(ImageError),
    /// It does not fit: memory, or arguments beyond 128 KiB.
    TooLarge(Errno),
}

/// Arguments and environment, most that is taken.
pub(crate) const MAX_STRINGS: usize = 128 << 10;

struct Loaded {
    image: Image,
    bias: u64,
    /// End of the highest segment.
    end: u64,
}

impl Loaded {
    fn entry(&self) -> u64 {
        self.bias.wrapping_add(self.image.entry) & (u64::MAX >> 17)
    }
}

impl<M: Machine> Kernel<M> {
    /// Puts a program in the place of what is there and sets the registers to its start.
    pub(crate) fn exec(&mut self, path: &[u8], args: Vec<Vec<u8>>, env: &[Vec<u8>]) -> Result<(), ExecError> {
        let mut args = args;
        let mut file = self.open_program(path).map_err(ExecError::File)?;
        let mut head = self.read_head(&file).map_err(ExecError::File)?;
        for _ in 0..MAX_SCRIPTS {
            let Some((interpreter, option)) = script(&head) else { break };
            // `#!INTERPRETER OPTION`: the script's path takes the place of its own name.
            let script = if args.is_empty() { Vec::new() } else { args.remove(0) };
            let script = if file.1.path.is_empty() { script } else { file.1.path.clone() };
            args.insert(0, script);
            if let Some(option) = option {
                args.insert(0, option.to_vec());
            }
            args.insert(0, interpreter.to_vec());
            file = self.open_program(interpreter).map_err(ExecError::File)?;
            head = self.read_head(&file).map_err(ExecError::File)?;
        }
        let strings: usize = args.iter().chain(env).map(|string| string.len() + 9).sum();
        if strings > MAX_STRINGS {
            return Err(ExecError::TooLarge(Errno::TOOBIG));
        }
        let program = self.load(&file, &head, Some(PIE_BASE))?;
        let interpreter = match program.image.interpreter {
            None => None,
            Some((offset, length)) => {
                let mut name = alloc::vec![0; length];
                self.read_object(&file.0, offset, &mut name).map_err(ExecError::File)?;
                name.truncate(name.iter().position(|byte| *byte == 0).unwrap_or(length));
                let file = self.open_program(&name).map_err(ExecError::File)?;
                let head = self.read_head(&file).map_err(ExecError::File)?;
                Some(self.load(&file, &head, None)?)
            }
        };
        let heap = round_up(program.end);
        self.memory.heap = heap..heap;
        // An address that is not canonical would be the hypervisor's fault to take, not the program's.
        let entry = program.entry();
        let start = interpreter.as_ref().map_or(entry, Loaded::entry);
        let base = interpreter.as_ref().map_or(0, |loaded| loaded.bias);

        let rights = Rights::new(true, true, program.image.executable_stack);
        let request =
            MapRequest { grows_down: true, ..MapRequest::anonymous(STACK_START * PAGE_SIZE, rights) };
        self.memory.map(&request.at(STACK_TOP - STACK_START * PAGE_SIZE)).map_err(ExecError::TooLarge)?;
        let mut random = [0; 16];
        self.random.fill(&mut random);
        let stack = stack::build(&stack::Contents {
            args: &args,
            env,
            path: &file.1.path,
            entry,
            base,
            headers: program.bias.wrapping_add(program.image.headers),
            header_count: program.image.header_count,
            hwcap: self.memory.machine.hwcap(),
            random,
        })
        .map_err(ExecError::TooLarge)?;
        self.memory.write_bytes(stack.pointer, &stack.bytes).map_err(ExecError::TooLarge)?;
        self.process.started(&file.1, &stack);
        self.registers = Registers { rip: start, rsp: stack.pointer, rflags: 0x202, ..Registers::default() };
        self.memory.machine.set_fpu(&crate::signal::initial_fpu());
        Ok(())
    }

    /// Whether a file looks like a program, without doing anything.
    pub(crate) fn look_at_program(&mut self, path: &[u8]) -> Result<(), ExecError> {
        let file = self.open_program(path).map_err(ExecError::File)?;
        let head = self.read_head(&file).map_err(ExecError::File)?;
        match script(&head) {
            Some(_) => Ok(()),
            None => Image::table(&head).map(drop).map_err(ExecError::Format),
        }
    }

    fn open_program(&mut self, path: &[u8]) -> Result<(Object, Walked), Errno> {
        let walked = self.walk(path, Last::Follow)?;
        let attributes = self.vfs.attributes(&mut self.memory, walked.node)?;
        if !attributes.is_regular() || attributes.mode & 0o111 == 0 {
            return Err(Errno::ACCES);
        }
        Ok((self.open_regular(walked.node)?, walked))
    }

    fn read_head(&mut self, file: &(Object, Walked)) -> Result<Vec<u8>, Errno> {
        let mut head = alloc::vec![0; 1024];
        let length = self.read_object(&file.0, 0, &mut head)?;
        head.truncate(length);
        Ok(head)
    }

    /// Maps the segments of one file. A position-independent one goes to `base`, or where there is room.
    fn load(&mut self, file: &(Object, Walked), head: &[u8], base: Option<u64>) -> Result<Loaded, ExecError> {
        let (offset, length) = Image::table(head).map_err(ExecError::Format)?;
        let mut table = alloc::vec![0; length];
        if self.read_object(&file.0, offset, &mut table).map_err(ExecError::File)? < length {
            return Err(ExecError::Format(ImageError::Damaged));
        }
        let image = Image::parse(head, &table).map_err(ExecError::Format)?;
        let (low, high) = image.span();
        let (low, length) = (round_down(low), round_up(high) - round_down(low));
        // Keeps the whole span together, gaps between segments included.
        let span = MapRequest { uncharged: true, ..MapRequest::anonymous(length, Rights::NONE) };
        let (span, bias) = match (image.fixed, base) {
            (true, _) => (MapRequest { address: low, place: Place::IfFree, ..span }, Some(0)),
            (false, Some(base)) => {
                (MapRequest { address: base, place: Place::IfFree, ..span }, Some(base - low))
            }
            (false, None) => (span, None),
        };
        let at = self.memory.map(&span).map_err(ExecError::TooLarge)?;
        let bias = bias.unwrap_or(at.wrapping_sub(low));
        let mut mapped = at;
        for load in &image.loads {
            let start = round_down(bias + load.address);
            if start > mapped {
                // Nothing belongs between two segments.
                self.memory.unmap(mapped, start - mapped).map_err(ExecError::TooLarge)?;
            }
            self.map_segment(file, bias, load).map_err(ExecError::TooLarge)?;
            mapped = round_up(bias + load.address + load.memory_size);
        }
        Ok(Loaded { image, bias, end: bias + high })
    }

    fn map_segment(&mut self, file: &(Object, Walked), bias: u64, load: &Load) -> Result<(), Errno> {
        let start = bias + load.address;
        let file_end = start + load.file_size;
        let end = round_up(start + load.memory_size);
        let page = round_down(start);
        if load.file_size > 0 {
            let request = MapRequest::anonymous(round_up(file_end) - page, load.rights).at(page);
            self.map_object(&file.0, &file.1.path, &request, round_down(load.offset))?;
        }
        let zeroes = if load.file_size > 0 { round_up(file_end) } else { page };
        if end > zeroes {
            self.memory.map(&MapRequest::anonymous(end - zeroes, load.rights).at(zeroes))?;
        }
        let tail = round_up(file_end) - file_end;
        if load.memory_size > load.file_size && load.file_size > 0 && tail > 0 && load.rights.write() {
            self.memory.write_bytes(file_end, &[0; 4096][..tail as usize])?;
        }
        Ok(())
    }

    /// Maps a file from `offset` on, as the request says; its backing is filled in here.
    pub(crate) fn map_object(
        &mut self,
        object: &Object,
        path: &[u8],
        request: &MapRequest,
        offset: u64,
    ) -> Result<u64, Errno> {
        let name = self.mapped_name(path)?;
        let mut file_page = offset / PAGE_SIZE;
        match object {
            Object::Tmp(_, store) => {
                let backing = Backing::Stored { file: *store, file_page, shared: request.shared, name };
                self.memory.map(&MapRequest { backing, ..*request })
            }
            Object::Data(file) => {
                // Pages are copies, so what a mapping writes could never be found in the file.
                if request.shared && request.rights.write() {
                    return Err(Errno::NODEV);
                }
                self.memory.retain_mapped(*file)?;
                let backing = Backing::Data { file: *file, file_page, name };
                self.memory.map(&MapRequest { backing, ..*request }).inspect_err(|_| self.memory.reap_data())
            }
            Object::Volume(inode) => {
                let base = self.memory.map(&MapRequest { uncharged: true, ..*request })?;
                let mut at = base;
                let end = base + round_up(request.length);
                while at < end {
                    let run = self.vfs.volume.run(&mut self.memory.machine, inode, file_page)?;
                    let left = (end - at) / PAGE_SIZE;
                    let behind = file_page >= inode.pages();
                    let (backing, pages) = match run {
                        Some((volume, valid)) => {
                            // The last run goes on behind the file's end, where touching is a bus error.
                            let last = file_page + valid >= inode.pages();
                            let pages = if last { left } else { valid.min(left) };
                            (Backing::Volume { volume: volume.0, valid, file_page, name }, pages)
                        }
                        None if behind => (Backing::Volume { volume: 0, valid: 0, file_page, name }, left),
                        None => (Backing::Anonymous, 1),
                    };
                    let piece = MapRequest { length: pages * PAGE_SIZE, backing, ..*request };
                    self.memory.map(&piece.at(at))?;
                    if run.is_none() && !behind {
                        self.fill_odd_page(inode, at, file_page)?;
                    }
                    at += pages * PAGE_SIZE;
                    file_page += pages;
                }
                Ok(base)
            }
            _ => Err(Errno::NODEV),
        }
    }

    /// A page of a file that has no page of the volume to itself (a hole, or a tail beside the inode): a private copy.
    fn fill_odd_page(&mut self, inode: &erofs::Inode, at: u64, file_page: u64) -> Result<(), Errno> {
        let mut bytes = alloc::vec![0; PAGE_SIZE as usize];
        self.vfs.volume.read(&mut self.memory.machine, inode, file_page * PAGE_SIZE, &mut bytes)?;
        self.memory.place_bytes(at / PAGE_SIZE, &bytes)
    }
}

/// The interpreter and its one option, where the file is a script.
fn script(head: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let line = head.strip_prefix(b"#!")?;
    let line = &line[..line.iter().position(|byte| *byte == b'\n').unwrap_or(line.len())];
    let line = line.trim_ascii();
    let end = line.iter().position(|byte| matches!(byte, b' ' | b'\t')).unwrap_or(line.len());
    let option = line[end..].trim_ascii();
    (end > 0).then_some((&line[..end], (!option.is_empty()).then_some(option)))
}
