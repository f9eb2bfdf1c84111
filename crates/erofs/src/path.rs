//! Paths with symbolic links, resolved within the volume.

use crate::{Erofs, FileType, Inode, NAME_MAX, Nid, PageSource, PathError};

/// Longest path in bytes, links' targets put in.
pub const PATH_MAX: usize = 4096;
/// Most symbolic links on the way of one path, as in Linux.
pub const LINKS_MAX: u32 = 40;

/// What to do where the path's last component is a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LastLink {
    /// Follow it, as `stat` does.
    Follow,
    /// Give the link itself, as `lstat` does (unless a `/` follows).
    Keep,
}

impl<S: PageSource> Erofs<S> {
    /// The file that a path names, from the root on, links followed.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn resolve(&self, path: &[u8]) -> Result<Inode, PathError<S::Error>> {
        self.walk(self.root(), path, LastLink::Follow, &mut [0; PATH_MAX])
    }

    /// The file that a path names, from directory `from` on (absolute paths and links from the root on). The `scratch`
    /// holds what is still to be walked; its contents mean nothing before and after.
    ///
    /// # Errors
    /// [`PathError`].
    pub fn walk(
        &self,
        from: Nid,
        path: &[u8],
        last_link: LastLink,
        scratch: &mut [u8; PATH_MAX],
    ) -> Result<Inode, PathError<S::Error>> {
        if path.is_empty() {
            return Err(PathError::NotFound);
        }
        // What is to be walked lies at the scratch's end, so that a link's target can be put before it.
        let mut start = PATH_MAX.checked_sub(path.len()).ok_or(PathError::TooLong)?;
        scratch.get_mut(start..).ok_or(PathError::TooLong)?.copy_from_slice(path);
        let mut here = self.inode(if path.starts_with(b"/") { self.root() } else { from })?;
        let mut links = 0_u32;
        // Each turn takes a component away; only a link adds some, and these are counted.
        loop {
            let pending = scratch.get(start..).unwrap_or_default();
            let Some(skipped) = pending.iter().position(|byte| *byte != b'/') else {
                let slash = !pending.is_empty();
                let wrong = slash && here.file_type() != FileType::Directory;
                return if wrong { Err(PathError::NotDirectory) } else { Ok(here) };
            };
            let pending = pending.get(skipped..).unwrap_or_default();
            let length = pending.iter().position(|byte| *byte == b'/').unwrap_or(pending.len());
            let name = pending.get(..length).unwrap_or_default();
            let behind = start.saturating_add(skipped).saturating_add(length);
            let is_last = behind == PATH_MAX;
            if here.file_type() != FileType::Directory {
                return Err(PathError::NotDirectory);
            }
            if length > NAME_MAX {
                return Err(PathError::TooLong);
            }
            start = behind;
            if name == b"." {
                continue;
            }
            let found = self.lookup(&here, name)?.ok_or(PathError::NotFound)?;
            let inode = self.inode(found)?;
            if inode.file_type() != FileType::Link || (is_last && last_link == LastLink::Keep) {
                here = inode;
                continue;
            }
            links = links.saturating_add(1);
            if links > LINKS_MAX {
                return Err(PathError::TooManyLinks);
            }
            let size = usize::try_from(inode.size).map_err(|_| PathError::TooLong)?;
            start = behind.checked_sub(size).ok_or(PathError::TooLong)?;
            let room = scratch.get_mut(start..behind).ok_or(PathError::TooLong)?;
            match self.read_link(&inode, room)? {
                [] => return Err(PathError::NotFound),
                [b'/', ..] => here = self.inode(self.root())?,
                _ => {}
            }
        }
    }
}
