//! CRC-32C (Castagnoli; RFC 3720, appendix B.4), eight bytes at a time: the checksum of everything on the disk.
#![expect(clippy::indexing_slicing, reason = "tables of 256 rows indexed by bytes")]

/// Row k holds what a byte does that is followed by k zero bytes.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let mut sum = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            // The polynomial, bits reversed.
            sum = if sum & 1 == 1 { sum >> 1 ^ 0x82f6_3b78 } else { sum >> 1 };
            bit += 1;
        }
        tables[0][byte] = sum;
        byte += 1;
    }
    let mut row = 1;
    while row < 8 {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[row - 1][byte];
            tables[row][byte] = before >> 8 ^ tables[0][(before & 255) as usize];
            byte += 1;
        }
        row += 1;
    }
    tables
}

/// The checksum of `bytes`.
#[must_use]
pub fn crc32c(bytes: &[u8]) -> u32 {
    !update(!0, bytes)
}

/// The checksum of a metadata block, whose own field of four bytes at `field` counts as zeroes.
pub(crate) fn crc_without(bytes: &[u8], field: usize) -> u32 {
    let (before, rest) = bytes.split_at(field.min(bytes.len()));
    let sum = update(update(!0, before), &[0; 4]);
    !update(sum, rest.get(4..).unwrap_or_default())
}

fn update(mut sum: u32, bytes: &[u8]) -> u32 {
    let t = &TABLES;
    let (chunks, rest) = bytes.as_chunks::<8>();
    for chunk in chunks {
        let [a, b, c, d, e, f, g, h] = *chunk;
        let [p, q, r, s] = (sum ^ u32::from_le_bytes([a, b, c, d])).to_le_bytes();
        sum = t[7][usize::from(p)]
            ^ t[6][usize::from(q)]
            ^ t[5][usize::from(r)]
            ^ t[4][usize::from(s)]
            ^ t[3][usize::from(e)]
            ^ t[2][usize::from(f)]
            ^ t[1][usize::from(g)]
            ^ t[0][usize::from(h)];
    }
    for byte in rest {
        sum = sum >> 8 ^ t[0][usize::from(sum.to_le_bytes()[0] ^ byte)];
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::{crc_without, crc32c};

    #[test]
    fn the_checksums_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        let rising: Vec<u8> = (0..32).collect();
        assert_eq!(crc32c(&rising), 0x46dd_794e);
    }

    #[test]
    fn a_field_left_out_counts_as_zeroes() {
        let mut bytes: Vec<u8> = (0..200).collect();
        let sum = crc_without(&bytes, 8);
        bytes[8..12].fill(0);
        assert_eq!(sum, crc32c(&bytes));
    }
}
