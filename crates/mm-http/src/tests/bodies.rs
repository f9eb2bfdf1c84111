use proptest::prelude::*;

use crate::body::{BodyReader, Discarded};
use crate::request::Body;
use crate::response::Status;

fn chunked(bytes: &[u8], limit: u64) -> (usize, Discarded) {
    BodyReader::new(Body::Chunked, limit).unwrap().feed(bytes)
}

fn status(result: (usize, Discarded)) -> Option<Status> {
    match result.1 {
        Discarded::Refused(refusal) => Some(refusal.status),
        _ => None,
    }
}

#[test]
fn a_body_of_known_length_is_taken_whole_and_no_more() {
    let mut reader = BodyReader::new(Body::Length(5), 100).unwrap();
    assert_eq!(reader.feed(b"abc"), (3, Discarded::More));
    assert_eq!(reader.feed(b""), (0, Discarded::More));
    assert_eq!(reader.feed(b"deGET /"), (2, Discarded::Whole));
    assert_eq!(BodyReader::new(Body::Length(101), 100).unwrap_err().status, Status::ContentTooLarge);
    assert_eq!(BodyReader::new(Body::Length(u64::MAX), 100).unwrap_err().status, Status::ContentTooLarge);
}

#[test]
fn chunks_are_taken_to_their_end() {
    for body in [
        "0\r\n\r\n",
        "3\r\nabc\r\n0\r\n\r\n",
        "A;x=\"y\"\r\n0123456789\r\n000\r\nTrailer: 1\r\n\r\n",
        "1 \n.\n0\n\n",
    ] {
        let followed = format!("{body}GET");
        assert_eq!(chunked(followed.as_bytes(), 1000), (body.len(), Discarded::Whole), "{body:?}");
    }
}

#[test]
fn chunks_that_are_not_framed_are_refused() {
    for body in [
        "\r\n",
        "x\r\n",
        ";a\r\n",
        "3\r\nabcd\r\n",
        "3\r\nab\r\n\r\n",
        "3\rabc",
        "-1\r\n",
        "0\r\n\rx",
        "0x3\r\n",
    ] {
        assert_eq!(status(chunked(body.as_bytes(), 1000)), Some(Status::BadRequest), "{body:?}");
    }
}

#[test]
fn chunks_beyond_the_limit_are_refused() {
    assert_eq!(status(chunked(b"ffffffffffffffffffffff\r\n", 1000)), Some(Status::ContentTooLarge));
    assert_eq!(status(chunked(&b"1\r\na\r\n".repeat(100), 300)), Some(Status::ContentTooLarge));
    assert_eq!(status(chunked(&[b"1;", &[b'a'; 2000][..]].concat(), 1000)), Some(Status::ContentTooLarge));
    let endless_trailers = [&b"0\r\n"[..], &b"a: b\r\n".repeat(200)].concat();
    assert_eq!(status(chunked(&endless_trailers, 1000)), Some(Status::ContentTooLarge));
}

proptest! {
    #[test]
    fn a_body_is_read_the_same_in_any_pieces(
        chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..6),
        noise in proptest::option::of((any::<prop::sample::Index>(), any::<u8>())),
    ) {
        let mut bytes: Vec<u8> = chunks.iter().flat_map(|chunk| {
            [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk, b"\r\n"].concat()
        }).collect();
        bytes.extend(b"0\r\n\r\n");
        if let Some((at, byte)) = noise {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let (used, whole) = chunked(&bytes, 300);
        if noise.is_none() {
            prop_assert_eq!((used, whole), (bytes.len(), Discarded::Whole));
        }
        let mut reader = BodyReader::new(Body::Chunked, 300).unwrap();
        let mut last = Discarded::More;
        for byte in &bytes[..used] {
            prop_assert_eq!(last, Discarded::More);
            last = reader.feed(&[*byte]).1;
        }
        if whole != (Discarded::Refused(crate::Refusal { status: Status::ContentTooLarge, why: "" })) {
            prop_assert!(last == whole || used < bytes.len(), "{last:?} {whole:?}");
        }
    }
}
