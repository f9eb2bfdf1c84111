//! The request parser against a naive one, for any slot and any indirect page.

use proptest::prelude::*;
use xen::GrantRef;
use xen_sys::blkif::{PAGE_SECTORS, op};

use crate::blkback::{MAX_PIECES, Operation, Piece, Request, Status};
use crate::vbdback::{BlockFeatures, BlockOffer};

/// A slot that is often nearly right.
fn slot() -> impl Strategy<Value = [u32; 28]> {
    let operation = prop_oneof![8 => 0_u8..8, 1 => any::<u8>()];
    let second = prop_oneof![4 => 0_u8..3, 4 => 0_u8..13, 1 => any::<u8>()];
    let third = prop_oneof![8 => 0_u8..40, 1 => any::<u8>()];
    let fourth = prop_oneof![8 => Just(0_u8), 1 => any::<u8>()];
    let sector = prop_oneof![8 => 0_u64..600, 1 => any::<u64>(), 1 => (u64::MAX - 600)..];
    let segment =
        (any::<u32>(), 0_u32..9, 0_u32..9).prop_map(|(gref, first, last)| [gref, first | last << 8]);
    let good = (any::<u32>(), 0_u32..4, 4_u32..8)
        .prop_map(|(gref, first, last)| [gref, first | last << 8 | 0xffff_0000]);
    let segments = prop::collection::vec(prop_oneof![1 => segment, 12 => good], 11);
    (operation, second, third, fourth, any::<u64>(), sector, segments).prop_map(
        |(operation, second, third, fourth, id, sector, segments)| {
            let mut words = [0; 28];
            words[0] = u32::from_le_bytes([operation, second, third, fourth]);
            for (index, half) in [id, id >> 32, sector, sector >> 32].into_iter().enumerate() {
                words[2 + index] = u32::try_from(half & 0xffff_ffff).expect("masked");
            }
            for (pair, segment) in words[6..].as_chunks_mut::<2>().0.iter_mut().zip(segments) {
                *pair = segment;
            }
            if operation == op::DISCARD {
                // Mostly a small number of sectors.
                (words[6], words[7]) = (words[6] % 700, if words[6] % 8 == 0 { words[7] } else { 0 });
            }
            words
        },
    )
}

fn disk() -> impl Strategy<Value = BlockOffer> {
    let features = (any::<bool>(), any::<bool>(), any::<bool>(), prop_oneof![Just(0_u16), 0_u16..40])
        .prop_map(|(flush, barrier, discard, indirect_segments)| BlockFeatures {
            flush,
            barrier,
            discard,
            indirect_segments,
            ring_order: 0,
        });
    let sectors = prop_oneof![4 => Just(512_u64), 1 => any::<u64>(), 1 => Just(0)];
    (features, any::<bool>(), sectors)
        .prop_map(|(features, read_only, sectors)| BlockOffer { features, read_only, sectors }.bounded())
}

/// Operation and segments, or the answer.
type Verdict = Result<(Operation, Vec<(u32, u8, u8)>), Status>;

/// What blkif.h and xen-blkback say of a slot, written down without thrift.
fn naive(words: &[u32; 28], page: Option<&[u8]>, disk: &BlockOffer) -> Verdict {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let number = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"));
    let features = disk.features;
    let segment =
        |bytes: &[u8]| (u32::from_le_bytes(bytes[..4].try_into().expect("four")), bytes[4], bytes[5]);
    let (operation, segments) = match bytes[0] {
        op::INDIRECT if features.indirect_segments > 0 => {
            let count = usize::from(bytes[2]) + 256 * usize::from(bytes[3]);
            if bytes[1] > 1 || count == 0 || count > usize::from(features.indirect_segments) {
                return Err(Status::Error);
            }
            let page = page.ok_or(Status::Error)?;
            let operation = if bytes[1] == 0 { Operation::Read } else { Operation::Write };
            (operation, page.chunks(8).take(count).map(segment).collect::<Vec<_>>())
        }
        op::DISCARD if features.discard => {
            let (start, count) = (u128::from(number(16)), u128::from(number(24)));
            let fits = count > 0 && start + count <= u128::from(disk.sectors) && !disk.read_only;
            return if fits { Ok((Operation::Discard, vec![])) } else { Err(Status::Error) };
        }
        code @ 0..=3 => {
            let offered = [true, true, features.barrier, features.flush][usize::from(code)];
            if !offered {
                return Err(Status::Unsupported);
            }
            let count = usize::from(bytes[1]);
            if count > 11 {
                return Err(Status::Error);
            }
            let operation = match (code, count) {
                (0, _) => Operation::Read,
                (1, _) => Operation::Write,
                (3, 0) => Operation::Flush,
                _ => Operation::Barrier,
            };
            (operation, bytes[24..].chunks(8).take(count).map(segment).collect())
        }
        _ => return Err(Status::Unsupported),
    };
    if segments.is_empty() {
        let fine = matches!(operation, Operation::Flush | Operation::Barrier);
        return if fine { Ok((operation, segments)) } else { Err(Status::Error) };
    }
    let mut end = u128::from(number(16));
    for (_, first, last) in &segments {
        if first > last || *last > 7 {
            return Err(Status::Error);
        }
        end += u128::from(last - first + 1);
    }
    let refused = end > u128::from(disk.sectors) || (disk.read_only && operation != Operation::Read);
    if refused { Err(Status::Error) } else { Ok((operation, segments)) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn the_parser_agrees_with_a_naive_one(
        words in slot(),
        disk in disk(),
        page in prop::option::weighted(0.9, prop::collection::vec((any::<u32>(), 0_u8..5, 3_u8..9), 32)),
    ) {
        let page: Option<Vec<u8>> = page.map(|segments| {
            segments.into_iter().flat_map(|(gref, first, last)| {
                let [a, b, c, d] = gref.to_le_bytes();
                [a, b, c, d, first, last, 0x55, 0x55]
            }).collect()
        });
        let mut read = 0;
        let result = Request::check(&words, &disk, &mut |reference, bytes| {
            read += 1;
            assert_eq!(reference, GrantRef(words[7]));
            match &page {
                Some(page) => {
                    bytes.copy_from_slice(&page[..bytes.len()]);
                    true
                }
                None => false,
            }
        });
        prop_assert!(read <= 1, "once, then judged");
        let expected = naive(&words, page.as_deref(), &disk);
        match (result, expected) {
            (Err(refused), Err(status)) => prop_assert_eq!(refused.status, status),
            (Ok(request), Ok((operation, segments))) => {
                prop_assert_eq!(request.operation, operation);
                let got: Vec<_> = request.segments().iter().map(|s| (s.reference.0, s.first, s.last)).collect();
                prop_assert_eq!(got, segments);
                check_pieces(&request, &disk)?;
            }
            (got, expected) => prop_assert!(false, "{got:?} {expected:?}"),
        }
    }
}

/// The pieces are the request's sectors one after the other, each within one block and one page.
fn check_pieces(request: &Request, disk: &BlockOffer) -> Result<(), TestCaseError> {
    let pieces: Vec<Piece> = request.pieces().collect();
    prop_assert!(pieces.len() <= MAX_PIECES);
    let disk_sectors: Vec<u64> = pieces
        .iter()
        .flat_map(|piece| {
            let first = piece.disk_page * PAGE_SECTORS + u64::from(piece.offset_in_disk_page) / 512;
            first..first + u64::from(piece.bytes) / 512
        })
        .collect();
    let page_sectors: Vec<(u32, u64)> = pieces
        .iter()
        .flat_map(|piece| {
            let first = u64::from(piece.offset_in_page) / 512;
            (first..first + u64::from(piece.bytes) / 512).map(|sector| (piece.reference.0, sector))
        })
        .collect();
    let expected: Vec<(u32, u64)> = request
        .segments()
        .iter()
        .flat_map(|segment| {
            (segment.first..=segment.last).map(|sector| (segment.reference.0, u64::from(sector)))
        })
        .collect();
    prop_assert_eq!(page_sectors, expected);
    if request.operation == Operation::Discard {
        prop_assert!(pieces.is_empty());
        let whole = request.whole_blocks();
        prop_assert!(
            whole.is_empty()
                || whole.start * 8 >= request.sector && whole.end * 8 <= request.sector + request.sectors
        );
        return Ok(());
    }
    let range: Vec<u64> = (0..request.sectors).map(|sector| request.sector + sector).collect();
    prop_assert_eq!(disk_sectors, range);
    prop_assert!(pieces.iter().all(|piece| piece.bytes > 0
        && piece.offset_in_page + piece.bytes <= 4096
        && piece.offset_in_disk_page + piece.bytes <= 4096
        && piece.disk_page * 8 < disk.sectors));
    let blocks = request.blocks();
    prop_assert_eq!(
        pieces.first().map(|piece| piece.disk_page),
        (!pieces.is_empty()).then_some(blocks.start)
    );
    prop_assert_eq!(
        pieces.last().map(|piece| piece.disk_page + 1),
        (!pieces.is_empty()).then_some(blocks.end)
    );
    Ok(())
}
