//! Raw disks full of noise, for volumes whose content no one but a test has to understand.

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::paths;

/// Bytes of a page.
pub const PAGE: usize = 4096;

/// A file of noise; no two of its pages are equal.
#[derive(Clone, Debug)]
pub struct RawDisk {
    path: PathBuf,
    content: Vec<u8>,
}

impl RawDisk {
    /// A file in `directory` with the noise of this seed: the same in every run, so programs that run at the same time
    /// may share it.
    pub fn new(directory: impl AsRef<Path>, pages: usize, seed: u64) -> Result<Self> {
        let path = directory.as_ref().join(format!("noise-{seed}-{pages}.img"));
        let content = noise(pages, seed);
        if std::fs::read(&path).ok().as_ref() != Some(&content) {
            paths::write_atomically(&path, &content)?;
        }
        Ok(RawDisk { path, content })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is in it.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    /// These pages of it.
    ///
    /// # Panics
    /// Where there is no such page.
    pub fn pages<'a>(&'a self, numbers: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
        numbers.iter().map(|number| &self.content[number * PAGE..(number + 1) * PAGE])
    }
}

/// Splitmix64 of the place.
fn noise(pages: usize, seed: u64) -> Vec<u8> {
    let words = (0..(pages * PAGE / 8) as u64).map(|index| {
        let mut word = (index + (seed << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    });
    words.flat_map(u64::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn pages_differ_within_a_disk_and_between_two() {
        let disks = [noise(300, 1), noise(300, 2)];
        let pages: HashSet<&[u8]> = disks.iter().flat_map(|disk| disk.chunks(PAGE)).collect();
        assert_eq!(pages.len(), 600);
        assert_eq!(noise(300, 1), disks[0]);
    }
}
