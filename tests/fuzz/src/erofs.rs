//! EROFS images: a whole one, or one of four small good ones with changes.

use super::input::Input;

static IMAGES: [&[u8]; 4] = [
    include_bytes!("../../../crates/erofs/seeds/plain.erofs"),
    include_bytes!("../../../crates/erofs/seeds/inline.erofs"),
    include_bytes!("../../../crates/erofs/seeds/chunked.erofs"),
    include_bytes!("../../../crates/erofs/seeds/indexed.erofs"),
];

/// The reader opens, walks and reads what it is given, within its bounds.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(kind) = input.byte() else { return };
    let Some(image) = IMAGES.get(usize::from(kind & 7)) else {
        ::erofs::fuzz::exercise(input.0);
        return;
    };
    let mut image = image.to_vec();
    while let Some(changed) = change(&mut input, &mut image) {
        image = changed;
    }
    if kind & 8 == 0 {
        ::erofs::fuzz::mend_checksum(&mut image);
    }
    ::erofs::fuzz::exercise(&image);
}

/// A place (most of the structure is in the first page), a length, and the bytes to put there; a length of 0 cuts the image.
fn change(input: &mut Input<'_>, image: &mut Vec<u8>) -> Option<Vec<u8>> {
    let at = usize::from(input.half()?);
    let length = usize::from(input.below(9)?);
    let at = if at < 0x8000 { 1024 + at % 3072 } else { at - 0x8000 };
    let mut image = std::mem::take(image);
    if length == 0 {
        image.truncate(at);
    } else {
        for (place, byte) in image.iter_mut().skip(at).zip(input.bytes(length)) {
            *place = *byte;
        }
    }
    Some(image)
}
