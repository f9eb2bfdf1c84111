//! Reads a request's content (RFC 9112 sections 6 and 7) to throw it away: no page looks at it, but what follows on
//! the connection can only be found behind it.

use crate::request::{Body, Refusal};
use crate::response::Status;

/// What came of the bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Discarded {
    /// The body goes on.
    More,
    /// The body is over.
    Whole,
    /// The framing is wrong or the body too long: answer, and close.
    Refused(Refusal),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Chunk {
    /// In the size; `true` after its first digit.
    Size(bool),
    Extension,
    SizeLf,
    /// In the data, or right behind it.
    Data,
    DataLf,
    /// In the trailer section; `true` where the line has something in it.
    Trailer(bool),
    /// After a CR there.
    TrailerLf(bool),
}

/// Reads one body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyReader {
    /// `None`: a body of known length.
    chunk: Option<Chunk>,
    /// Bytes of the body, or of the chunk, that are still to come.
    left: u64,
    /// Bytes that may still be read at all, framing included.
    budget: u64,
}

impl BodyReader {
    /// A reader that takes at most `limit` bytes, framing included.
    pub(crate) fn new(body: Body, limit: u64) -> Result<Self, Refusal> {
        let (chunk, left) = match body {
            Body::None => (None, 0),
            Body::Length(length) => (None, length),
            Body::Chunked => (Some(Chunk::Size(false)), 0),
        };
        if left > limit { Err(TOO_LARGE) } else { Ok(Self { chunk, left, budget: limit }) }
    }

    /// Reads on, and returns how many bytes belong to the body.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> (usize, Discarded) {
        let Some(mut chunk) = self.chunk else {
            let taken = self.skip(bytes);
            return (taken, if self.left == 0 { Discarded::Whole } else { Discarded::More });
        };
        let mut used = 0;
        while let Some(&byte) = bytes.get(used) {
            if self.budget == 0 {
                return (used, Discarded::Refused(TOO_LARGE));
            }
            if chunk == Chunk::Data && self.left > 0 {
                used += self.skip(&bytes[used..]);
                continue;
            }
            used += 1;
            self.budget -= 1;
            match self.step(chunk, byte) {
                Ok(Some(next)) => chunk = next,
                Ok(None) => return (used, Discarded::Whole),
                Err(refusal) => return (used, Discarded::Refused(refusal)),
            }
            self.chunk = Some(chunk);
        }
        (used, Discarded::More)
    }

    /// Takes bytes of content.
    fn skip(&mut self, bytes: &[u8]) -> usize {
        let limit = usize::try_from(self.left.min(self.budget)).unwrap_or(usize::MAX);
        let taken = bytes.len().min(limit);
        let counted = u64::try_from(taken).unwrap_or(self.left);
        self.left -= counted;
        self.budget -= counted;
        taken
    }

    /// The state after `byte`; `None` after the last byte of the body.
    fn step(&mut self, chunk: Chunk, byte: u8) -> Result<Option<Chunk>, Refusal> {
        let after_size = if self.left == 0 { Chunk::Trailer(false) } else { Chunk::Data };
        Ok(Some(match (chunk, byte) {
            (Chunk::Size(_), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
                self.left = self.left.saturating_mul(16).saturating_add(digit);
                if self.left > self.budget {
                    return Err(TOO_LARGE);
                }
                Chunk::Size(true)
            }
            (Chunk::Size(true), b';' | b' ' | b'\t') => Chunk::Extension,
            (Chunk::Size(true) | Chunk::Extension, b'\r') => Chunk::SizeLf,
            (Chunk::Size(true) | Chunk::Extension | Chunk::SizeLf, b'\n') => after_size,
            (Chunk::Extension, b'\t' | b' '..=b'~' | 0x80..) => Chunk::Extension,
            (Chunk::Data, b'\r') => Chunk::DataLf,
            (Chunk::Data | Chunk::DataLf, b'\n') => Chunk::Size(false),
            (Chunk::Trailer(some), b'\r') => Chunk::TrailerLf(some),
            (Chunk::Trailer(true) | Chunk::TrailerLf(true), b'\n') => Chunk::Trailer(false),
            (Chunk::Trailer(false) | Chunk::TrailerLf(false), b'\n') => return Ok(None),
            (Chunk::Trailer(_), b'\t' | b' '..=b'~' | 0x80..) => Chunk::Trailer(true),
            _ => return Err(Refusal::bad("a chunk is not framed as one")),
        }))
    }
}

const TOO_LARGE: Refusal =
    Refusal { status: Status::ContentTooLarge, why: "no page takes content, and so much of it is not read" };
