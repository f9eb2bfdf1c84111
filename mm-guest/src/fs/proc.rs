//! `/proc`: a fixed tree with one process in it, number 1. What the files say is written where the kernel's state is,
//! in `proc_text.rs`.

use super::{Attributes, DirEntry, DirSink, PROC_DEVICE};
use serde::{Deserialize, Serialize};

use crate::errno::Errno;

/// What an entry of `/proc` is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum ProcKind {
    Directory,
    Link(&'static [u8]),
    /// The program's file, its current directory, its root: where the link leads is known when it is read.
    Exe,
    Cwd,
    /// The directory of open files.
    Fds,
    Text(Text),
}

/// A file of text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Text {
    Meminfo,
    Cpuinfo,
    Version,
    Mounts,
    Mountinfo,
    Stat,
    Uptime,
    Loadavg,
    Filesystems,
    Cmdline,
    SelfCmdline,
    Environ,
    Maps,
    Status,
    SelfStat,
    Statm,
    Comm,
    Limits,
    Auxv,
    Empty,
    Fixed(&'static str),
    BootId,
    Uuid,
    Generation,
    Snapshot,
    Memory,
}

/// A file of `/proc`: an entry of the table, or one of the open files.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum ProcId {
    Entry(u8),
    Fd(u32),
}

pub(crate) const ROOT: ProcId = ProcId::Entry(0);
const SELF: u8 = 1;

/// Parent, name, kind. A parent comes before its children.
const TABLE: &[(u8, &[u8], ProcKind)] = &[
    (0, b"", ProcKind::Directory),
    (0, b"1", ProcKind::Directory),
    (0, b"self", ProcKind::Link(b"1")),
    (0, b"thread-self", ProcKind::Link(b"1/task/1")),
    (0, b"sys", ProcKind::Directory),
    (4, b"kernel", ProcKind::Directory),
    (4, b"vm", ProcKind::Directory),
    (5, b"random", ProcKind::Directory),
    (0, b"meminfo", ProcKind::Text(Text::Meminfo)),
    (0, b"cpuinfo", ProcKind::Text(Text::Cpuinfo)),
    (0, b"version", ProcKind::Text(Text::Version)),
    (0, b"mounts", ProcKind::Link(b"self/mounts")),
    (0, b"stat", ProcKind::Text(Text::Stat)),
    (0, b"uptime", ProcKind::Text(Text::Uptime)),
    (0, b"loadavg", ProcKind::Text(Text::Loadavg)),
    (0, b"filesystems", ProcKind::Text(Text::Filesystems)),
    (0, b"cmdline", ProcKind::Text(Text::Cmdline)),
    (5, b"ostype", ProcKind::Text(Text::Fixed("Linux\n"))),
    (5, b"osrelease", ProcKind::Text(Text::Fixed(concat!(crate::release!(), "\n")))),
    (5, b"hostname", ProcKind::Text(Text::Fixed("mm-guest\n"))),
    (5, b"pid_max", ProcKind::Text(Text::Fixed("32768\n"))),
    (5, b"threads-max", ProcKind::Text(Text::Fixed("1\n"))),
    (6, b"overcommit_memory", ProcKind::Text(Text::Fixed("0\n"))),
    (6, b"max_map_count", ProcKind::Text(Text::Fixed("65530\n"))),
    (6, b"mmap_min_addr", ProcKind::Text(Text::Fixed("65536\n"))),
    (7, b"boot_id", ProcKind::Text(Text::BootId)),
    (7, b"uuid", ProcKind::Text(Text::Uuid)),
    (SELF, b"exe", ProcKind::Exe),
    (SELF, b"cwd", ProcKind::Cwd),
    (SELF, b"root", ProcKind::Link(b"/")),
    (SELF, b"fd", ProcKind::Fds),
    (SELF, b"cmdline", ProcKind::Text(Text::SelfCmdline)),
    (SELF, b"environ", ProcKind::Text(Text::Environ)),
    (SELF, b"maps", ProcKind::Text(Text::Maps)),
    (SELF, b"status", ProcKind::Text(Text::Status)),
    (SELF, b"stat", ProcKind::Text(Text::SelfStat)),
    (SELF, b"statm", ProcKind::Text(Text::Statm)),
    (SELF, b"comm", ProcKind::Text(Text::Comm)),
    (SELF, b"limits", ProcKind::Text(Text::Limits)),
    (SELF, b"auxv", ProcKind::Text(Text::Auxv)),
    (SELF, b"mounts", ProcKind::Text(Text::Mounts)),
    (SELF, b"mountinfo", ProcKind::Text(Text::Mountinfo)),
    (SELF, b"cgroup", ProcKind::Text(Text::Empty)),
    (SELF, b"task", ProcKind::Directory),
    (43, b"1", ProcKind::Directory),
    (44, b"comm", ProcKind::Text(Text::Comm)),
    (44, b"status", ProcKind::Text(Text::Status)),
    (44, b"stat", ProcKind::Text(Text::SelfStat)),
    (44, b"maps", ProcKind::Text(Text::Maps)),
    (0, b"m1", ProcKind::Directory),
    (49, b"generation", ProcKind::Text(Text::Generation)),
    (49, b"snapshot", ProcKind::Text(Text::Snapshot)),
    (49, b"memory", ProcKind::Text(Text::Memory)),
];

impl ProcId {
    pub(crate) fn kind(self) -> Option<ProcKind> {
        match self {
            Self::Entry(index) => TABLE.get(usize::from(index)).map(|(.., kind)| *kind),
            Self::Fd(_) => None,
        }
    }

    pub(crate) fn is_directory(self) -> bool {
        matches!(self.kind(), Some(ProcKind::Directory | ProcKind::Fds))
    }

    pub(crate) fn parent(self) -> Self {
        match self {
            Self::Entry(index) => {
                Self::Entry(TABLE.get(usize::from(index)).map_or(0, |(parent, ..)| *parent))
            }
            Self::Fd(_) => Self::Entry(fds_index()),
        }
    }

    /// The entry of that name; names of open files are checked by the caller, who has the table of them.
    pub(crate) fn lookup(self, name: &[u8]) -> Result<Self, Errno> {
        let Self::Entry(dir) = self else { return Err(Errno::NOTDIR) };
        if !self.is_directory() {
            return Err(Errno::NOTDIR);
        }
        if self.kind() == Some(ProcKind::Fds) {
            let digits = core::str::from_utf8(name).map_err(|_| Errno::NOENT)?;
            return digits.parse().map(Self::Fd).map_err(|_| Errno::NOENT);
        }
        let found = TABLE.iter().skip(1).position(|(parent, entry, _)| *parent == dir && *entry == name);
        found.and_then(|index| u8::try_from(index + 1).ok()).map(Self::Entry).ok_or(Errno::NOENT)
    }

    pub(crate) fn inode(self) -> u64 {
        match self {
            Self::Entry(index) => u64::from(index) + 1,
            Self::Fd(number) => 0x1_0000 + u64::from(number),
        }
    }

    pub(crate) fn attributes(self, now: u64) -> Attributes {
        let time = (now / 1_000_000_000, (now % 1_000_000_000) as u32);
        let mode = match self.kind() {
            Some(ProcKind::Directory | ProcKind::Fds) => 0o040_555,
            Some(ProcKind::Text(_)) => 0o100_444,
            _ => 0o120_777,
        };
        Attributes {
            device: PROC_DEVICE,
            inode: self.inode(),
            mode,
            links: if self.is_directory() { 2 } else { 1 },
            uid: 0,
            gid: 0,
            special: 0,
            size: 0,
            blocks: 0,
            accessed: time,
            modified: time,
            changed: time,
        }
    }

    /// Gives the entries of a directory of the table from `position` on to the sink, until it is full.
    pub(crate) fn read_dir(self, position: u64, sink: &mut DirSink<'_>) {
        let Self::Entry(dir) = self else { return };
        let dots = [(b".".as_slice(), self), (b"..".as_slice(), self.parent())];
        let names = TABLE.iter().enumerate().skip(1).filter(|(_, (parent, ..))| *parent == dir);
        let names = names.map(|(index, (_, name, _))| (*name, Self::Entry(index as u8)));
        for (index, (name, id)) in dots.into_iter().chain(names).enumerate().skip(position as usize) {
            let kind = match id.kind() {
                Some(ProcKind::Directory | ProcKind::Fds) => 4,
                Some(ProcKind::Text(_)) => 8,
                _ => 10,
            };
            if !sink(&DirEntry { inode: id.inode(), next: index as u64 + 1, kind, name }) {
                break;
            }
        }
    }
}

fn fds_index() -> u8 {
    TABLE
        .iter()
        .position(|(.., kind)| *kind == ProcKind::Fds)
        .and_then(|index| u8::try_from(index).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_parent_is_a_directory_before_its_children() {
        for (index, (parent, name, _)) in TABLE.iter().enumerate().skip(1) {
            assert!(usize::from(*parent) < index, "{name:?}");
            assert_eq!(TABLE[usize::from(*parent)].2, ProcKind::Directory);
            assert_eq!(ProcId::Entry(*parent).lookup(name), Ok(ProcId::Entry(index as u8)));
        }
        let task = ProcId::Entry(SELF).lookup(b"task").and_then(|task| task.lookup(b"1"));
        assert!(task.and_then(|one| one.lookup(b"maps")).is_ok());
    }
}
