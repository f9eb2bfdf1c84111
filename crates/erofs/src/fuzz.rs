//! The entry for fuzz targets and property tests: everything that the reader can do, on any bytes.

use core::cell::Cell;
use core::ops::ControlFlow;

use crate::superblock::checksum;
use crate::{Erofs, FileType, Inode, LastLink, Nid, PAGE, PAGE_SIZE, PATH_MAX, PageSource, SlicePages};

/// Inodes that are looked at in one image.
const INODES: usize = 64;
/// Entries that are looked at in one directory.
const ENTRIES: usize = 512;

/// Counts what the reader asks of the image.
struct Counted<'a> {
    pages: SlicePages<'a>,
    reads: &'a Cell<u64>,
}

impl PageSource for Counted<'_> {
    type Error = <SlicePages<'static> as PageSource>::Error;

    fn read(&self, page: u64, offset: usize, out: &mut [u8]) -> Result<(), Self::Error> {
        assert!(offset.saturating_add(out.len()) <= PAGE_SIZE, "a read goes over a page's end");
        self.reads.set(self.reads.get().saturating_add(1));
        self.pages.read(page, offset, out)
    }
}

/// Makes the superblock's checksum right, so that what is behind it is reached.
pub fn mend_checksum(image: &mut [u8]) {
    let sum = image.get(1024..PAGE_SIZE).map(checksum);
    if let (Some(sum), Some(place)) = (sum, image.get_mut(1028..1032)) {
        place.copy_from_slice(&sum.to_le_bytes());
    }
}

/// Opens `image`, walks it to a bound, and reads, looks up and resolves what it finds.
///
/// Returns how many inodes were good.
///
/// # Panics
/// Where one of the reader's promises is broken: too many reads, or two ways to the same thing that differ.
pub fn exercise(image: &[u8]) -> usize {
    let reads = Cell::new(0);
    let Ok(volume) = Erofs::open(Counted { pages: SlicePages(image), reads: &reads }) else { return 0 };
    let mut queue = [volume.root(); INODES];
    let mut queued = 1_usize;
    let mut good = 0;
    for at in 0..INODES {
        let Some(nid) = queue.get(at).filter(|_| at < queued).copied() else { break };
        let Ok(inode) = volume.inode(nid) else { continue };
        good = good.max(at.saturating_add(1));
        let before = reads.get();
        bytes(&volume, &inode);
        if inode.file_type() == FileType::Directory {
            directory(&volume, &inode, |child| {
                if let Some(slot) = queue.get_mut(queued) {
                    *slot = child;
                    queued = queued.saturating_add(1);
                }
            });
        }
        // Files: a few reads. Directories: some for each entry, and some for each halving of a lookup.
        let budget = u64::try_from(ENTRIES.saturating_mul(200)).unwrap_or(u64::MAX);
        assert!(reads.get().saturating_sub(before) < budget, "too many reads for one inode");
    }
    good
}

fn bytes<S: PageSource>(volume: &Erofs<S>, inode: &Inode) {
    let mut buffer = [0; PATH_MAX];
    let _ = volume.read_link(inode, &mut buffer);
    let last = inode.pages().saturating_sub(1);
    for page in [0, 1, last / 2, last, last.saturating_add(1), u64::MAX] {
        let extent = volume.extent_run(inode, page);
        let read = volume.read(inode, page.saturating_mul(PAGE), &mut buffer);
        if let Ok(Some(extent)) = extent {
            assert!(
                extent.page.saturating_add(extent.pages) <= volume.superblock().blocks,
                "outside of the volume"
            );
            assert!(page.saturating_add(extent.pages) <= inode.pages(), "behind the file");
            let mut direct = [0; PATH_MAX];
            if let (Ok(length), Ok(())) = (read, volume.source().read(extent.page, 0, &mut direct)) {
                assert!(buffer.get(..length) == direct.get(..length), "read and extent differ");
            }
        }
    }
    let _ = volume.read(inode, inode.size.saturating_sub(7), &mut buffer);
}

fn directory<S: PageSource>(volume: &Erofs<S>, dir: &Inode, mut child: impl FnMut(Nid)) {
    let mut count = 0_usize;
    let _ = volume.read_dir(dir, 0, &mut |entry| {
        count = count.saturating_add(1);
        child(entry.nid);
        let _ = volume.lookup(dir, entry.name);
        let _ = volume.walk(dir.nid, entry.name, LastLink::Follow, &mut [0; PATH_MAX]);
        if count < ENTRIES { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    let _ = volume.lookup(dir, b"zzzz");
    let _ = volume.read_dir(dir, (dir.size / 24).saturating_mul(12), &mut |_| ControlFlow::Break(()));
}
