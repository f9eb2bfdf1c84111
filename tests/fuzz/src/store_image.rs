//! Store images: any bytes, or a good image of a short history with changes.

use std::sync::OnceLock;

use mm_store::fuzz::{exercise, image, mend_checksums};

use super::input::Input;

const BLOCK: usize = 4096;

/// Images of short histories.
static IMAGES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();

/// The store opens, or is refused, within its bounds; what it shows is consistent, and opening it again shows the same.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(kind) = input.byte() else { return };
    let images = IMAGES.get_or_init(|| (0..15).map(image).collect());
    let mut image = match images.get(usize::from(kind & 15)) {
        Some(image) => image.clone(),
        None => {
            let mut image = input.bytes(usize::MAX).to_vec();
            image.resize(image.len().next_multiple_of(BLOCK), 0);
            image
        }
    };
    while change(&mut input, &mut image).is_some() {}
    if kind & 16 == 0 {
        mend_checksums(&mut image);
    }
    assert_eq!(exercise(&image), exercise(&image), "it depends on the weather");
}

/// A block (superblocks, checkpoints and the journal are the first 24), a place in it (often near its head), a length, and bytes to
/// put there; a length of 0 copies another block onto it, as a write to the wrong place does, and 17 cuts the image.
fn change(input: &mut Input<'_>, image: &mut Vec<u8>) -> Option<()> {
    let (block, place, length) = (usize::from(input.byte()?), input.byte()?, usize::from(input.below(18)?));
    let block = if block < 192 { block % 24 } else { block - 192 };
    let place = if place < 192 { usize::from(place) } else { 192 + usize::from(place - 192) * 61 };
    let at = block * BLOCK + place;
    match length {
        0 => {
            let from = usize::from(input.byte()? % 24) * BLOCK;
            if image.len() >= from + BLOCK && image.len() >= (block + 1) * BLOCK {
                image.copy_within(from..from + BLOCK, block * BLOCK);
            }
        }
        17 => image.truncate(at),
        _ => {
            for (old, new) in image.iter_mut().skip(at).zip(input.bytes(length)) {
                *old = *new;
            }
        }
    }
    Some(())
}
