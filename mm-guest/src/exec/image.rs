//! What an ELF file says about how to map it. Pure: bytes in, a description out.

use alloc::vec::Vec;

use elf::abi;
use elf::endian::LittleEndian;
use elf::file::{Class, FileHeader};
use elf::segment::SegmentTable;

use crate::page::{PAGE_SIZE, USER_END};
use crate::vm::Rights;

/// Most program headers that are looked at.
const MAX_HEADERS: u64 = 128;
/// Longest path of an interpreter.
const MAX_INTERPRETER: u64 = 4096;

/// Why a file is no program for this kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ImageError {
    /// No ELF file.
    NotElf,
    /// ELF, but not for 64-bit x86, or no program.
    WrongMachine,
    /// It contradicts itself.
    Damaged,
}

/// A segment to map: `PT_LOAD`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Load {
    pub(crate) address: u64,
    pub(crate) offset: u64,
    pub(crate) file_size: u64,
    pub(crate) memory_size: u64,
    pub(crate) rights: Rights,
}

/// A program, or a program's interpreter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Image {
    pub(crate) entry: u64,
    /// Linked to its addresses (`ET_EXEC`).
    pub(crate) fixed: bool,
    /// Segments by ascending address, none overlapping in pages.
    pub(crate) loads: Vec<Load>,
    /// Where in the file its interpreter's path is, and its length.
    pub(crate) interpreter: Option<(u64, usize)>,
    /// Address of the program headers in memory, and their number: for `AT_PHDR`, `AT_PHNUM`.
    pub(crate) headers: u64,
    pub(crate) header_count: u64,
    pub(crate) executable_stack: bool,
}

fn header(head: &[u8]) -> Result<FileHeader<LittleEndian>, ImageError> {
    let ident = head.get(..abi::EI_NIDENT).ok_or(ImageError::NotElf)?;
    let ident = elf::file::parse_ident::<LittleEndian>(ident).map_err(|error| match error {
        elf::ParseError::BadMagic(_) => ImageError::NotElf,
        _ => ImageError::WrongMachine,
    })?;
    if ident.1 != Class::ELF64 {
        return Err(ImageError::WrongMachine);
    }
    let tail = head.get(abi::EI_NIDENT..64).ok_or(ImageError::Damaged)?;
    let header = FileHeader::parse_tail(ident, tail).map_err(|_| ImageError::Damaged)?;
    let good = header.e_machine == abi::EM_X86_64 && matches!(header.e_type, abi::ET_EXEC | abi::ET_DYN);
    if !good {
        return Err(ImageError::WrongMachine);
    }
    if header.e_phentsize != 56 || header.e_phnum == 0 || u64::from(header.e_phnum) > MAX_HEADERS {
        return Err(ImageError::Damaged);
    }
    Ok(header)
}

impl Image {
    /// Where in the file the program headers are, and their length in bytes.
    pub(crate) fn table(head: &[u8]) -> Result<(u64, usize), ImageError> {
        let header = header(head)?;
        Ok((header.e_phoff, usize::from(header.e_phnum) * 56))
    }

    /// Judges a file by its head and its program headers.
    pub(crate) fn parse(head: &[u8], table: &[u8]) -> Result<Self, ImageError> {
        let header = header(head)?;
        let mut image = Self {
            entry: header.e_entry,
            fixed: header.e_type == abi::ET_EXEC,
            loads: Vec::new(),
            interpreter: None,
            headers: 0,
            header_count: u64::from(header.e_phnum),
            executable_stack: true,
        };
        for segment in SegmentTable::new(LittleEndian, Class::ELF64, table) {
            match segment.p_type {
                abi::PT_LOAD if segment.p_memsz > 0 => {
                    let flag = |bit| segment.p_flags & bit != 0;
                    let load = Load {
                        address: segment.p_vaddr,
                        offset: segment.p_offset,
                        file_size: segment.p_filesz,
                        memory_size: segment.p_memsz,
                        rights: Rights::new(flag(abi::PF_R), flag(abi::PF_W), flag(abi::PF_X)),
                    };
                    image.add(load)?;
                    let inside = header.e_phoff.checked_sub(load.offset).filter(|at| *at < load.file_size);
                    if let Some(inside) = inside {
                        image.headers = load.address + inside;
                    }
                }
                abi::PT_INTERP => {
                    if segment.p_filesz < 2 || segment.p_filesz > MAX_INTERPRETER {
                        return Err(ImageError::Damaged);
                    }
                    image.interpreter = Some((segment.p_offset, segment.p_filesz as usize));
                }
                abi::PT_GNU_STACK => image.executable_stack = segment.p_flags & abi::PF_X != 0,
                _ => {}
            }
        }
        if image.loads.is_empty() { Err(ImageError::Damaged) } else { Ok(image) }
    }

    fn add(&mut self, load: Load) -> Result<(), ImageError> {
        let end = load.address.checked_add(load.memory_size).filter(|end| *end <= USER_END);
        let file_end = load.offset.checked_add(load.file_size);
        let same = load.address % PAGE_SIZE == load.offset % PAGE_SIZE;
        // Programs of Debian keep segments on pages of their own; ascending order is the specification's.
        let follows = self.loads.last().is_none_or(|last| {
            (last.address + last.memory_size).div_ceil(PAGE_SIZE) <= load.address / PAGE_SIZE
        });
        let good =
            end.is_some() && file_end.is_some() && load.file_size <= load.memory_size && same && follows;
        if !good {
            return Err(ImageError::Damaged);
        }
        self.loads.push(load);
        Ok(())
    }

    /// First address and end of all segments.
    pub(crate) fn span(&self) -> (u64, u64) {
        let low = self.loads.first().map_or(0, |load| load.address);
        let high = self.loads.last().map_or(0, |load| load.address + load.memory_size);
        (low, high)
    }
}
