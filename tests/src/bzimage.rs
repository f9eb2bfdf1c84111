//! Takes the ELF kernel out of a Linux bzImage. Unpacking it once on the host saves every boot under emulation more
//! than two seconds.

use std::io::Write;
use std::process::{Command, Stdio};

/// Offsets in the boot header: Linux, `Documentation/arch/x86/boot.rst`.
const SETUP_SECTORS: usize = 0x1f1;
const MAGIC: usize = 0x202;
const PAYLOAD_OFFSET: usize = 0x248;
const PAYLOAD_LENGTH: usize = 0x24c;

/// The compressed kernel inside of a bzImage.
fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(MAGIC..MAGIC + 4)? != b"HdrS" {
        return None;
    }
    let word = |at: usize| -> Option<usize> {
        let bytes = image.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_le_bytes(bytes)).ok()
    };
    let start = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * 512 + word(PAYLOAD_OFFSET)?;
    image.get(start..start + word(PAYLOAD_LENGTH)?)
}

/// The ELF kernel of a bzImage as Debian builds it (xz), or nothing where the host has no xz or the form is another.
pub(crate) fn unpack(image: &[u8]) -> Option<Vec<u8>> {
    // The build appends the unpacked size in four bytes.
    let packed = payload(image)?.split_last_chunk::<4>()?.0.to_vec();
    let mut child = Command::new("xz")
        .arg("-dc")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let mut input = child.stdin.take()?;
    let feeder = std::thread::spawn(move || input.write_all(&packed));
    let done = child.wait_with_output().ok()?;
    let fed = feeder.join().ok()?.is_ok();
    (fed && done.status.success() && done.stdout.starts_with(b"\x7fELF")).then_some(done.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_is_where_the_header_says() {
        let mut image = vec![0; 4096];
        image[MAGIC..MAGIC + 4].copy_from_slice(b"HdrS");
        image[SETUP_SECTORS] = 3;
        image[PAYLOAD_OFFSET] = 16;
        image[PAYLOAD_LENGTH] = 5;
        image[4 * 512 + 16..][..5].copy_from_slice(b"hello");
        assert_eq!(payload(&image), Some(&b"hello"[..]));
        assert_eq!(payload(&image[..2064]), None, "cut short");
        image[MAGIC] = 0;
        assert_eq!(payload(&image), None, "no boot header");
    }
}
