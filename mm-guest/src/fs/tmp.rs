//! A filesystem in memory: `/tmp` and `/dev/shm`. Contents live in the [`Store`](crate::vm::Store); here are the names.

use alloc::vec::Vec;

use super::{Attributes, DirEntry, DirSink, TMP_DEVICE};
use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::machine::Machine;
use crate::vm::{Memory, StoreId};

/// A file, directory or link of this filesystem.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct TmpId(u32);

/// `/tmp`.
pub(crate) const TMP_ROOT: TmpId = TmpId(0);
/// `/dev/shm`.
pub(crate) const SHM_ROOT: TmpId = TmpId(1);

/// Files, directories and links in all: what a heap of modest size bears.
const MAX_NODES: usize = 1 << 16;
const NAME_MAX: usize = 255;

/// What a node is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Kind {
    Directory { parent: TmpId, entries: Vec<Name> },
    File(StoreId),
    Link(Vec<u8>),
}

/// A name in a directory.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Name {
    name: Vec<u8>,
    id: TmpId,
    /// Where a reader of the directory goes on: ascending in the list, and never used again.
    place: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Inode {
    kind: Kind,
    mode: u32,
    links: u32,
    /// Open descriptions and mappings that need it though it may have no name.
    users: u32,
    accessed: u64,
    modified: u64,
    changed: u64,
}

/// The tree.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Tmp {
    nodes: Vec<Option<Inode>>,
    now: u64,
    next_place: u64,
}

impl Tmp {
    pub(crate) fn new() -> Self {
        let root = |id| {
            let kind = Kind::Directory { parent: id, entries: Vec::new() };
            Some(Inode { kind, mode: 0o1777, links: 2, users: 0, accessed: 0, modified: 0, changed: 0 })
        };
        let mut nodes = Vec::with_capacity(2);
        nodes.extend([root(TMP_ROOT), root(SHM_ROOT)]);
        Self { nodes, now: 0, next_place: 2 }
    }

    /// Whether all that it names is there: it may come from a snapshot of anybody's.
    pub(crate) fn is_sound(&self) -> bool {
        let directory = |id: TmpId| matches!(self.kind(id), Ok(Kind::Directory { .. }));
        let sound = |inode: &Inode| match &inode.kind {
            Kind::Directory { parent, entries } => {
                directory(*parent) && entries.iter().all(|entry| self.node(entry.id).is_ok())
            }
            Kind::File(_) | Kind::Link(_) => true,
        };
        self.nodes.len() <= MAX_NODES
            && directory(TMP_ROOT)
            && directory(SHM_ROOT)
            && self.nodes.iter().flatten().all(sound)
    }

    /// Sets the time that changes are stamped with, in nanoseconds since 1970.
    pub(crate) fn set_now(&mut self, now: u64) {
        self.now = now;
    }

    fn node(&self, id: TmpId) -> Result<&Inode, Errno> {
        self.nodes.get(id.0 as usize).and_then(Option::as_ref).ok_or(Errno::NOENT)
    }

    fn node_mut(&mut self, id: TmpId) -> Result<&mut Inode, Errno> {
        self.nodes.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(Errno::NOENT)
    }

    pub(crate) fn kind(&self, id: TmpId) -> Result<&Kind, Errno> {
        Ok(&self.node(id)?.kind)
    }

    /// The content of a regular file.
    pub(crate) fn content(&self, id: TmpId) -> Result<StoreId, Errno> {
        match self.node(id)?.kind {
            Kind::File(file) => Ok(file),
            Kind::Directory { .. } => Err(Errno::ISDIR),
            Kind::Link(_) => Err(Errno::INVAL),
        }
    }

    fn entries(&self, dir: TmpId) -> Result<&Vec<Name>, Errno> {
        match &self.node(dir)?.kind {
            Kind::Directory { entries, .. } => Ok(entries),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn entries_mut(&mut self, dir: TmpId) -> Result<&mut Vec<Name>, Errno> {
        let now = self.now;
        let node = self.node_mut(dir)?;
        (node.modified, node.changed) = (now, now);
        match &mut node.kind {
            Kind::Directory { entries, .. } => Ok(entries),
            _ => Err(Errno::NOTDIR),
        }
    }

    pub(crate) fn lookup(&self, dir: TmpId, name: &[u8]) -> Result<TmpId, Errno> {
        let found = self.entries(dir)?.iter().find(|entry| entry.name == name);
        found.map(|entry| entry.id).ok_or(Errno::NOENT)
    }

    pub(crate) fn parent(&self, dir: TmpId) -> Result<TmpId, Errno> {
        match self.node(dir)?.kind {
            Kind::Directory { parent, .. } => Ok(parent),
            _ => Err(Errno::NOTDIR),
        }
    }

    /// Makes a node without a name (yet): also what `O_TMPFILE` wants.
    pub(crate) fn create(&mut self, kind: Kind, mode: u32) -> Result<TmpId, Errno> {
        let links = if matches!(kind, Kind::Directory { .. }) { 1 } else { 0 };
        let now = self.now;
        let inode = Inode { kind, mode, links, users: 0, accessed: now, modified: now, changed: now };
        let index = match self.nodes.iter().position(Option::is_none) {
            Some(free) => free,
            None if self.nodes.len() >= MAX_NODES => return Err(Errno::NOSPC),
            None => {
                self.nodes.try_reserve(1)?;
                self.nodes.push(None);
                self.nodes.len() - 1
            }
        };
        self.nodes[index] = Some(inode);
        Ok(TmpId(index as u32))
    }

    /// Gives a node a name that the directory does not have.
    pub(crate) fn link(&mut self, dir: TmpId, name: &[u8], id: TmpId) -> Result<(), Errno> {
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let mut owned = Vec::new();
        owned.try_reserve_exact(name.len())?;
        owned.extend_from_slice(name);
        let place = self.next_place;
        let entries = self.entries_mut(dir)?;
        entries.try_reserve(1)?;
        entries.push(Name { name: owned, id, place });
        self.next_place += 1;
        let now = self.now;
        let node = self.node_mut(id)?;
        (node.links, node.changed) = (node.links + 1, now);
        if let Kind::Directory { parent, .. } = &mut node.kind {
            *parent = dir;
            self.node_mut(dir)?.links += 1;
        }
        Ok(())
    }

    /// Takes a name away. The node goes when it has no name and no user: see [`Tmp::reap`].
    pub(crate) fn unlink(&mut self, dir: TmpId, name: &[u8]) -> Result<TmpId, Errno> {
        let entries = self.entries_mut(dir)?;
        let index = entries.iter().position(|entry| entry.name == name).ok_or(Errno::NOENT)?;
        let id = entries.remove(index).id;
        let now = self.now;
        let node = self.node_mut(id)?;
        (node.links, node.changed) = (node.links - 1, now);
        if matches!(node.kind, Kind::Directory { .. }) {
            self.node_mut(dir)?.links -= 1;
        }
        Ok(id)
    }

    pub(crate) fn is_empty(&self, dir: TmpId) -> Result<bool, Errno> {
        Ok(self.entries(dir)?.is_empty())
    }

    /// Whether `inner` is `outer` or lies below it.
    fn lies_below(&self, inner: TmpId, outer: TmpId) -> bool {
        let mut at = inner;
        for _ in 0..MAX_NODES {
            if at == outer {
                return true;
            }
            match self.parent(at) {
                Ok(parent) if parent != at => at = parent,
                _ => return false,
            }
        }
        true
    }

    /// `rename` within this filesystem; gives the node that lost its name to the new one.
    pub(crate) fn rename(
        &mut self,
        (from_dir, from): (TmpId, &[u8]),
        (to_dir, to): (TmpId, &[u8]),
        replace: bool,
    ) -> Result<Option<TmpId>, Errno> {
        let id = self.lookup(from_dir, from)?;
        let is_dir = matches!(self.kind(id)?, Kind::Directory { .. });
        if is_dir && self.lies_below(to_dir, id) {
            return Err(Errno::INVAL);
        }
        let mut replaced = None;
        if let Ok(target) = self.lookup(to_dir, to) {
            if !replace {
                return Err(Errno::EXIST);
            }
            if target == id {
                return Ok(None);
            }
            match (is_dir, self.entries(target)) {
                (true, Err(_)) => return Err(Errno::NOTDIR),
                (false, Ok(_)) => return Err(Errno::ISDIR),
                (true, Ok(entries)) if !entries.is_empty() => return Err(Errno::NOTEMPTY),
                _ => {}
            }
            replaced = Some(target);
        }
        // The new name first, so that memory running out loses nothing.
        if replaced.is_some() {
            self.unlink(to_dir, to)?;
        }
        self.link(to_dir, to, id)?;
        let entries = self.entries_mut(from_dir)?;
        // In the same directory under the same name only if replaced, which was another node.
        let index = entries.iter().position(|entry| entry.name == from && entry.id == id);
        if let Some(index) = index {
            entries.remove(index);
        }
        self.node_mut(id)?.links -= 1;
        if is_dir {
            self.node_mut(from_dir)?.links -= 1;
        }
        Ok(replaced)
    }

    pub(crate) fn retain(&mut self, id: TmpId) {
        if let Ok(node) = self.node_mut(id) {
            node.users += 1;
        }
    }

    pub(crate) fn release(&mut self, id: TmpId) {
        if let Ok(node) = self.node_mut(id) {
            node.users = node.users.saturating_sub(1);
        }
    }

    /// Frees nodes without name and user whose content no mapping shows.
    pub(crate) fn reap<M: Machine>(&mut self, memory: &mut Memory<M>, id: TmpId) {
        let Ok(node) = self.node(id) else { return };
        let names = if matches!(node.kind, Kind::Directory { .. }) { 1 } else { 0 };
        if node.links > names || node.users > 0 || id == TMP_ROOT || id == SHM_ROOT {
            return;
        }
        if let Kind::File(file) = node.kind {
            if memory.shows(file) {
                return;
            }
            memory.delete_store(file);
        }
        self.nodes[id.0 as usize] = None;
    }

    /// Looks at every node: after mappings have gone, or the last process has.
    pub(crate) fn reap_all<M: Machine>(&mut self, memory: &mut Memory<M>) {
        for index in 0..self.nodes.len() {
            self.reap(memory, TmpId(index as u32));
        }
    }

    /// Marks content as changed.
    pub(crate) fn touch(&mut self, id: TmpId) {
        let now = self.now;
        if let Ok(node) = self.node_mut(id) {
            (node.modified, node.changed) = (now, now);
        }
    }

    pub(crate) fn set_mode(&mut self, id: TmpId, mode: u32) -> Result<(), Errno> {
        let now = self.now;
        let node = self.node_mut(id)?;
        (node.mode, node.changed) = (mode & 0o7777, now);
        Ok(())
    }

    pub(crate) fn set_times(
        &mut self,
        id: TmpId,
        accessed: Option<u64>,
        modified: Option<u64>,
    ) -> Result<(), Errno> {
        let now = self.now;
        let node = self.node_mut(id)?;
        node.accessed = accessed.unwrap_or(node.accessed);
        node.modified = modified.unwrap_or(node.modified);
        node.changed = now;
        Ok(())
    }

    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    pub(crate) fn attributes<M: Machine>(&self, memory: &Memory<M>, id: TmpId) -> Result<Attributes, Errno> {
        let node = self.node(id)?;
        let (kind, size, blocks) = match &node.kind {
            Kind::Directory { entries, .. } => (0o040_000, 20 * (entries.len() as u64 + 2), 0),
            Kind::File(file) => (0o100_000, memory.store.size(*file), 8 * memory.store.pages_of(*file)),
            Kind::Link(target) => (0o120_000, target.len() as u64, 0),
        };
        let time = |at: u64| (at / 1_000_000_000, (at % 1_000_000_000) as u32);
        Ok(Attributes {
            device: TMP_DEVICE,
            inode: u64::from(id.0) + 1,
            mode: kind | node.mode,
            links: node.links,
            uid: 0,
            gid: 0,
            special: 0,
            size,
            blocks,
            accessed: time(node.accessed),
            modified: time(node.modified),
            changed: time(node.changed),
        })
    }

    /// Gives the entries from `position` on to the sink, until it is full. A name that is neither added nor removed
    /// meanwhile comes exactly once.
    pub(crate) fn read_dir(&self, dir: TmpId, position: u64, sink: &mut DirSink<'_>) -> Result<(), Errno> {
        let entries = self.entries(dir)?;
        let parent = self.parent(dir)?;
        let dots = [(b".".as_slice(), dir, 0), (b"..".as_slice(), parent, 1)];
        let all = dots
            .into_iter()
            .chain(entries.iter().map(|entry| (entry.name.as_slice(), entry.id, entry.place)));
        for (name, id, place) in all.filter(|(.., place)| *place >= position) {
            let kind = match self.kind(id)? {
                Kind::Directory { .. } => 4,
                Kind::File(_) => 8,
                Kind::Link(_) => 10,
            };
            if !sink(&DirEntry { inode: u64::from(id.0) + 1, next: place + 1, kind, name }) {
                break;
            }
        }
        Ok(())
    }
}
