//! Pages of snapshots, which go through the window: its first page is a table of them (docs/CONTROL.md, §5).

use xen_ring::{PAGE_SIZE, PageWords};

use super::{Answer, M1};
use crate::failure::{Failure, Result};
use crate::snapshot_file::{Page, checksum};

/// What M1 has shown of a snapshot.
pub(crate) struct Shown {
    /// Pages with their numbers.
    pub(crate) pages: Vec<(u32, Page)>,
    /// Where to go on; none where there are no more.
    pub(crate) next: Option<u64>,
}

impl M1 {
    /// Pages of the snapshot with this identity, from a number on. `None`: M1 reads them from its disk, ask again.
    pub(crate) fn export_pages(&mut self, identity: &str, from: u64) -> Result<Option<Shown>> {
        let _lock = self.lock()?;
        let request = format!("export-pages {identity} {from}");
        let Answer::Done(text) = self.exchange(&request)? else { return Ok(None) };
        let nonsense = || Failure::Host(format!("M1 answers {request} with {text:?}"));
        let (count, next) = text.split_once(' ').ok_or_else(nonsense)?;
        let count: usize = count.parse().map_err(|_| nonsense())?;
        let next = match next {
            "end" => None,
            next => Some(next.parse().ok().filter(|next| *next > from).ok_or_else(nonsense)?),
        };
        let (table, room) = self.page_window()?;
        let mut pages = Vec::new();
        for (index, page) in room.iter().enumerate().take(count) {
            let mut bytes = [0; PAGE_SIZE];
            let _ = page.read(0, &mut bytes);
            if checksum(&bytes) != table.load(2 * index + 1) {
                return Err(Failure::Host("a page was damaged on its way from M1".to_owned()));
            }
            pages.push((table.load(2 * index), bytes));
        }
        if pages.len() != count {
            return Err(nonsense());
        }
        Ok(Some(Shown { pages, next }))
    }

    /// Gives M1 as many of these pages as the window has room for, at least one; gives their numbers there.
    pub(crate) fn import_pages(&mut self, identity: &str, pages: &[Page]) -> Result<Vec<u32>> {
        let _lock = self.lock()?;
        let (table, room) = self.page_window()?;
        let count = room.len().min(pages.len());
        for (index, (place, page)) in room.iter().zip(pages).enumerate() {
            let _ = place.write(0, page);
            table.store(2 * index, 0);
            table.store(2 * index + 1, checksum(page));
        }
        let request = format!("import-pages {identity} {count}");
        match self.exchange(&request)? {
            Answer::Done(text) if text == count.to_string() => {
                Ok((0..count).map(|index| table.load(2 * index)).collect())
            }
            other => Err(Failure::Host(format!("M1 answers {request} with {other:?}"))),
        }
    }

    /// Pages that go through the window at a time.
    pub(crate) fn page_room(&mut self) -> Result<usize> {
        Ok(self.page_window()?.1.len())
    }

    fn page_window(&mut self) -> Result<(&'static PageWords, &'static [PageWords])> {
        match self.window()? {
            [table, room @ ..] if !room.is_empty() => Ok((table, &room[..room.len().min(PAGE_SIZE / 8)])),
            _ => Err(Failure::Host("M1's window is too small for pages".to_owned())),
        }
    }
}
