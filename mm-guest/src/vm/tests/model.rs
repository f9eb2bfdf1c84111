//! A naive model of a program's memory: for each page what it is, and its bytes.

use std::collections::BTreeMap;

use super::{VOLUME, volume_byte};

/// What a page is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Anonymous,
    /// A private page of the volume.
    Volume(u64),
    /// A page of the file in memory, the file's own or a copy.
    Stored(u64, bool),
}

impl Kind {
    /// What the next page of the same mapping is.
    fn next(self) -> Self {
        match self {
            Self::Anonymous => self,
            Self::Volume(page) => Self::Volume(page + 1),
            Self::Stored(page, shared) => Self::Stored(page + 1, shared),
        }
    }
}

#[derive(Clone)]
struct Page {
    kind: Kind,
    rights: u8,
    /// Its own bytes, once it has some.
    own: Option<Vec<u8>>,
}

/// The model.
#[derive(Default)]
pub(super) struct Model {
    pages: BTreeMap<u64, Page>,
    /// The file in memory: whole pages, and its length.
    file: Vec<u8>,
    size: usize,
}

fn pages(first: u64, count: u64) -> std::ops::Range<u64> {
    first..first + count
}

impl Model {
    pub(super) fn map(&mut self, first: u64, count: u64, kind: Kind, rights: u8) {
        let mut kind = kind;
        for page in pages(first, count) {
            self.pages.insert(page, Page { kind, rights, own: None });
            kind = kind.next();
        }
    }

    pub(super) fn unmap(&mut self, first: u64, count: u64) {
        for page in pages(first, count) {
            self.pages.remove(&page);
        }
    }

    pub(super) fn covers(&self, first: u64, count: u64) -> bool {
        pages(first, count).all(|page| self.pages.contains_key(&page))
    }

    pub(super) fn is_free(&self, first: u64, count: u64) -> bool {
        pages(first, count).all(|page| !self.pages.contains_key(&page))
    }

    pub(super) fn protect(&mut self, first: u64, count: u64, rights: u8) -> bool {
        if !self.covers(first, count) {
            return false;
        }
        for page in pages(first, count) {
            self.pages.get_mut(&page).unwrap().rights = rights;
        }
        true
    }

    /// Drops what the pages have of their own.
    pub(super) fn forget(&mut self, first: u64, count: u64) {
        for (_, page) in self.pages.range_mut(pages(first, count)) {
            page.own = None;
        }
    }

    /// Whether the pages are one mapping.
    pub(super) fn is_one(&self, first: u64, count: u64) -> bool {
        let mut last: Option<&Page> = None;
        pages(first, count).all(|number| {
            let Some(page) = self.pages.get(&number) else { return false };
            let fits = last.is_none_or(|last| last.kind.next() == page.kind && last.rights == page.rights);
            last = Some(page);
            fits
        })
    }

    /// Moves a mapping; `count` pages where it goes, from what is at least one page.
    pub(super) fn remap(&mut self, from: u64, old: u64, to: u64, new: u64) {
        let moved: Vec<Page> = pages(from, old).map(|page| self.pages.remove(&page).unwrap()).collect();
        let (mut kind, rights) = (moved[0].kind, moved[0].rights);
        self.unmap(to, new);
        for (index, number) in pages(to, new).enumerate() {
            let own = moved.get(index).and_then(|page| page.own.clone());
            self.pages.insert(number, Page { kind, rights, own });
            kind = kind.next();
        }
    }

    fn content(&self, kind: Kind) -> Option<Vec<u8>> {
        match kind {
            Kind::Anonymous => Some(vec![0; 4096]),
            Kind::Volume(page) => {
                (page < VOLUME).then(|| (0..4096).map(|offset| volume_byte(page, offset)).collect())
            }
            Kind::Stored(page, shared) => {
                let start = page as usize * 4096;
                if start >= self.size {
                    return None;
                }
                let mut bytes = self.file[start..start + 4096].to_vec();
                if !shared {
                    bytes[(self.size - start).min(4096)..].fill(0);
                }
                Some(bytes)
            }
        }
    }

    /// A page's bytes, as the program finds them; `None` for a fault. A private copy is made at the first touch.
    fn touch(&mut self, number: u64, write: bool) -> Option<Vec<u8>> {
        let page = self.pages.get(&number)?.clone();
        if page.rights == 0 || (write && page.rights & 2 == 0) {
            return None;
        }
        if let Some(own) = page.own {
            return Some(own);
        }
        let bytes = self.content(page.kind)?;
        if matches!(page.kind, Kind::Stored(_, false)) {
            self.pages.get_mut(&number)?.own = Some(bytes.clone());
        }
        Some(bytes)
    }

    pub(super) fn read(&mut self, address: u64, length: u64) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        let mut at = address;
        while at < address + length {
            let take = (4096 - at % 4096).min(address + length - at);
            let bytes = self.touch(at / 4096, false)?;
            out.extend_from_slice(&bytes[(at % 4096) as usize..(at % 4096 + take) as usize]);
            at += take;
        }
        Some(out)
    }

    /// Writes page by page; false where one cannot be written, those before are.
    pub(super) fn write(&mut self, address: u64, data: &[u8]) -> bool {
        let mut done = 0;
        while done < data.len() {
            let at = address + done as u64;
            let within = (at % 4096) as usize;
            let take = (4096 - within).min(data.len() - done);
            let Some(mut bytes) = self.touch(at / 4096, true) else { return false };
            bytes[within..within + take].copy_from_slice(&data[done..done + take]);
            let kind = self.pages[&(at / 4096)].kind;
            if let Kind::Stored(page, true) = kind {
                let start = page as usize * 4096;
                self.file[start..start + 4096].copy_from_slice(&bytes);
            } else {
                self.pages.get_mut(&(at / 4096)).unwrap().own = Some(bytes);
            }
            done += take;
        }
        true
    }

    fn reach(&mut self, end: usize) {
        let pages = end.next_multiple_of(4096);
        if self.file.len() < pages {
            self.file.resize(pages, 0);
        }
    }

    pub(super) fn write_file(&mut self, offset: u64, data: &[u8]) {
        let end = offset as usize + data.len();
        self.reach(end);
        self.file[offset as usize..end].copy_from_slice(data);
        self.size = self.size.max(end);
    }

    pub(super) fn truncate(&mut self, size: usize) {
        self.reach(size);
        if size < self.size {
            self.file[size..].fill(0);
        }
        self.size = size;
    }

    /// The file's bytes.
    pub(super) fn file(&self) -> &[u8] {
        &self.file[..self.size]
    }

    /// Every page that can be read, with its bytes.
    pub(super) fn all(&mut self) -> Vec<(u64, Option<Vec<u8>>)> {
        let numbers: Vec<u64> = self.pages.keys().copied().collect();
        numbers.into_iter().map(|number| (number, self.touch(number, false))).collect()
    }
}
