//! Files that are open, and the list of orphans: inodes without a name that are still used, or whose end is being cut off.
//!
//! The list begins in the superblock and goes on in the inodes, as in Linux; whoever mounts the disk next frees what is on it.

use alloc::vec::Vec;

use crate::inode::Inode;
use crate::superblock::LAST_ORPHAN;
use crate::{BLOCK, Device, Error, Ext3, Ino, State};

/// Orphans that are followed; more are a loop, or no work of one program.
const MAX_ORPHANS: u32 = 1 << 16;
/// Magic of a block of extended attributes.
const ATTRIBUTES: u32 = 0xea02_0000;

impl<B> Ext3<B> {
    /// Somebody has the inode open, as long as it is not [released](Self::release): it stays when its last name goes. Also opens
    /// again by number, after [`Ext3::mount`] and before [`Ext3::free_orphans`], what had no name any more.
    ///
    /// # Errors
    /// [`Error::NotFound`] where no inode is in use under that number.
    pub fn retain<D: Device<Buffer = B>>(&mut self, device: &mut D, ino: Ino) -> Result<(), Error> {
        if let Some((_, count)) = self.open.iter_mut().find(|(open, _)| *open == ino) {
            *count += 1;
            return Ok(());
        }
        let inode = self.read_inode(device, ino)?;
        if inode.mode == 0 || (inode.links == 0 && !self.is_orphan(device, ino)?) {
            return Err(Error::NotFound);
        }
        self.open.try_reserve(1)?;
        self.open.push((ino, 1));
        Ok(())
    }

    /// The other end of [`Ext3::retain`]; the last one of an inode without a name frees it.
    ///
    /// # Errors
    /// [`Error`] of freeing it: then it stays among the orphans.
    pub fn release<D: Device<Buffer = B>>(&mut self, device: &mut D, ino: Ino) -> Result<(), Error> {
        let Some(at) = self.open.iter().position(|(open, _)| *open == ino) else { return Ok(()) };
        if let Some((_, count)) = self.open.get_mut(at) {
            *count -= 1;
            if *count > 0 {
                return Ok(());
            }
        }
        self.open.swap_remove(at);
        if self.read_inode(device, ino)?.links == 0 { self.delete(device, ino) } else { Ok(()) }
    }

    pub(crate) fn is_open(&self, ino: Ino) -> bool {
        self.open.iter().any(|(open, _)| *open == ino)
    }

    /// What is open, and how often: with this list files are opened again after the next mount.
    pub fn open_inodes(&self) -> impl Iterator<Item = (Ino, u32)> {
        self.open.iter().copied()
    }

    fn is_orphan<D: Device<Buffer = B>>(&mut self, device: &mut D, ino: Ino) -> Result<bool, Error> {
        let mut at = self.word(device, 0, LAST_ORPHAN)?;
        for _ in 0..MAX_ORPHANS {
            match at {
                0 => return Ok(false),
                _ if at == ino.0 => return Ok(true),
                _ => at = self.read_inode(device, Ino(at))?.deleted,
            }
        }
        Err(Error::Corrupt)
    }

    /// Puts an inode on the list, at its beginning. The caller writes it.
    pub(crate) fn add_orphan<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        inode: &mut Inode,
    ) -> Result<(), Error> {
        inode.deleted = self.word(device, 0, LAST_ORPHAN)?;
        self.set(device, 0, LAST_ORPHAN, &ino.0.to_le_bytes())
    }

    /// Takes an inode off the list. The caller writes it.
    pub(crate) fn remove_orphan<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        inode: &mut Inode,
    ) -> Result<(), Error> {
        let next = core::mem::take(&mut inode.deleted);
        let mut at = self.word(device, 0, LAST_ORPHAN)?;
        if at == ino.0 {
            return self.set(device, 0, LAST_ORPHAN, &next.to_le_bytes());
        }
        for _ in 0..MAX_ORPHANS {
            if at == 0 {
                break;
            }
            let mut before = self.read_inode(device, Ino(at))?;
            if before.deleted == ino.0 {
                before.deleted = next;
                return self.write_inode(device, Ino(at), &before);
            }
            at = before.deleted;
        }
        Err(Error::Corrupt)
    }

    /// Frees an inode that has no name and nobody open, and is on the list.
    pub(crate) fn delete<D: Device<Buffer = B>>(&mut self, device: &mut D, ino: Ino) -> Result<(), Error> {
        let inode = self.read_inode(device, ino)?;
        if has_blocks(&inode) {
            self.cut_all(device, ino, 0)?;
        }
        self.change(device, 0, |fs, device| {
            let mut inode = fs.read_inode(device, ino)?;
            if inode.attributes != 0 {
                fs.drop_attributes(device, &mut inode)?;
            }
            fs.remove_orphan(device, ino, &mut inode)?;
            fs.free_inode(device, ino, inode.is_directory())?;
            inode.size = 0;
            inode.blocks = [0; 15];
            // A smaller number would look like the next orphan to e2fsck.
            inode.deleted = u32::try_from(fs.now.seconds & 0xffff_ffff)
                .unwrap_or(0)
                .max(fs.geometry.inodes.saturating_add(1));
            fs.write_inode(device, ino, &inode)
        })
    }

    /// The block of extended attributes that somebody gave the inode: it may be others', too.
    fn drop_attributes<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &mut Inode,
    ) -> Result<(), Error> {
        let block = core::mem::take(&mut inode.attributes);
        self.check(block)?;
        if self.word(device, block, 0)? != ATTRIBUTES {
            return Err(Error::Corrupt);
        }
        inode.sectors = inode.sectors.saturating_sub(8);
        match self.word(device, block, 4)? {
            0 => Err(Error::Corrupt),
            1 => self.free_block(device, block),
            users => self.set(device, block, 4, &(users - 1).to_le_bytes()),
        }
    }

    /// Frees what is on the list and not open: once after [`Ext3::mount`]. Does nothing on a disk that is read-only.
    ///
    /// # Errors
    /// [`Error`].
    pub fn free_orphans<D: Device<Buffer = B>>(&mut self, device: &mut D) -> Result<(), Error> {
        if self.state == State::ReadOnly {
            return Ok(());
        }
        let mut list = Vec::new();
        let mut at = self.word(device, 0, LAST_ORPHAN)?;
        while at != 0 {
            if list.len() >= crate::index(MAX_ORPHANS) {
                return Err(Error::Corrupt);
            }
            list.try_reserve(1)?;
            list.push(Ino(at));
            at = self.read_inode(device, Ino(at))?.deleted;
        }
        for ino in list {
            let inode = self.read_inode(device, ino)?;
            if inode.links > 0 {
                let first = u32::try_from(inode.size.div_ceil(BLOCK as u64)).map_err(|_| Error::Corrupt)?;
                self.cut_all(device, ino, first)?;
            } else if !self.is_open(ino) {
                self.delete(device, ino)?;
            }
        }
        Ok(())
    }
}

/// Whether the words of the map are a map: those of a short link are its target, those of a device its number.
pub(crate) fn has_blocks(inode: &Inode) -> bool {
    match inode.kind() {
        crate::Kind::File | crate::Kind::Directory => true,
        crate::Kind::Link => !is_short_link(inode),
        crate::Kind::Other => false,
    }
}

/// A link whose target is in the inode.
pub(crate) fn is_short_link(inode: &Inode) -> bool {
    let of_attributes = if inode.attributes != 0 { 8 } else { 0 };
    inode.sectors == of_attributes && inode.size < 60
}
