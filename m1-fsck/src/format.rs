//! `m1-fsck format`.

use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use mm_store::{BLOCK, Geometry, OpenError, TableSizes, format_block, probe};

use crate::CLEAN;
use crate::image::Image;

pub(crate) fn run(path: &Path, size: Option<u64>, force: bool) -> Result<u8> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(size.is_some());
    let file = options.open(path).with_context(|| {
        let hint = if size.is_none() && !path.exists() { " (--size makes a file)" } else { "" };
        format!("cannot open {}{hint}", path.display())
    })?;
    if let Some(size) = size
        && file.metadata()?.is_file()
    {
        file.set_len(size).with_context(|| format!("cannot make {} so long", path.display()))?;
    }
    let image = Image::of(file.try_clone()?)?;
    let blocks = match size {
        Some(size) => u32::try_from(size / BLOCK as u64).context("larger than 16 TiB")?,
        None => image.blocks,
    };
    ensure!(blocks <= image.blocks, "{} has only {} blocks of 4 KiB", path.display(), image.blocks);
    let Some(geometry) = Geometry::for_disk(blocks) else {
        bail!("{blocks} blocks of 4 KiB are too few or too many: 512 KiB to 8 TiB");
    };
    let mut pages = [[0; BLOCK]; 2];
    image.read(0, &mut pages)?;
    let there = probe([&pages[0], &pages[1]]);
    if there != Err(OpenError::NoStore) && !force {
        bail!(
            "{} has a store already; --force makes a new one, and all that is in it is lost",
            path.display()
        );
    }
    write(&file, geometry)?;
    let bytes = TableSizes::new(&geometry).bytes();
    println!(
        "{}: {} data blocks, journal of {}, checkpoints of {}, {} overlays; M1 needs {} MiB for it",
        path.display(),
        geometry.data,
        geometry.journal,
        geometry.area(),
        geometry.overlays,
        bytes.div_ceil(1 << 20)
    );
    Ok(CLEAN)
}

fn write(file: &File, geometry: Geometry) -> Result<()> {
    let mut uuid = [0; 16];
    File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut uuid))
        .context("no random numbers")?;
    for which in [0, 1] {
        let mut page = [0; BLOCK];
        format_block(geometry, uuid, which, &mut page);
        file.write_all_at(&page, u64::from(which) * BLOCK as u64)?;
    }
    file.sync_all().context("cannot flush")
}

/// `4096`, `64K`, `256M`, `1G`, `2T`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.bytes().last() {
        Some(b'K') => (&text[..text.len() - 1], 10),
        Some(b'M') => (&text[..text.len() - 1], 20),
        Some(b'G') => (&text[..text.len() - 1], 30),
        Some(b'T') => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    let number: u64 = digits.parse().map_err(|_| format!("{text} is no size"))?;
    number.checked_mul(1 << shift).ok_or(format!("{text} is too large"))
}
