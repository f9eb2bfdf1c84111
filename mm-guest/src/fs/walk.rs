//! The walk along a path, symbolic links followed.

use alloc::vec::Vec;

use super::proc::{ProcId, ProcKind};
use super::{Node, Vfs};
use serde::{Deserialize, Serialize};

use crate::errno::Errno;
use crate::machine::Machine;
use crate::vm::Memory;

/// Most symbolic links on the way of one path (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;
/// Longest path, links' targets put in.
const PATH_MAX: usize = 4096;
/// Longest name.
const NAME_MAX: usize = 255;

/// What to do where the last component is a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Last {
    Follow,
    Keep,
}

/// A file and the absolute path, free of links, by which it was reached.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Walked {
    pub(crate) node: Node,
    pub(crate) path: Vec<u8>,
}

/// Where the links of `/proc/self` lead that depend on the process: its file, its directory, its open files.
pub(crate) trait SelfLinks {
    /// The file behind the link. `None` where it has no name (a pipe): then the link itself is opened.
    fn resolve(&self, id: ProcId) -> Result<Option<Walked>, Errno>;
}

impl Walked {
    /// Goes to the child of that name.
    fn descend(&mut self, node: Node, name: &[u8]) -> Result<(), Errno> {
        self.path.try_reserve(name.len() + 1)?;
        if self.path != b"/" {
            self.path.push(b'/');
        }
        self.path.extend_from_slice(name);
        self.node = node;
        Ok(())
    }

    fn ascend(&mut self, parent: Node) {
        let keep = self.path.iter().rposition(|byte| *byte == b'/').unwrap_or(0).max(1);
        self.path.truncate(keep);
        self.node = parent;
    }
}

/// A path without the slashes at its end, its last component, and the rest before it.
pub(crate) fn split_last(path: &[u8]) -> (&[u8], &[u8], bool) {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let slashes = end < path.len();
    let start = path[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    (&path[..start], &path[start..end], slashes)
}

impl Vfs {
    pub(crate) fn root_walked(&self) -> Walked {
        Walked { node: self.root(), path: alloc::vec![b'/'] }
    }

    /// The file that a path names, from `start` on.
    pub(crate) fn walk<M: Machine>(
        &self,
        memory: &mut Memory<M>,
        start: &Walked,
        path: &[u8],
        last: Last,
        links_of_self: &dyn SelfLinks,
    ) -> Result<Walked, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let mut here = if path[0] == b'/' { self.root_walked() } else { start.clone() };
        let mut pending = Vec::new();
        pending.try_reserve_exact(path.len())?;
        pending.extend_from_slice(path);
        let (mut at, mut links) = (0, 0);
        loop {
            let Some(skip) = pending[at..].iter().position(|byte| *byte != b'/') else {
                let slash = pending.last() == Some(&b'/');
                if slash && !self.is_directory(memory, here.node)? {
                    return Err(Errno::NOTDIR);
                }
                return Ok(here);
            };
            let from = at + skip;
            let length =
                pending[from..].iter().position(|byte| *byte == b'/').unwrap_or(pending.len() - from);
            let name = &pending[from..from + length];
            at = from + length;
            if name.len() > NAME_MAX {
                return Err(Errno::NAMETOOLONG);
            }
            match name {
                b"." if self.is_directory(memory, here.node)? => {}
                b".." if self.is_directory(memory, here.node)? => {
                    let parent = self.parent(memory, here.node)?;
                    here.ascend(parent);
                }
                b"." | b".." => return Err(Errno::NOTDIR),
                _ => {
                    let child = self.lookup(memory, here.node, name)?;
                    let is_last = at == pending.len();
                    if is_last && last == Last::Keep {
                        here.descend(child, name)?;
                        continue;
                    }
                    if let Node::Proc(id) = child
                        && matches!(id.kind(), None | Some(ProcKind::Exe | ProcKind::Cwd))
                    {
                        match links_of_self.resolve(id)? {
                            Some(target) => here = target,
                            None => here.descend(child, name)?,
                        }
                        continue;
                    }
                    if !self.attributes(memory, child)?.is_link() {
                        here.descend(child, name)?;
                        continue;
                    }
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(Errno::LOOP);
                    }
                    let mut target = self.read_link(memory, child)?;
                    let rest = &pending[at..];
                    if target.is_empty() {
                        return Err(Errno::NOENT);
                    }
                    if target.len() + rest.len() > PATH_MAX {
                        return Err(Errno::NAMETOOLONG);
                    }
                    target.try_reserve(rest.len())?;
                    target.extend_from_slice(rest);
                    if target[0] == b'/' {
                        here = self.root_walked();
                    }
                    (pending, at) = (target, 0);
                }
            }
        }
    }

    fn is_directory<M: Machine>(&self, memory: &mut Memory<M>, node: Node) -> Result<bool, Errno> {
        Ok(self.attributes(memory, node)?.is_directory())
    }

    /// The directory in which a path's last component is or would be, and that name.
    pub(crate) fn walk_to_parent<'p, M: Machine>(
        &self,
        memory: &mut Memory<M>,
        start: &Walked,
        path: &'p [u8],
        links_of_self: &dyn SelfLinks,
    ) -> Result<(Walked, &'p [u8]), Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let (before, name, _) = split_last(path);
        if name.len() > NAME_MAX {
            return Err(Errno::NAMETOOLONG);
        }
        let dir = match before {
            b"" if path[0] == b'/' => self.root_walked(),
            b"" => start.clone(),
            before => self.walk(memory, start, before, Last::Follow, links_of_self)?,
        };
        if !self.is_directory(memory, dir.node)? {
            return Err(Errno::NOTDIR);
        }
        Ok((dir, name))
    }
}
