//! Verbs that bring snapshots to another M1. Pages go through the window: its first page is a table, of a number and a CRC-32C for each, and
//! the pages follow.

use mm_http::json;
use mm_store::crc32c;

use super::reply::{Answer, Done, Refused};
use super::verbs::{Words, argument, bulk, number};
use crate::block::Image;
use crate::m1::M1;
use crate::pages::Hex;
use crate::snapshots::{ImportFailed, Imported, Next};

pub(super) const EXPORT: &str = "export VOLUME SNAPSHOT";
pub(super) const EXPORT_PAGES: &str = "export-pages IDENTITY FROM";
pub(super) const IMPORT: &str = "import VOLUME NAME VOLUME-IDENTITY PAGES [persist]";
pub(super) const IMPORT_PAGES: &str = "import-pages IDENTITY COUNT";
pub(super) const IMPORT_DISK: &str = "import-disk IDENTITY DEVID VOLUME-IDENTITY BLOCKS [ROOT LEVELS COUNT]";
pub(super) const IMPORT_END: &str = "import-end IDENTITY HEAD";
pub(super) const IMPORT_PROGRESS: &str = "import-progress IDENTITY";
pub(super) const IMPORT_CANCEL: &str = "import-cancel IDENTITY";

/// Looks for pages, in one request.
const LOOKS: usize = 64;

/// What a snapshot is, for whoever takes it away.
pub(super) fn export(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let (volume, name) = (argument(arguments, EXPORT)?, argument(arguments, EXPORT)?);
    let exported = m1.export(volume, name).map_err(Refused::Export)?;
    bulk(m1.control.window.fill(|out| {
        json::object(out, |answer| {
            answer.string("volume", &volume)?;
            answer.string("name", &name)?;
            answer.string("identity", &Hex(&exported.identity))?;
            answer.string("volume_identity", &Hex(&exported.volume))?;
            answer.number("head", exported.head)?;
            answer.number("pages", exported.pages)?;
            answer.number("ordered", exported.ordered)?;
            answer.array("disks", |disks| {
                exported.disks.iter().try_for_each(|disk| {
                    disks.object(|answer| {
                        answer.number("devid", disk.devid)?;
                        answer.string("volume_identity", &Hex(&disk.volume))?;
                        answer.number("blocks", disk.blocks)?;
                        let Some(image) = disk.image else { return answer.null("index") };
                        let [root, levels, count] = image.words();
                        answer.object("index", |answer| {
                            answer.number("root", root)?;
                            answer.number("levels", levels)?;
                            answer.number("count", count)
                        })
                    })
                })
            })
        })
    }))
}

/// Its pages from a number on, as many as the window has room for.
pub(super) fn export_pages(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let identity = hex(argument(arguments, EXPORT_PAGES)?, EXPORT_PAGES)?;
    let mut from: u64 = number(arguments, EXPORT_PAGES)?;
    let room = m1.control.window.page_room();
    if room == 0 {
        return Err(Refused::Window);
    }
    let (mut count, mut looks) = (0, 0);
    while count < room && looks < LOOKS {
        match m1.export_page(&identity, from).map_err(Refused::Export)? {
            Next::Page(page, bytes) => {
                let number = u32::try_from(page).unwrap_or(0);
                m1.control.window.put_page(count, number, crc32c(&bytes), &bytes);
                (count, from) = (count + 1, page + 1);
            }
            Next::Further(next) => (looks, from) = (looks + 1, next),
            Next::Wait if count == 0 => return Ok(Done::Running { done: 0, all: 0 }),
            Next::Wait => break,
            Next::End => return Ok(Done::Pages { count, next: None }),
        }
    }
    Ok(Done::Pages { count, next: Some(from) })
}

/// A snapshot is to come.
pub(super) fn import(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let (volume, name) = (argument(arguments, IMPORT)?, argument(arguments, IMPORT)?);
    let over = hex(argument(arguments, IMPORT)?, IMPORT)?;
    let pages = number(arguments, IMPORT)?;
    let persist = match arguments.next() {
        None => false,
        Some("persist") => true,
        Some(_) => return Err(Refused::Usage(IMPORT)),
    };
    if m1.control.window.page_room() == 0 {
        return Err(Refused::Window);
    }
    m1.import(volume, name, &over, pages, persist).map(Done::Import).map_err(Refused::Import)
}

/// Pages of it are in the window.
pub(super) fn import_pages(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let identity = hex(argument(arguments, IMPORT_PAGES)?, IMPORT_PAGES)?;
    let count: usize = number(arguments, IMPORT_PAGES)?;
    if count == 0 || count > m1.control.window.page_room() {
        return Err(Refused::Usage(IMPORT_PAGES));
    }
    for index in 0..count {
        let good = m1.control.window.page(index).filter(|(sum, bytes)| *sum == crc32c(bytes));
        let Some((_, bytes)) = good else {
            return Err(Refused::ImportFailed(m1.give_import_up(&identity, ImportFailed::Damaged(index))));
        };
        let page = m1.import_page(&identity, &bytes).map_err(Refused::ImportFailed)?;
        m1.control.window.set_number(index, u32::try_from(page).unwrap_or(0));
    }
    Ok(Done::Taken(count))
}

/// A disk that its client had.
pub(super) fn import_disk(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let identity = hex(argument(arguments, IMPORT_DISK)?, IMPORT_DISK)?;
    let devid = number(arguments, IMPORT_DISK)?;
    let volume = hex(argument(arguments, IMPORT_DISK)?, IMPORT_DISK)?;
    let blocks = number(arguments, IMPORT_DISK)?;
    let image = match arguments.next() {
        None => None,
        Some(root) => {
            let root = xenstore::number(root.as_bytes()).ok_or(Refused::Usage(IMPORT_DISK))?;
            let words = [root, number(arguments, IMPORT_DISK)?, number(arguments, IMPORT_DISK)?];
            let senseless = |m1: &mut M1| m1.give_import_up(&identity, ImportFailed::Image(devid));
            Some(Image::from_words(words).ok_or_else(|| Refused::ImportFailed(senseless(m1)))?)
        }
    };
    m1.import_disk(&identity, devid, &volume, blocks, image).map_err(Refused::ImportFailed)?;
    Ok(Done::Nothing)
}

/// All of it has come.
pub(super) fn import_end(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let identity = hex(argument(arguments, IMPORT_END)?, IMPORT_END)?;
    let head = number(arguments, IMPORT_END)?;
    m1.end_import(&identity, head).map(outcome).map_err(Refused::ImportFailed)
}

/// How far it is, to the store's disk included.
pub(super) fn import_progress(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let identity = hex(argument(arguments, IMPORT_PROGRESS)?, IMPORT_PROGRESS)?;
    m1.import_progress(&identity).map(outcome).map_err(Refused::ImportFailed)
}

fn outcome(imported: Imported) -> Done {
    match imported {
        Imported::Going(done, all) => Done::Running { done, all },
        Imported::Done(pages, known) => Done::Imported { pages, known },
    }
}

/// Nothing is to come of it.
pub(super) fn import_cancel(m1: &mut M1, arguments: &mut Words<'_>) -> Answer {
    let identity = hex(argument(arguments, IMPORT_CANCEL)?, IMPORT_CANCEL)?;
    if m1.cancel_import(&identity) {
        Ok(Done::Nothing)
    } else {
        Err(Refused::ImportFailed(ImportFailed::Unknown))
    }
}

/// Exactly so many bytes in hexadecimal.
fn hex<const BYTES: usize>(text: &str, usage: &'static str) -> Result<[u8; BYTES], Refused> {
    let mut bytes = [0; BYTES];
    if text.len() != 2 * BYTES {
        return Err(Refused::Usage(usage));
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let digits = core::str::from_utf8(pair).ok().filter(|pair| !pair.contains('+'));
        let value = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        *byte = value.ok_or(Refused::Usage(usage))?;
    }
    Ok(bytes)
}
