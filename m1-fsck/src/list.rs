//! `m1-fsck list`.

use std::path::Path;

use anyhow::Result;
use mm_store::OverlayFigures;
use serde::Serialize;

use crate::CLEAN;
use crate::image::Image;

/// What JSON shows of an overlay.
#[derive(Serialize)]
struct Row {
    name: String,
    /// Identity of the volume that it lies over, in hexadecimal digits.
    base: String,
    /// Blocks of 4 KiB of that volume.
    base_blocks: u32,
    /// Blocks of 4 KiB that the overlay holds.
    blocks: u32,
    quota_blocks: Option<u32>,
}

impl Row {
    fn new(overlay: &OverlayFigures<'_>) -> Self {
        Self {
            name: overlay.name.to_string(),
            base: hex(&overlay.base),
            base_blocks: overlay.pages,
            blocks: overlay.mapped,
            quota_blocks: overlay.quota,
        }
    }
}

pub(crate) fn run(path: &Path, json: bool) -> Result<u8> {
    let image = Image::open(path)?;
    let mut tables = image.tables()?;
    let store = image.store(&mut tables)?;
    let mut rows: Vec<Row> = store.overlays().map(|overlay| Row::new(&overlay)).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    let snapshots = crate::snapshots::list(&image, &store);
    if json {
        let figures = store.figures();
        let all = serde_json::json!({
            "uuid": hex(&store.uuid()),
            "data_blocks": figures.geometry.data,
            "free_blocks": figures.free,
            "overlays": rows,
            "snapshots": snapshots,
        });
        println!("{all:#}");
        return Ok(CLEAN);
    }
    println!("{:<32} {:>12} {:>12} {:>12}  BASE", "NAME", "BLOCKS", "QUOTA", "BASE BLOCKS");
    for row in rows {
        let quota = row.quota_blocks.map_or("-".to_string(), |quota| quota.to_string());
        println!("{:<32} {:>12} {quota:>12} {:>12}  {}", row.name, row.blocks, row.base_blocks, row.base);
    }
    if snapshots.is_empty() {
        return Ok(CLEAN);
    }
    println!("\n{:<32} {:<32} {:>12} {:>6}  IDENTITY", "SNAPSHOT", "VOLUME", "BLOCKS", "DISKS");
    for one in snapshots {
        match one.damage {
            Some(damage) => println!("(place {}: {damage})", one.place),
            None => println!(
                "{:<32} {:<32} {:>12} {:>6}  {}",
                one.name, one.volume, one.blocks, one.disks, one.identity
            ),
        }
    }
    Ok(CLEAN)
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
