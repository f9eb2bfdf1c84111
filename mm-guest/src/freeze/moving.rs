//! A snapshot on its way to another M1, which gives its pages other numbers: its manifest and its head are written anew.
//!
//! For tools on the host (`m1ctl import`), which have the pages of a snapshot and can give them to an M1. M1 itself parses nothing that a client
//! wrote, and no kernel needs this.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use mm_proto::VolumeIdentity;

use super::manifest::{Head, Manifest, PAGES, ThawError, checksum};
use crate::page::PAGE_SIZE;
use crate::vm::FrozenMap;

/// Pages of an address space that one snapshot can show, here: 64 GiB. A manifest may lie, and each of them is looked at.
const SHOWN: usize = 1 << 24;
/// Bytes that a page adds to a manifest at most, where it can be no part of its neighbours' run any more.
const RUN: usize = 20;

type Page = [u8; PAGE_SIZE as usize];

/// What a snapshot says of its program, apart from its pages.
pub struct Moving {
    volume: VolumeIdentity,
    manifest: Manifest,
    /// Bytes of the manifest as it is written anew.
    encoded: Option<(u32, u32)>,
}

impl Moving {
    /// Of the snapshot over this volume that begins with the page `head`; `page` gives the bytes of its pages.
    ///
    /// # Errors
    /// [`ThawError`]: a clone could not be made of it either.
    pub fn read(
        head: u32,
        volume: &VolumeIdentity,
        mut page: impl FnMut(u32) -> Option<Page>,
    ) -> Result<Self, ThawError> {
        let missing = ThawError::Page(crate::machine::VolumeError::Unreadable);
        let manifest = Manifest::read(head, volume, |number, to| {
            *to = page(number).ok_or(missing)?;
            Ok(())
        })?;
        if !manifest.frozen.is_sound() {
            return Err(ThawError::Senseless);
        }
        Ok(Self { volume: *volume, manifest, encoded: None })
    }

    /// The frozen pages that hold what the program has, each once, ascending. Nothing else of the snapshot but manifest and head is of any use.
    ///
    /// # Errors
    /// [`ThawError::Senseless`] where they are more than can be.
    pub fn pages(&self) -> Result<Vec<u32>, ThawError> {
        let mut pages = Vec::new();
        for (_, shown) in self.manifest.frozen.pages(0..u64::MAX) {
            pages.push(u32::try_from(shown.0).map_err(|_| ThawError::Senseless)?);
            if pages.len() > SHOWN {
                return Err(ThawError::Senseless);
            }
        }
        let files = self.manifest.store.iter().flatten();
        pages.extend(files.flat_map(|content| content.pages.iter().map(|(_, page)| *page)));
        pages.sort_unstable();
        pages.dedup();
        Ok(pages)
    }

    /// Pages that manifest and head may take.
    #[must_use]
    pub fn own_pages(&self) -> usize {
        let shown = self.manifest.frozen.pages(0..u64::MAX).take(SHOWN).count();
        let bytes = self.manifest.encode().map_or(usize::MAX, |bytes| bytes.len());
        bytes.saturating_add(shown * RUN).div_ceil(PAGE_SIZE as usize).min(PAGES) + 1
    }

    /// The manifest, where each page has the number that `numbers` gives for the one that it had. `None` where one is missing, or the manifest would
    /// be longer than a head can list.
    pub fn manifest(&mut self, numbers: &BTreeMap<u32, u32>) -> Option<Vec<Page>> {
        let mut moved = FrozenMap::default();
        for (page, shown) in self.manifest.frozen.pages(0..u64::MAX) {
            moved.push(page, *numbers.get(&u32::try_from(shown.0).ok()?)?).ok()?;
        }
        self.manifest.frozen = moved;
        let files = self.manifest.store.iter_mut().flatten();
        for (_, page) in files.flat_map(|content| &mut content.pages) {
            *page = *numbers.get(page)?;
        }
        let bytes = self.manifest.encode()?;
        self.encoded = Some((u32::try_from(bytes.len()).ok()?, checksum(&bytes)));
        let page = |part: &[u8]| {
            let mut page = [0; PAGE_SIZE as usize];
            page[..part.len()].copy_from_slice(part);
            page
        };
        Some(bytes.chunks(PAGE_SIZE as usize).map(page).collect())
    }

    /// The head, where the pages of [`Self::manifest`] have these numbers. `None` before that, or where they are not as many.
    #[must_use]
    pub fn head(&self, pages: &[u32]) -> Option<Page> {
        let (bytes, crc) = self.encoded?;
        let fits = pages.len() == (bytes as usize).div_ceil(PAGE_SIZE as usize);
        let head = Head { bytes, crc, volume: self.volume, pages: pages.to_vec() };
        fits.then(|| head.encode())
    }
}
