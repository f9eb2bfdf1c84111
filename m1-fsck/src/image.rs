//! A disk or a file with a store, opened for reading.

use std::fmt;
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use mm_store::host::Tables;
use mm_store::{BLOCK, IoFailed, OpenError, Page, Part, Recovery, Store, probe};

/// Blocks read at once.
const RUN: u32 = 256;

/// The store is there, and a part of it is rotten.
#[derive(Debug)]
pub(crate) struct Damaged {
    block: u32,
    part: Part,
}

impl fmt::Display for Damaged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = match self.part {
            Part::Superblock => "both superblocks are damaged",
            Part::Checkpoint => "the checkpoint is damaged",
            Part::Journal => "the journal is damaged in a part that was flushed",
        };
        write!(f, "{part} (block {})", self.block)
    }
}

impl std::error::Error for Damaged {}

/// A disk or a file.
pub(crate) struct Image {
    file: File,
    /// Whole blocks.
    pub(crate) blocks: u32,
}

impl Image {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        Self::of(file).with_context(|| format!("cannot use {}", path.display()))
    }

    pub(crate) fn of(mut file: File) -> Result<Self> {
        // Metadata has no length for block devices.
        let bytes = file.seek(SeekFrom::End(0))?;
        let blocks = u32::try_from(bytes / BLOCK as u64).map_err(|_| anyhow!("larger than 16 TiB"))?;
        Ok(Self { file, blocks })
    }

    /// Reads `pages.len()` blocks.
    pub(crate) fn read(&self, block: u32, pages: &mut [Page]) -> std::io::Result<()> {
        self.file.read_exact_at(pages.as_flattened_mut(), u64::from(block) * BLOCK as u64)
    }

    /// Tables for the store that is there.
    pub(crate) fn tables(&self) -> Result<Tables> {
        if self.blocks < 2 {
            return Err(explain(OpenError::NoStore));
        }
        let mut pages = [[0; BLOCK]; 2];
        self.read(0, &mut pages).context("cannot read the superblocks")?;
        let geometry = probe([&pages[0], &pages[1]]).map_err(explain)?;
        if geometry.blocks() > self.blocks {
            return Err(explain(OpenError::DiskTooSmall { needed: geometry.blocks() }));
        }
        Ok(Tables::new(&geometry))
    }

    /// The store, as M1 has it after its start, before it writes anything.
    pub(crate) fn store<'a>(&self, tables: &'a mut Tables) -> Result<Store<'a>> {
        let mut recovery = Recovery::new(tables.memory(), self.blocks, RUN);
        let mut pages = vec![[0; BLOCK]; RUN as usize];
        while let Some(reading) = recovery.next() {
            let Some(run) = pages.get_mut(..reading.blocks as usize) else {
                bail!("{reading:?} is too long")
            };
            match self.read(reading.block, run) {
                Ok(()) => recovery.done(Ok(run)),
                Err(error) => {
                    eprintln!("m1-fsck: block {}: {error}", reading.block);
                    recovery.done(Err(IoFailed));
                }
            }
        }
        recovery.finish().map_err(explain)
    }
}

fn explain(error: OpenError) -> anyhow::Error {
    match error {
        OpenError::NoStore => anyhow!("no store is there; `m1-fsck format` makes one"),
        OpenError::Version { found } => anyhow!("format {found} is not known to this program"),
        OpenError::DiskTooSmall { needed } => anyhow!("the store takes {needed} blocks, and there are fewer"),
        OpenError::TablesTooSmall { .. } => anyhow!("the superblock changed while it was read"),
        OpenError::Damaged { block, part } => Damaged { block, part }.into(),
        OpenError::Read { block } => anyhow!("block {block} cannot be read"),
    }
}
