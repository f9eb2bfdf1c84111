//! The last requests of each device, for the one who wonders what a client waits for: `m1ctl trace`.
//!
//! A record is 16 bytes, so the last 256 of a device are one page. Written when an answer goes out, read by the control channel; no
//! part of it decides anything.

use mm_proto::{RING_SLOTS, Request, RequestBody, Response, SLOT_WORDS, Status, operation_name, status_name};

/// Records of one device, at most.
pub(crate) const RECORDS: usize = 256;
/// Answers to these say little, and come so often that they would push out the rest.
const QUIET: [&str; 3] = ["release", "revoke_ack", "report"];

/// A request that was answered.
#[derive(Clone, Copy, Default)]
pub(crate) struct Record {
    /// Microseconds of Xen's system time (48 bits), operation (8), status (8).
    packed: u64,
    took_ns: u32,
    page: u32,
}

/// The same in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    pub(crate) operation: &'static str,
    pub(crate) status: &'static str,
    /// First page that it was about.
    pub(crate) page: u32,
    /// When M1 took it, in microseconds of Xen's system time.
    pub(crate) received_us: u64,
    /// From then to the answer, in nanoseconds; 2³² − 1 and more look the same.
    pub(crate) took_ns: u32,
}

/// A request that is not answered yet.
#[derive(Clone, Copy, Default)]
struct Asked {
    id: u32,
    page: u32,
    /// 0: none.
    operation: u8,
}

/// What is known of one device.
#[derive(Clone, Copy, Default)]
pub(crate) struct Row {
    asked: [Asked; RING_SLOTS as usize],
    /// Records written since the device came.
    written: u64,
    thaw: Option<Thaw>,
}

/// What a client said of its thaw (`Thawed`), in nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Thaw {
    /// From the client kernel's first instruction to the program's.
    pub(crate) duration: u64,
    /// Of that, from the connection with M1.
    pub(crate) connected: u64,
}

/// All devices' records.
pub(crate) struct Trace {
    rows: &'static mut [Row],
    /// The same number for each row.
    records: &'static mut [Record],
}

impl Trace {
    /// `records` are shared out evenly among the rows.
    pub(crate) fn new(rows: &'static mut [Row], records: &'static mut [Record]) -> Self {
        Self { rows, records }
    }

    fn each(&self) -> usize {
        self.records.len() / self.rows.len().max(1)
    }

    /// A new device has this place.
    pub(crate) fn clear(&mut self, index: usize) {
        if let Some(row) = self.rows.get_mut(index) {
            *row = Row::default();
        }
    }

    /// A request was taken from the device's ring.
    pub(crate) fn took(&mut self, index: usize, words: &[u32; SLOT_WORDS]) {
        let Some(row) = self.rows.get_mut(index) else { return };
        // What is no operation closes the ring; more than sixteen outstanding do as well.
        let (Some(place), Ok(operation)) =
            (row.asked.iter_mut().find(|asked| asked.operation == 0), u8::try_from(words[1]))
        else {
            return;
        };
        *place = Asked { id: words[0], page: words[2], operation };
        if operation_name(words[1]) == Some("thawed")
            && let Ok(Request { body: RequestBody::Thawed { duration, connected }, .. }) =
                Request::decode(words)
        {
            row.thaw = Some(Thaw { duration, connected });
        }
    }

    /// A request was answered.
    pub(crate) fn replied(&mut self, index: usize, response: &Response) {
        let each = self.each();
        let Some(row) = self.rows.get_mut(index) else { return };
        let found = row.asked.iter_mut().find(|asked| asked.operation != 0 && asked.id == response.id);
        let Some(asked) = found.map(core::mem::take) else { return };
        let quiet = operation_name(u32::from(asked.operation)).is_none_or(|name| QUIET.contains(&name));
        if each == 0 || (quiet && response.status == Status::Ok) {
            return;
        }
        let took = response.timing.replied.saturating_sub(response.timing.received);
        let micros = (response.timing.received / 1000) & ((1 << 48) - 1);
        // What M1 says of its own accord is about the page in the answer.
        let unasked = matches!(response.status, Status::Revoke | Status::Freeze);
        let page = if unasked { u32::try_from(response.page).unwrap_or(u32::MAX) } else { asked.page };
        let record = Record {
            packed: micros << 16 | u64::from(asked.operation) << 8 | response.status as u64,
            took_ns: u32::try_from(took).unwrap_or(u32::MAX),
            page,
        };
        let at = usize::try_from(row.written % each as u64).unwrap_or(0);
        row.written += 1;
        if let Some(place) = self.records.get_mut(index * each + at) {
            *place = record;
        }
    }

    /// What is known of a device, oldest first.
    pub(crate) fn of(&self, index: usize) -> impl Iterator<Item = Entry> {
        let each = self.each();
        let written = self.rows.get(index).map_or(0, |row| row.written);
        let first = written.saturating_sub(each as u64);
        (first..written).filter_map(move |number| {
            let at = usize::try_from(number % each as u64).ok()?;
            self.records.get(index * each + at).map(Record::entry)
        })
    }

    /// What the device's client said of its thaw, if it has gone on from a snapshot.
    pub(crate) fn thaw(&self, index: usize) -> Option<Thaw> {
        self.rows.get(index)?.thaw
    }

    /// Requests that were answered since the device came, those forgotten among them.
    pub(crate) fn written(&self, index: usize) -> u64 {
        self.rows.get(index).map_or(0, |row| row.written)
    }
}

impl Record {
    fn entry(&self) -> Entry {
        let [status, operation, ..] = self.packed.to_le_bytes();
        const STATUSES: [Status; 10] = [
            Status::Ok,
            Status::CopyInstead,
            Status::ReadError,
            Status::OutOfRange,
            Status::BadReference,
            Status::Unsupported,
            Status::Gone,
            Status::Revoke,
            Status::Freeze,
            Status::NoRoom,
        ];
        let status = STATUSES.into_iter().find(|known| *known as u8 == status);
        Entry {
            operation: operation_name(u32::from(operation)).unwrap_or("unknown"),
            status: status.map_or("unknown", status_name),
            page: self.page,
            received_us: self.packed >> 16,
            took_ns: self.took_ns,
        }
    }
}
