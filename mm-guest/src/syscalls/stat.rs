//! `stat` in all its forms, `access`, `statfs`, `readlink`.

use super::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW};
use crate::errno::{Errno, SysResult};
use crate::files::Object;
use crate::fs::data::DATA_DEVICE;
use crate::fs::dev::Device;
use crate::fs::proc::{ProcId, ProcKind};
use crate::fs::{Attributes, Last, Node, VOLUME_DEVICE};
use crate::kernel::Kernel;
use crate::machine::Machine;

/// Bytes of `struct statx` (`uapi/linux/stat.h`).
const STATX: usize = 256;
/// `STATX_BASIC_STATS`: all but the time of birth.
const BASIC: u32 = 0x7ff;

/// Encodes `struct stat` (`arch/x86/include/uapi/asm/stat.h`).
fn encode_stat(a: &Attributes) -> [u8; 144] {
    let mut bytes = [0; 144];
    let mut wide =
        |offset: usize, value: u64| bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    wide(0, a.device);
    wide(8, a.inode);
    wide(16, u64::from(a.links));
    wide(24, u64::from(a.mode) | u64::from(a.uid) << 32);
    wide(32, u64::from(a.gid));
    wide(40, a.special);
    wide(48, a.size);
    wide(56, 4096);
    wide(64, a.blocks);
    for (offset, (seconds, nanoseconds)) in [(72, a.accessed), (88, a.modified), (104, a.changed)] {
        wide(offset, seconds);
        wide(offset + 8, u64::from(nanoseconds));
    }
    bytes
}

fn encode_statx(a: &Attributes) -> [u8; STATX] {
    let mut bytes = [0; STATX];
    let mut wide =
        |offset: usize, value: u64| bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    // Device numbers in Linux's 32-bit encoding: minor bits 0–7 and 20–31, major bits 8–19.
    let numbers = |device: u64| (device >> 8 & 0xfff) | ((device & 0xff) | (device >> 12 & 0xfff00)) << 32;
    wide(0, u64::from(BASIC) | 4096 << 32);
    wide(16, u64::from(a.links) | u64::from(a.uid) << 32);
    wide(24, u64::from(a.gid) | u64::from(a.mode) << 32);
    wide(32, a.inode);
    wide(40, a.size);
    wide(48, a.blocks);
    for (offset, (seconds, nanoseconds)) in [(64, a.accessed), (96, a.changed), (112, a.modified)] {
        wide(offset, seconds);
        wide(offset + 8, u64::from(nanoseconds));
    }
    wide(128, numbers(a.special));
    wide(136, numbers(a.device));
    bytes
}

impl<M: Machine> Kernel<M> {
    /// Attributes of an open file.
    pub(super) fn attributes_of(&mut self, fd: u64) -> Result<Attributes, Errno> {
        let description = self.files.get(fd)?;
        if let Some(at) = &description.at {
            return self.vfs.attributes(&mut self.memory, at.node);
        }
        let (mode, special) = match description.object {
            Object::Device(Device::Console) => (0o020_620, 5 << 8 | 1),
            Object::PipeReader(_) | Object::PipeWriter(_) => (0o010_600, 0),
            _ => (0o600, 0),
        };
        let time = (self.process.started_at / 1_000_000_000, 0);
        Ok(Attributes {
            device: 9,
            inode: u64::from(self.files.identity(fd)?) + 1,
            mode,
            links: 1,
            uid: 0,
            gid: 0,
            special,
            size: 0,
            blocks: 0,
            accessed: time,
            modified: time,
            changed: time,
        })
    }

    /// Attributes of what a path names; of the descriptor itself where it is empty and that is allowed.
    fn attributes_at(&mut self, dir: u64, path: u64, at_flags: u64) -> Result<Attributes, Errno> {
        let path = if path == 0 && at_flags & AT_EMPTY_PATH != 0 {
            alloc::vec::Vec::new()
        } else {
            self.memory.read_path(path)?
        };
        if path.is_empty() && at_flags & AT_EMPTY_PATH != 0 && dir as u32 != AT_FDCWD as u32 {
            return self.attributes_of(dir);
        }
        let path = if path.is_empty() && at_flags & AT_EMPTY_PATH != 0 { b".".to_vec() } else { path };
        let last = if at_flags & AT_SYMLINK_NOFOLLOW != 0 { Last::Keep } else { Last::Follow };
        let walked = self.walk_at(dir, &path, last)?;
        match walked.node {
            Node::Proc(ProcId::Fd(fd)) if last == Last::Follow => self.attributes_of(u64::from(fd)),
            node => self.vfs.attributes(&mut self.memory, node),
        }
    }

    pub(super) fn sys_stat(&mut self, dir: u64, path: u64, buffer: u64, at_flags: u64) -> SysResult {
        let attributes = self.attributes_at(dir, path, at_flags)?;
        self.memory.write_bytes(buffer, &encode_stat(&attributes)).map(|()| 0)
    }

    pub(super) fn sys_fstat(&mut self, fd: u64, buffer: u64) -> SysResult {
        let attributes = self.attributes_of(fd)?;
        self.memory.write_bytes(buffer, &encode_stat(&attributes)).map(|()| 0)
    }

    pub(super) fn sys_statx(
        &mut self,
        dir: u64,
        path: u64,
        at_flags: u64,
        mask: u64,
        buffer: u64,
    ) -> SysResult {
        if mask & 1 << 31 != 0 {
            return Err(Errno::INVAL);
        }
        let attributes = self.attributes_at(dir, path, at_flags)?;
        self.memory.write_bytes(buffer, &encode_statx(&attributes)).map(|()| 0)
    }

    /// The program is root: only writing to what is read-only, and executing what nobody may, is refused.
    pub(super) fn sys_access(&mut self, dir: u64, path: u64, mode: u64, at_flags: u64) -> SysResult {
        if mode & !7 != 0 {
            return Err(Errno::INVAL);
        }
        let attributes = self.attributes_at(dir, path, at_flags)?;
        let read_only = match attributes.device {
            VOLUME_DEVICE => true,
            DATA_DEVICE => self.memory.machine.data_disk().is_some_and(|disk| disk.read_only),
            _ => false,
        };
        if mode & 2 != 0 && read_only {
            return Err(Errno::ROFS);
        }
        if mode & 1 != 0 && !attributes.is_directory() && attributes.mode & 0o111 == 0 {
            return Err(Errno::ACCES);
        }
        Ok(0)
    }

    pub(super) fn sys_readlink(&mut self, dir: u64, path: u64, buffer: u64, size: u64) -> SysResult {
        if size as i64 <= 0 {
            return Err(Errno::INVAL);
        }
        let path = self.memory.read_path(path)?;
        let walked = if path.is_empty() && dir as u32 != AT_FDCWD as u32 {
            self.files.get(dir)?.at.clone().ok_or(Errno::NOENT)?
        } else {
            self.walk_at(dir, &path, Last::Keep)?
        };
        let target = match walked.node {
            Node::Proc(id) if matches!(id.kind(), None | Some(ProcKind::Exe | ProcKind::Cwd)) => {
                self.self_link(id)?
            }
            node => {
                if !self.vfs.attributes(&mut self.memory, node)?.is_link() {
                    return Err(Errno::INVAL);
                }
                self.vfs.read_link(&mut self.memory, node)?
            }
        };
        let length = target.len().min(size as usize);
        self.memory.write_bytes(buffer, &target[..length])?;
        Ok(length as u64)
    }

    fn write_statfs(&mut self, node: Option<Node>, buffer: u64) -> SysResult {
        const EROFS: u64 = 0xe0f5_e1e2;
        const TMPFS: u64 = 0x0102_1994;
        const PROC: u64 = 0x9fa0;
        const PIPEFS: u64 = 0x5049_5045;
        const EXT3: u64 = 0xef53;
        const READ_ONLY: u64 = 1;
        let usage = match node {
            Some(Node::Data(_)) => self.memory.with_data(|fs, disk| fs.usage(disk))?,
            _ => ext3::Usage::default(),
        };
        let store = &self.memory.store;
        let room = store.limit().saturating_sub(store.frames_held());
        let room = room.min(self.memory.machine.frames().available);
        let mut words = [0; 15];
        let (kind, blocks, free, files, mount) = match node {
            Some(Node::Volume(_)) => {
                (EROFS, self.vfs.volume.blocks(), 0, self.vfs.volume.inodes(), READ_ONLY)
            }
            Some(Node::Tmp(_) | Node::Dev(_)) => (TMPFS, store.limit(), room, 65536, 0),
            Some(Node::Data(_)) => (EXT3, usage.blocks, usage.free_blocks, usage.inodes, 0),
            Some(Node::Proc(_)) => (PROC, 0, 0, 0, 0),
            None => (PIPEFS, 0, 0, 0, 0),
        };
        words[..7].copy_from_slice(&[kind, 4096, blocks, free, free, files, usage.free_inodes]);
        // f_fsid is word 7; then f_namelen, f_frsize, f_flags.
        words[8..11].copy_from_slice(&[255, 4096, mount]);
        self.memory.write_words(buffer, &words).map(|()| 0)
    }

    pub(super) fn sys_statfs(&mut self, path: u64, buffer: u64) -> SysResult {
        let path = self.memory.read_path(path)?;
        let walked = self.walk_at(AT_FDCWD, &path, Last::Follow)?;
        self.write_statfs(Some(walked.node), buffer)
    }

    pub(super) fn sys_fstatfs(&mut self, fd: u64, buffer: u64) -> SysResult {
        let node = self.files.get(fd)?.at.as_ref().map(|at| at.node);
        self.write_statfs(node, buffer)
    }
}
