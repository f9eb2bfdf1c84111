//! Requests of the client and responses of M1, each one slot of [`SLOT_WORDS`] little-endian 32-bit words.
//!
//! Request words: 0 `id`, 1 `operation`, 2–3 `page`, 4 `reference`, 5 `count`, 6–15 five 64-bit arguments, 16–31 bitmap.
//! Response words: 0 `id`, 1 `operation | status << 16`, 2–3 `page`, 4 `reference`, 5 `count`, 6–7 `received`,
//! 8–9 `replied`, 10–15 zero, 16–31 bitmap. What a message does not use is zero. A `Capture` has its sixteen references, and
//! its answer sixteen page numbers, where others have the bitmap.

use crate::{Bitmap, CAPTURE_MAX, FROZEN_FIRST, SLOT_WORDS, WINDOW_MAX};

const HELLO: u32 = 1;
const GRANT: u32 = 2;
const COPY: u32 = 3;
const RELEASE: u32 = 4;
const LISTEN: u32 = 5;
const REVOKE_ACK: u32 = 6;
const REPORT: u32 = 7;
const FREEZE: u32 = 8;
const CAPTURE: u32 = 9;
const KEEP: u32 = 10;
const COMMIT: u32 = 11;
const ABORT: u32 = 12;
const HOT: u32 = 13;
const THAWED: u32 = 14;

/// What a client asks, with the number by which it will know the answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// Chosen by the client, echoed in the response.
    pub id: u32,
    /// The operation and its arguments.
    pub body: RequestBody,
}

/// The operations. `page` counts 4 KiB pages of the volume whose device this ring belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RequestBody {
    /// First message on a ring: the version that the client chose from the info page, and the largest window, in pages,
    /// that it can hold (1 to 512, a power of two). Anything else before it is a fault of the client.
    Hello {
        /// Chosen version.
        version: u32,
        /// Largest window in pages.
        window: u32,
    },
    /// Asks for references to `page` and, if M1 sees fit, its neighbours.
    Grant {
        /// The page that is needed now.
        page: u64,
        /// Pages that the client would use from there on, at least 1: a hint.
        wanted: u32,
    },
    /// Asks M1 to grant-copy `page` into a whole frame that the client has granted to it for writing.
    Copy {
        /// The page that is needed now.
        page: u64,
        /// The client's own grant reference.
        reference: u32,
    },
    /// Gives back references: the client has unmapped them and will not map them again.
    Release {
        /// First reference of the run.
        reference: u32,
        /// References in the run, 1 to 512.
        count: u32,
    },
    /// Stays outstanding until M1 has something to say: its response is a revocation. A client keeps one posted.
    Listen,
    /// The client has dropped this run of references, as M1 asked, and will not map them again.
    RevokeAck {
        /// First reference of the run.
        reference: u32,
        /// References in the run, 1 to 512.
        count: u32,
    },
    /// Figures of the client's own, shown by M1 as client-reported: pages of private memory that it has written (W), of
    /// its kernel (KAS), shared pages that it maps (R); faults served alone from a held reference; copy-on-write breaks.
    Report {
        /// W: private pages of the program.
        written: u64,
        /// KAS: pages of the client kernel itself.
        kernel: u64,
        /// R: distinct shared pages mapped now.
        mapped: u64,
        /// Faults that the client served from a reference that it held, since its start.
        local_faults: u64,
        /// Copy-on-write breaks since its start.
        cow_breaks: u64,
        /// Pages mapped ahead after a thaw (version 2; zero before).
        ahead: u64,
        /// How many of those the program has touched.
        ahead_used: u64,
        /// Pages of private memory that the client keeps for bad times.
        reserve: u64,
        /// Pages that Xen did not give.
        populate_failed: u64,
    },
    /// Version 2. The program stands still, as M1 ordered (the answer to `Listen` with [`Status::Freeze`]): the snapshot's instant.
    /// What was written to the client's disks belongs to it. M1 answers [`Status::NoRoom`] where it cannot take so many pages.
    Freeze {
        /// Pages that the client will send with `Capture`, at most.
        pages: u64,
    },
    /// Version 2. M1 is to copy these whole frames of the client's, granted to it for reading, into the snapshot. The answer's
    /// [`Response::captured`] says which page of the frozen part each has become.
    Capture {
        /// Frames, 1 to 16.
        count: u32,
        /// The client's own references; those beyond `count` are zero.
        references: [u32; CAPTURE_MAX],
    },
    /// Version 2. Pages of the snapshot that the client was thawed from, unchanged, belong to the new one too.
    Keep {
        /// First page: a multiple of 512 in the frozen part.
        page: u64,
        /// Which of the 512 pages from there on.
        bitmap: Bitmap,
    },
    /// Version 2. The snapshot is complete: everything that belongs to it was captured or kept.
    Commit {
        /// The page that a clone begins with, one that was captured.
        page: u64,
        /// How long the program stood still, in nanoseconds.
        standstill: u64,
    },
    /// Version 2. The client cannot freeze, or not go on with it: everything captured goes.
    Abort {
        /// Why.
        reason: AbortReason,
    },
    /// Version 2. Pages that the program touched soon after its thaw: the next clones may map them ahead.
    Hot {
        /// First page: a multiple of 512.
        page: u64,
        /// Which of the 512 pages from there on.
        bitmap: Bitmap,
    },
    /// Version 2. The program goes on from a snapshot.
    Thawed {
        /// From the client kernel's first instruction to the program's, in nanoseconds.
        duration: u64,
        /// Of that, from the connection with M1.
        connected: u64,
    },
}

/// Why a client gives up a freeze.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u32)]
pub enum AbortReason {
    /// The program ended.
    Ended = 1,
    /// The program has memory that must not leave it (`memfd_secret`).
    Secret = 2,
    /// The client has no memory for its part.
    Memory = 3,
    /// The program has something that cannot be frozen yet.
    Unsupported = 4,
    /// M1's answer made no sense, or M1 refused a page.
    Refused = 5,
    /// What was written to a disk could not be brought there.
    Disk = 6,
}

/// Outcome of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Status {
    /// Done; for a grant, the run and its bitmap follow, and the bit of the page asked for is set.
    Ok = 0,
    /// No reference to be had (grant table full, quota, or the volume is only copied): ask with `Copy`.
    CopyInstead = 1,
    /// The volume could not be read there: a bus error to the program.
    ReadError = 2,
    /// The page lies beyond the volume's end.
    OutOfRange = 3,
    /// The client's reference could not be written: its own mistake.
    BadReference = 4,
    /// The version or window of a `Hello` does not fit.
    Unsupported = 5,
    /// M1 is going away or the volume is retired.
    Gone = 6,
    /// Answer to `Listen`: drop this run, unmap what is mapped of it, and send `RevokeAck`.
    Revoke = 7,
    /// Version 2. Answer to `Listen`: freeze the program, beginning with `Freeze`.
    Freeze = 8,
    /// Version 2. M1 has no room for the snapshot.
    NoRoom = 9,
}

/// When M1 took a request from the ring and when it answered: nanoseconds of Xen's system time, which all domains share.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Timing {
    /// M1 copied the request out.
    pub received: u64,
    /// M1 wrote the response.
    pub replied: u64,
}

/// M1's answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Response {
    /// The request's `id`.
    pub id: u32,
    /// The outcome.
    pub status: Status,
    /// First page of the run, for a grant; the window that was negotiated, for a hello; else zero.
    pub page: u64,
    /// First reference of the run: page `page + i` has reference `reference + i` where bit `i` is set.
    pub reference: u32,
    /// Pages in the run, at most 512.
    pub count: u32,
    /// When it was served.
    pub timing: Timing,
    /// Which pages of the run can be mapped now.
    pub bitmap: Bitmap,
}

/// Why a slot is no message: the peer's fault, always.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DecodeError {
    /// An operation that this version does not have.
    UnknownOperation(u32),
    /// A status that this version does not have.
    UnknownStatus(u32),
    /// A run of no pages or of more than 512, or one that passes the end of the number space.
    BadRun,
    /// A window that is no power of two from 1 to 512.
    BadWindow,
    /// A page that is not the first of 512, or not in the frozen part where it has to be.
    BadPage,
    /// A reason that this version does not have.
    UnknownReason(u32),
}

impl Request {
    /// Reads a request from a private copy of its slot.
    ///
    /// # Errors
    /// [`DecodeError`] where the words are no request.
    pub fn decode(words: &[u32; SLOT_WORDS]) -> Result<Self, DecodeError> {
        let (page, reference, count) = (wide(words, 2), words[4], words[5]);
        let run = || check_run(reference, count);
        let body = match words[1] {
            HELLO => {
                if !count.is_power_of_two() || count > WINDOW_MAX {
                    return Err(DecodeError::BadWindow);
                }
                RequestBody::Hello { version: reference, window: count }
            }
            GRANT if count == 0 => return Err(DecodeError::BadRun),
            GRANT => RequestBody::Grant { page, wanted: count.min(WINDOW_MAX) },
            COPY => RequestBody::Copy { page, reference },
            RELEASE => {
                run()?;
                RequestBody::Release { reference, count }
            }
            LISTEN => RequestBody::Listen,
            REVOKE_ACK => {
                run()?;
                RequestBody::RevokeAck { reference, count }
            }
            REPORT => RequestBody::Report {
                written: wide(words, 6),
                kernel: wide(words, 8),
                mapped: wide(words, 10),
                local_faults: wide(words, 12),
                cow_breaks: wide(words, 14),
                ahead: wide(words, 16),
                ahead_used: wide(words, 18),
                reserve: wide(words, 20),
                populate_failed: wide(words, 22),
            },
            FREEZE => RequestBody::Freeze { pages: page },
            CAPTURE => {
                if count == 0 || count as usize > CAPTURE_MAX {
                    return Err(DecodeError::BadRun);
                }
                RequestBody::Capture { count, references: core::array::from_fn(|index| words[16 + index]) }
            }
            KEEP | HOT => {
                let aligned = page.is_multiple_of(u64::from(WINDOW_MAX));
                if !aligned || words[1] == KEEP && page < FROZEN_FIRST {
                    return Err(DecodeError::BadPage);
                }
                let bitmap = bitmap(words);
                if words[1] == KEEP {
                    RequestBody::Keep { page, bitmap }
                } else {
                    RequestBody::Hot { page, bitmap }
                }
            }
            COMMIT if page < FROZEN_FIRST => return Err(DecodeError::BadPage),
            COMMIT => RequestBody::Commit { page, standstill: wide(words, 6) },
            ABORT => RequestBody::Abort { reason: abort_reason(count)? },
            THAWED => RequestBody::Thawed { duration: wide(words, 6), connected: wide(words, 8) },
            other => return Err(DecodeError::UnknownOperation(other)),
        };
        Ok(Self { id: words[0], body })
    }

    /// Writes the request into a slot's worth of words.
    #[must_use]
    pub fn encode(&self) -> [u32; SLOT_WORDS] {
        let mut words = [0; SLOT_WORDS];
        words[0] = self.id;
        match self.body {
            RequestBody::Hello { version, window } => {
                (words[1], words[4], words[5]) = (HELLO, version, window);
            }
            RequestBody::Grant { page, wanted } => {
                (words[1], words[5]) = (GRANT, wanted);
                put_wide(&mut words, 2, page);
            }
            RequestBody::Copy { page, reference } => {
                (words[1], words[4]) = (COPY, reference);
                put_wide(&mut words, 2, page);
            }
            RequestBody::Release { reference, count } => {
                (words[1], words[4], words[5]) = (RELEASE, reference, count);
            }
            RequestBody::Listen => words[1] = LISTEN,
            RequestBody::RevokeAck { reference, count } => {
                (words[1], words[4], words[5]) = (REVOKE_ACK, reference, count);
            }
            RequestBody::Report {
                written,
                kernel,
                mapped,
                local_faults,
                cow_breaks,
                ahead,
                ahead_used,
                reserve,
                populate_failed,
            } => {
                words[1] = REPORT;
                let figures = [
                    written,
                    kernel,
                    mapped,
                    local_faults,
                    cow_breaks,
                    ahead,
                    ahead_used,
                    reserve,
                    populate_failed,
                ];
                for (index, value) in figures.into_iter().enumerate() {
                    put_wide(&mut words, 6 + 2 * index, value);
                }
            }
            RequestBody::Freeze { pages } => {
                words[1] = FREEZE;
                put_wide(&mut words, 2, pages);
            }
            RequestBody::Capture { count, references } => {
                (words[1], words[5]) = (CAPTURE, count);
                words[16..].copy_from_slice(&references);
            }
            RequestBody::Keep { page, bitmap } | RequestBody::Hot { page, bitmap } => {
                words[1] = if matches!(self.body, RequestBody::Keep { .. }) { KEEP } else { HOT };
                put_wide(&mut words, 2, page);
                put_bitmap(&mut words, &bitmap);
            }
            RequestBody::Commit { page, standstill } => {
                words[1] = COMMIT;
                put_wide(&mut words, 2, page);
                put_wide(&mut words, 6, standstill);
            }
            RequestBody::Abort { reason } => (words[1], words[5]) = (ABORT, reason as u32),
            RequestBody::Thawed { duration, connected } => {
                words[1] = THAWED;
                put_wide(&mut words, 6, duration);
                put_wide(&mut words, 8, connected);
            }
        }
        words
    }
}

impl Response {
    /// A response that carries nothing but its status.
    #[must_use]
    pub fn bare(id: u32, status: Status) -> Self {
        Self { id, status, page: 0, reference: 0, count: 0, timing: Timing::default(), bitmap: Bitmap::EMPTY }
    }

    /// Reads a response from a private copy of its slot.
    ///
    /// # Errors
    /// [`DecodeError`] where the words are no response.
    pub fn decode(words: &[u32; SLOT_WORDS]) -> Result<Self, DecodeError> {
        let status = match words[1] >> 16 {
            0 => Status::Ok,
            1 => Status::CopyInstead,
            2 => Status::ReadError,
            3 => Status::OutOfRange,
            4 => Status::BadReference,
            5 => Status::Unsupported,
            6 => Status::Gone,
            7 => Status::Revoke,
            8 => Status::Freeze,
            9 => Status::NoRoom,
            other => return Err(DecodeError::UnknownStatus(other)),
        };
        let (reference, count) = (words[4], words[5]);
        if count > 0 {
            check_run(reference, count)?;
        }
        let bitmap = bitmap(words);
        let timing = Timing { received: wide(words, 6), replied: wide(words, 8) };
        Ok(Self { id: words[0], status, page: wide(words, 2), reference, count, timing, bitmap })
    }

    /// Writes the response into a slot's worth of words.
    #[must_use]
    pub fn encode(&self) -> [u32; SLOT_WORDS] {
        let mut words = [0; SLOT_WORDS];
        words[0] = self.id;
        words[1] = u32::from(self.status as u8) << 16;
        put_wide(&mut words, 2, self.page);
        (words[4], words[5]) = (self.reference, self.count);
        put_wide(&mut words, 6, self.timing.received);
        put_wide(&mut words, 8, self.timing.replied);
        put_bitmap(&mut words, &self.bitmap);
        words
    }

    /// Which page of the frozen part each frame of a `Capture` has become.
    #[must_use]
    pub fn captured(&self) -> [u32; CAPTURE_MAX] {
        core::array::from_fn(|index| (self.bitmap.0[index / 2] >> (index % 2 * 32)) as u32)
    }

    /// The answer to a `Capture`.
    #[must_use]
    pub fn with_captured(mut self, pages: &[u32; CAPTURE_MAX]) -> Self {
        for (word, pair) in self.bitmap.0.iter_mut().zip(pages.chunks_exact(2)) {
            *word = u64::from(pair[0]) | u64::from(pair[1]) << 32;
        }
        self
    }
}

fn abort_reason(number: u32) -> Result<AbortReason, DecodeError> {
    let known = [
        AbortReason::Ended,
        AbortReason::Secret,
        AbortReason::Memory,
        AbortReason::Unsupported,
        AbortReason::Refused,
        AbortReason::Disk,
    ];
    known.into_iter().find(|reason| *reason as u32 == number).ok_or(DecodeError::UnknownReason(number))
}

fn bitmap(words: &[u32; SLOT_WORDS]) -> Bitmap {
    Bitmap(core::array::from_fn(|index| wide(words, 16 + 2 * index)))
}

fn put_bitmap(words: &mut [u32; SLOT_WORDS], bitmap: &Bitmap) {
    for (index, word) in bitmap.0.iter().enumerate() {
        put_wide(words, 16 + 2 * index, *word);
    }
}

fn check_run(reference: u32, count: u32) -> Result<(), DecodeError> {
    let fits = (1..=WINDOW_MAX).contains(&count) && reference.checked_add(count).is_some();
    if fits { Ok(()) } else { Err(DecodeError::BadRun) }
}

fn wide(words: &[u32; SLOT_WORDS], index: usize) -> u64 {
    u64::from(words[index]) | u64::from(words[index + 1]) << 32
}

fn put_wide(words: &mut [u32; SLOT_WORDS], index: usize, value: u64) {
    words[index] = value as u32;
    words[index + 1] = (value >> 32) as u32;
}
