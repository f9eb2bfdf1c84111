//! Names: making, removing and changing them. Each is one change, so it has happened or has not.

use alloc::vec::Vec;

use crate::cache::Dirt;
use crate::dir::code_of;
use crate::inode::{Inode, Kind};
use crate::orphans::is_short_link;
use crate::{BLOCK, Device, Error, Ext3, Ino, NAME_MAX, ROOT, put};

/// Names of one inode at most, as ext3 has it.
const LINKS: u16 = 32_000;
/// Blocks that a name takes at most: of the directory with its map, and of what is named.
const ROOM: u32 = 8;
/// Directories above one another, at most.
const DEPTH: usize = 4096;

fn check_name(name: &[u8]) -> Result<(), Error> {
    match name {
        b"" | b"." | b".." => Err(Error::Exists),
        _ if name.len() > NAME_MAX => Err(Error::NameTooLong),
        _ if name.contains(&b'/') || name.contains(&0) => Err(Error::Invalid),
        _ => Ok(()),
    }
}

impl<B> Ext3<B> {
    /// That a name can be added; gives the directory.
    fn free_name<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
        name: &[u8],
    ) -> Result<Inode, Error> {
        check_name(name)?;
        let inode = self.directory(device, dir)?;
        if inode.links == 0 {
            return Err(Error::NotFound);
        }
        match self.find(device, &inode, name)? {
            Some(_) => Err(Error::Exists),
            None => Ok(inode),
        }
    }

    /// Makes a file and gives its number. Without a name (`O_TMPFILE`) it is an orphan, which the caller
    /// [retains](Self::retain) or loses.
    ///
    /// # Errors
    /// [`Error`].
    pub fn create<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
        name: Option<&[u8]>,
        permissions: u16,
    ) -> Result<Ino, Error> {
        if let Some(name) = name {
            self.free_name(device, dir, name)?;
        } else {
            self.directory(device, dir)?;
        }
        self.make(device, dir, name, 0o100_000 | permissions & 0o7777, |_, _, _, _| Ok(()))
    }

    /// Makes a directory.
    ///
    /// # Errors
    /// [`Error`].
    pub fn make_dir<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
        name: &[u8],
        permissions: u16,
    ) -> Result<Ino, Error> {
        if self.free_name(device, dir, name)?.links >= LINKS {
            return Err(Error::TooManyLinks);
        }
        self.make(device, dir, Some(name), 0o040_000 | permissions & 0o7777, |fs, device, ino, inode| {
            inode.links = inode.links.saturating_add(1);
            fs.first_names(device, ino, inode, dir)
        })
    }

    /// Makes a symbolic link.
    ///
    /// # Errors
    /// [`Error`].
    pub fn make_link<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
        name: &[u8],
        target: &[u8],
    ) -> Result<Ino, Error> {
        self.free_name(device, dir, name)?;
        if target.is_empty() || target.len() >= BLOCK {
            return Err(Error::NameTooLong);
        }
        self.make(device, dir, Some(name), 0o120_777, |fs, device, ino, inode| {
            inode.size = target.len() as u64;
            if target.len() < 60 {
                let mut words = [0; 60];
                put(&mut words, 0, target);
                for (word, bytes) in inode.blocks.iter_mut().zip(words.as_chunks::<4>().0) {
                    *word = u32::from_le_bytes(*bytes);
                }
                return Ok(());
            }
            let (block, _) = fs.map_or_make(device, ino, inode, 0, Dirt::Meta)?;
            fs.set(device, block, 0, target)
        })
    }

    fn make<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
        name: Option<&[u8]>,
        mode: u16,
        fill: impl FnOnce(&mut Self, &mut D, Ino, &mut Inode) -> Result<(), Error>,
    ) -> Result<Ino, Error> {
        self.change(device, ROOM, |fs, device| {
            let mut parent = fs.directory(device, dir)?;
            let ino = fs.allocate_inode(device, dir, mode & 0o170_000 == 0o040_000)?;
            let generation = fs.clear_inode(device, ino)?.wrapping_add(1);
            let mut inode = Inode::new(mode, fs.now, generation);
            fill(fs, device, ino, &mut inode)?;
            match name {
                Some(name) => {
                    inode.links = inode.links.saturating_add(1);
                    fs.add_name(device, dir, &mut parent, name, (ino, code_of(&inode)))?;
                    if inode.is_directory() {
                        parent.links = parent.links.saturating_add(1);
                    }
                    fs.write_inode(device, dir, &parent)?;
                }
                None => fs.add_orphan(device, ino, &mut inode)?,
            }
            fs.write_inode(device, ino, &inode)?;
            Ok(ino)
        })
    }

    /// Gives a file one more name; also one that has none.
    ///
    /// # Errors
    /// [`Error`].
    pub fn link<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
        name: &[u8],
        ino: Ino,
    ) -> Result<(), Error> {
        self.free_name(device, dir, name)?;
        let inode = self.read_inode(device, ino)?;
        if inode.is_directory() {
            return Err(Error::IsDirectory);
        }
        if inode.links >= LINKS {
            return Err(Error::TooManyLinks);
        }
        self.change(device, ROOM, |fs, device| {
            let mut parent = fs.directory(device, dir)?;
            let mut inode = fs.read_inode(device, ino)?;
            if inode.links == 0 {
                fs.remove_orphan(device, ino, &mut inode)?;
            }
            inode.links = inode.links.saturating_add(1);
            inode.changed = fs.now;
            fs.add_name(device, dir, &mut parent, name, (ino, code_of(&inode)))?;
            fs.write_inode(device, dir, &parent)?;
            fs.write_inode(device, ino, &inode)
        })
    }

    /// Takes a name away, of a directory that is empty where `directory`, else of anything else.
    ///
    /// # Errors
    /// [`Error`].
    pub fn unlink<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        dir: Ino,
        name: &[u8],
        directory: bool,
    ) -> Result<(), Error> {
        let parent = self.directory(device, dir)?;
        let ino = self.find(device, &parent, name)?.ok_or(Error::NotFound)?.ino;
        let inode = self.read_inode(device, ino)?;
        match (directory, inode.is_directory()) {
            (true, false) => return Err(Error::NotDirectory),
            (false, true) => return Err(Error::IsDirectory),
            (true, true) if !self.is_empty(device, ino)? => return Err(Error::NotEmpty),
            _ => {}
        }
        self.change(device, 0, |fs, device| {
            let mut parent = fs.directory(device, dir)?;
            let found = fs.find(device, &parent, name)?.ok_or(Error::NotFound)?;
            fs.remove_name(device, &mut parent, found)?;
            if directory {
                parent.links = parent.links.saturating_sub(1);
            }
            fs.write_inode(device, dir, &parent)?;
            fs.lose_name(device, ino)
        })?;
        self.delete_if_unused(device, ino)
    }

    /// An inode has lost a name; a directory its only one.
    fn lose_name<D: Device<Buffer = B>>(&mut self, device: &mut D, ino: Ino) -> Result<(), Error> {
        let mut inode = self.read_inode(device, ino)?;
        inode.links =
            if inode.is_directory() { 0 } else { inode.links.checked_sub(1).ok_or(Error::Corrupt)? };
        inode.changed = self.now;
        if inode.links == 0 {
            self.add_orphan(device, ino, &mut inode)?;
        }
        self.write_inode(device, ino, &inode)
    }

    fn delete_if_unused<D: Device<Buffer = B>>(&mut self, device: &mut D, ino: Ino) -> Result<(), Error> {
        if self.read_inode(device, ino)?.links == 0 && !self.is_open(ino) {
            self.delete(device, ino)?;
        }
        Ok(())
    }

    /// Whether `inner` is `outer` or lies below it.
    fn lies_below<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inner: Ino,
        outer: Ino,
    ) -> Result<bool, Error> {
        let mut at = inner;
        for _ in 0..DEPTH {
            if at == outer {
                return Ok(true);
            }
            if at == ROOT {
                return Ok(false);
            }
            at = self.lookup(device, at, b"..")?;
        }
        Err(Error::Corrupt)
    }

    /// Gives what is `from` in one directory the name `to` in another; what has that name loses it, if `replace`.
    ///
    /// # Errors
    /// [`Error`].
    pub fn rename<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        (from_dir, from): (Ino, &[u8]),
        (to_dir, to): (Ino, &[u8]),
        replace: bool,
    ) -> Result<(), Error> {
        check_name(from)?;
        check_name(to)?;
        let parent = self.directory(device, from_dir)?;
        let ino = self.find(device, &parent, from)?.ok_or(Error::NotFound)?.ino;
        let inode = self.read_inode(device, ino)?;
        let is_dir = inode.is_directory();
        let to_parent = self.directory(device, to_dir)?;
        if to_parent.links == 0 {
            return Err(Error::NotFound);
        }
        if is_dir && self.lies_below(device, to_dir, ino)? {
            return Err(Error::Invalid);
        }
        let target = self.find(device, &to_parent, to)?.map(|found| found.ino);
        if let Some(target) = target {
            if !replace {
                return Err(Error::Exists);
            }
            if target == ino {
                return Ok(());
            }
            match (is_dir, self.read_inode(device, target)?.is_directory()) {
                (true, false) => return Err(Error::NotDirectory),
                (false, true) => return Err(Error::IsDirectory),
                (true, true) if !self.is_empty(device, target)? => return Err(Error::NotEmpty),
                _ => {}
            }
        } else if is_dir && from_dir != to_dir && to_parent.links >= LINKS {
            return Err(Error::TooManyLinks);
        }
        self.change(device, ROOM, |fs, device| {
            let named = (ino, code_of(&inode));
            let mut to_parent = fs.directory(device, to_dir)?;
            match fs.find(device, &to_parent, to)? {
                Some(found) => {
                    fs.set_name(device, found, named)?;
                    (to_parent.modified, to_parent.changed) = (fs.now, fs.now);
                    if is_dir {
                        // The directory that goes had its `..` there.
                        to_parent.links = to_parent.links.saturating_sub(1);
                    }
                }
                None => fs.add_name(device, to_dir, &mut to_parent, to, named)?,
            }
            if is_dir {
                to_parent.links = to_parent.links.saturating_add(1);
            }
            fs.write_inode(device, to_dir, &to_parent)?;
            let mut parent = fs.directory(device, from_dir)?;
            let found = fs.find(device, &parent, from)?.ok_or(Error::Corrupt)?;
            fs.remove_name(device, &mut parent, found)?;
            if is_dir {
                parent.links = parent.links.saturating_sub(1);
            }
            fs.write_inode(device, from_dir, &parent)?;
            let mut moved = fs.read_inode(device, ino)?;
            moved.changed = fs.now;
            if is_dir && from_dir != to_dir {
                let up = fs.find(device, &moved, b"..")?.ok_or(Error::Corrupt)?;
                fs.set_name(device, up, (to_dir, 2))?;
            }
            fs.write_inode(device, ino, &moved)?;
            target.map_or(Ok(()), |target| fs.lose_name(device, target))
        })?;
        target.map_or(Ok(()), |target| self.delete_if_unused(device, target))
    }

    /// Target of a symbolic link.
    ///
    /// # Errors
    /// [`Error::Invalid`] for anything else.
    pub fn read_link<D: Device<Buffer = B>>(&mut self, device: &mut D, ino: Ino) -> Result<Vec<u8>, Error> {
        let inode = self.read_inode(device, ino)?;
        if inode.kind() != Kind::Link {
            return Err(Error::Invalid);
        }
        let length =
            usize::try_from(inode.size).ok().filter(|length| *length < BLOCK).ok_or(Error::Corrupt)?;
        let mut target = Vec::new();
        target.try_reserve_exact(length.max(60))?;
        if is_short_link(&inode) {
            target.extend(inode.blocks.iter().flat_map(|word| word.to_le_bytes()));
            target.truncate(length);
        } else {
            target.resize(length, 0);
            let block = self.map(device, &inode, 0)?.ok_or(Error::Corrupt)?;
            self.fetch(device, block, 0, &mut target)?;
        }
        Ok(target)
    }
}
