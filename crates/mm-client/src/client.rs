//! The state machine.

use mm_proto::{FROZEN_FIRST, RING_SLOTS, Request, RequestBody, Response, Status, WINDOW_MAX};

use crate::health::{Judgement, Pulse};
use crate::held::{Held, Lookup, Window};
use crate::outstanding::{Asked, Outstanding};
use crate::words::{AskError, Event, OwnFigures, PageError, Retry, ServerFault, Settings};

/// Slots that faults leave to the rest: the posted `Listen`, an acknowledgement, and a release or report.
const KEPT_SLOTS: usize = 3;
/// Rows of the table that are kept free: one for each answer that may come.
const KEPT_ROWS: u32 = RING_SLOTS;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    New,
    Greeted,
    Ready,
    Refused,
}

/// A revocation.
#[derive(Clone, Copy, Debug)]
struct Revocation {
    page: u64,
    reference: u32,
    count: u32,
    /// The client has unmapped it.
    done: bool,
}

/// See the crate's documentation.
pub struct MapClient<'a> {
    held: Held<'a>,
    outstanding: Outstanding,
    settings: Settings,
    state: State,
    revocation: Option<Revocation>,
    report: Option<OwnFigures>,
    /// Windows to give back although there is room.
    surplus: u32,
    pulse: Pulse,
}

impl<'a> MapClient<'a> {
    /// A client for a new ring, which can hold as many windows as there are rows, less 16.
    #[must_use]
    pub fn new(rows: &'a mut [Window], settings: Settings) -> Self {
        let window = settings.window.clamp(1, WINDOW_MAX);
        Self {
            held: Held::new(rows),
            outstanding: Outstanding::new(),
            settings: Settings { window: 1 << window.ilog2(), ..settings },
            state: State::New,
            revocation: None,
            report: None,
            surplus: 0,
            pulse: Pulse::default(),
        }
    }

    /// Whether the page can be mapped without asking.
    #[must_use]
    pub fn lookup(&self, page: u64) -> Lookup {
        let held = self.held.find(page).map(|row| self.held.row(row));
        held.and_then(|window| reference(window, page)).map_or(Lookup::Missing, Lookup::Have)
    }

    /// What else can be mapped of the aligned block of `most` pages (rounded up to a power of two) around the page: page and
    /// reference, those after the page first.
    pub fn neighbours(&self, page: u64, most: u32) -> impl Iterator<Item = (u64, u32)> + '_ {
        let size = u64::from(most.clamp(1, WINDOW_MAX).next_power_of_two());
        let first = page & !(size - 1);
        let pages = if page < FROZEN_FIRST { self.settings.pages } else { u64::MAX };
        let end = first.saturating_add(size).min(pages);
        let mut window: Option<&Window> = None;
        (page.saturating_add(1)..end).chain(first..page).filter_map(move |page| {
            if window.is_none_or(|window| window.offset(page).is_none()) {
                window = self.held.find(page).map(|row| self.held.row(row));
            }
            Some((page, reference(window?, page)?))
        })
    }

    /// The request for references to the page; `wanted` is how many pages from there on would be used. Put it on the ring.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn ask(&mut self, page: u64, wanted: u32, now: u64) -> Result<Request, AskError> {
        self.may_ask(page)?;
        if self.outstanding.iter().any(|asked| asked == Asked::Grant { page }) {
            return Err(AskError::Asked);
        }
        // A row must be left for this answer and for all that are still to come.
        let grants = self.outstanding.iter().filter(|asked| matches!(asked, Asked::Grant { .. })).count();
        let promised = u32::try_from(grants).unwrap_or(RING_SLOTS);
        if self.held.find(page).is_none() && self.held.used() + promised >= self.held.capacity() {
            return Err(AskError::TableFull);
        }
        let body = RequestBody::Grant { page, wanted: wanted.max(1) };
        self.begin(Asked::Grant { page }, body, now).ok_or(AskError::RingFull)
    }

    /// The request to copy the page into the whole frame that the client has granted to M1's domain for writing, under its
    /// own `reference`. Put it on the ring.
    ///
    /// # Errors
    /// [`AskError`].
    pub fn copy(&mut self, page: u64, reference: u32, now: u64) -> Result<Request, AskError> {
        self.may_ask(page)?;
        let body = RequestBody::Copy { page, reference };
        self.begin(Asked::Copy { page, reference }, body, now).ok_or(AskError::RingFull)
    }

    fn may_ask(&self, page: u64) -> Result<(), AskError> {
        if self.state != State::Ready {
            return Err(AskError::NotReady);
        }
        // Which pages of the frozen part there are only M1 knows.
        let frozen = self.settings.frozen && (FROZEN_FIRST..FROZEN_FIRST * 2).contains(&page);
        if page >= self.settings.pages && !frozen {
            return Err(AskError::OutOfRange);
        }
        if self.outstanding.free() <= KEPT_SLOTS {
            return Err(AskError::RingFull);
        }
        Ok(())
    }

    /// The request for the next step of a freeze, which M1 has ordered. Put it on the ring; its answer is
    /// [`Event::FreezeAnswered`]. Only one step is under way at a time.
    ///
    /// # Errors
    /// [`AskError::RingFull`]: wait for a response. [`AskError::Asked`]: the step before was not answered yet.
    pub fn freeze_step(&mut self, body: RequestBody, now: u64) -> Result<Request, AskError> {
        if self.state != State::Ready {
            return Err(AskError::NotReady);
        }
        if self.outstanding.iter().any(|asked| asked == Asked::Freeze) {
            return Err(AskError::Asked);
        }
        if self.outstanding.free() <= KEPT_SLOTS {
            return Err(AskError::RingFull);
        }
        self.begin(Asked::Freeze, body, now).ok_or(AskError::RingFull)
    }

    /// A request whose answer says nothing ([`RequestBody::Hot`], [`RequestBody::Thawed`]). `None` where there is no room for
    /// it: it is not worth waiting for.
    pub fn notice(&mut self, body: RequestBody, now: u64) -> Option<Request> {
        if self.state != State::Ready || self.outstanding.free() <= KEPT_SLOTS {
            return None;
        }
        self.begin(Asked::Notice, body, now)
    }

    fn begin(&mut self, asked: Asked, body: RequestBody, now: u64) -> Option<Request> {
        Some(Request { id: self.outstanding.begin(asked, now)?, body })
    }

    /// What else is to be put on the ring. Call it until it has nothing, whenever the ring is looked at, and at the start.
    pub fn next_request(&mut self, now: u64) -> Option<Request> {
        match self.state {
            State::New => {
                let Settings { version, window, .. } = self.settings;
                self.state = State::Greeted;
                return self.begin(Asked::Hello, RequestBody::Hello { version, window }, now);
            }
            State::Greeted | State::Refused => return None,
            State::Ready => {}
        }
        if self.outstanding.free() == 0 {
            return None;
        }
        if let Some(Revocation { reference, count, done: true, .. }) = self.revocation {
            self.revocation = None;
            return self.begin(Asked::Notice, RequestBody::RevokeAck { reference, count }, now);
        }
        if self.revocation.is_none() && !self.outstanding.iter().any(|asked| asked == Asked::Listen) {
            return self.begin(Asked::Listen, RequestBody::Listen, now);
        }
        // Two are left for the acknowledgement and the next Listen.
        if self.outstanding.free() < KEPT_SLOTS {
            return None;
        }
        if self.surplus > 0 || self.held.used().saturating_add(KEPT_ROWS) > self.held.capacity() {
            self.surplus = self.surplus.saturating_sub(1);
            if let Some(row) = self.oldest_idle() {
                let Window { reference, .. } = *self.held.row(row);
                let count = self.held.row(row).count();
                self.held.remove(row);
                return self.begin(Asked::Notice, RequestBody::Release { reference, count }, now);
            }
        }
        let figures = self.report.take()?;
        let body = RequestBody::Report {
            written: figures.written,
            kernel: figures.kernel,
            mapped: figures.mapped,
            local_faults: figures.local_faults,
            cow_breaks: figures.cow_breaks,
            ahead: figures.ahead,
            ahead_used: figures.ahead_used,
            reserve: figures.reserve,
            populate_failed: figures.populate_failed,
        };
        self.begin(Asked::Notice, body, now)
    }

    /// The oldest window of which nothing is mapped or asked for: M1 can still answer such a request with this very
    /// window, and must not have got it back by then.
    fn oldest_idle(&self) -> Option<u32> {
        self.held.by_age().find(|row| {
            let window = self.held.row(*row);
            let asked = |asked| matches!(asked, Asked::Grant { page } if window.offset(page).is_some());
            window.mapped == 0 && !self.outstanding.iter().any(asked)
        })
    }

    /// Gives back up to `windows` windows that are not mapped, the oldest first: [`Self::next_request`] has the releases.
    pub fn give_back(&mut self, windows: u32) {
        self.surplus = windows.min(self.held.used());
    }

    /// Figures to report with the next requests. Only the last ones are sent.
    pub fn report(&mut self, figures: OwnFigures) {
        self.report = Some(figures);
    }

    /// The page's reference was mapped, in one more place.
    pub fn mapped(&mut self, page: u64) {
        if let Some(row) = self.held.find(page) {
            let window = self.held.row_mut(row);
            window.mapped = window.mapped.saturating_add(1);
            window.failed = false;
            self.held.touch(row);
        }
    }

    /// The page's reference was unmapped, in one place.
    pub fn unmapped(&mut self, page: u64) {
        if let Some(row) = self.held.find(page) {
            let window = self.held.row_mut(row);
            window.mapped = window.mapped.saturating_sub(1);
        }
    }

    /// The page's reference could not be mapped: its whole run is no longer taken for held, although what is mapped of it
    /// stays good.
    pub fn map_failed(&mut self, page: u64) -> Retry {
        let Some(row) = self.held.find(page) else { return Retry::Ask };
        let window = self.held.row_mut(row);
        window.held = mm_proto::Bitmap::EMPTY;
        if core::mem::replace(&mut window.failed, true) { Retry::Copy } else { Retry::Ask }
    }

    /// Everything that [`Event::Revoke`] named is unmapped.
    pub fn revoked(&mut self) {
        let Some(revocation) = &mut self.revocation else { return };
        revocation.done = true;
        let Revocation { page, reference, .. } = *revocation;
        if let Some(row) = self.held.find(page).filter(|row| self.held.row(*row).reference == reference) {
            self.held.remove(row);
        }
    }

    /// Takes a response that was copied from the ring.
    ///
    /// # Errors
    /// [`ServerFault`]: give up the ring.
    pub fn on_response(&mut self, response: &Response) -> Result<Event, ServerFault> {
        let asked = self.outstanding.end(response.id).ok_or(ServerFault::UnknownId(response.id))?;
        let status = response.status;
        let wrong = Err(ServerFault::WrongStatus(status));
        match asked {
            Asked::Hello => match status {
                Status::Ok => {
                    let window = u32::try_from(response.page).unwrap_or(0);
                    if !window.is_power_of_two() || window > self.settings.window {
                        return Err(ServerFault::BadRun);
                    }
                    self.state = State::Ready;
                    Ok(Event::Ready { window })
                }
                Status::Unsupported => {
                    self.state = State::Refused;
                    Ok(Event::Unsupported)
                }
                _ => wrong,
            },
            Asked::Grant { page } => match status {
                Status::Ok => self.granted(page, response),
                Status::CopyInstead => Ok(Event::CopyInstead { page }),
                Status::BadReference => wrong,
                other => failed(page, other),
            },
            Asked::Copy { page, reference } => match status {
                Status::Ok => Ok(Event::Copied { page, reference }),
                other => failed(page, other),
            },
            Asked::Listen => match status {
                Status::Revoke => self.revoke(response),
                Status::Freeze if self.settings.version >= 2 => Ok(Event::FreezeOrdered),
                Status::Gone => Ok(Event::Nothing),
                _ => wrong,
            },
            Asked::Freeze => match status {
                Status::Ok | Status::NoRoom | Status::BadReference | Status::Gone => {
                    Ok(Event::FreezeAnswered { status, pages: response.captured() })
                }
                _ => wrong,
            },
            Asked::Notice => match status {
                Status::Ok | Status::Gone => Ok(Event::Nothing),
                _ => wrong,
            },
        }
    }

    fn granted(&mut self, page: u64, response: &Response) -> Result<Event, ServerFault> {
        let (first, order) = window(response)?;
        let asked = page.checked_sub(first).and_then(|offset| u32::try_from(offset).ok());
        if !asked.is_some_and(|offset| offset < response.count && response.bitmap.get(offset)) {
            return Err(ServerFault::BadRun);
        }
        match self.held.find(first) {
            Some(row) => {
                let window = self.held.row_mut(row);
                if (window.page, window.order, window.reference) != (first, order, response.reference) {
                    return Err(ServerFault::BadRun);
                }
                window.held = response.bitmap;
                self.held.touch(row);
            }
            None if self.held.overlaps(first, order) => return Err(ServerFault::BadRun),
            None => {
                let row = self.held.insert(first, response.reference, order, response.bitmap);
                row.ok_or(ServerFault::NoRow)?;
            }
        }
        Ok(Event::Granted { page })
    }

    fn revoke(&mut self, response: &Response) -> Result<Event, ServerFault> {
        let (page, _) = window(response)?;
        let (reference, count) = (response.reference, response.count);
        let row = self.held.find(page).filter(|row| self.held.row(*row).reference == reference);
        // One that was released in the meantime is acknowledged all the same: M1 waits for that.
        self.revocation = Some(Revocation { page, reference, count, done: row.is_none() });
        let Some(row) = row else { return Ok(Event::Nothing) };
        if self.held.row(row).count() != count {
            return Err(ServerFault::BadRun);
        }
        // Nothing of it may be mapped from now on.
        self.held.row_mut(row).held = mm_proto::Bitmap::EMPTY;
        Ok(Event::Revoke { page, reference, count })
    }

    /// Whether M1 is alive. `heartbeat` is what the info page says now; see [`Judgement`].
    pub fn judge(&mut self, now: u64, heartbeat: u64) -> Judgement {
        self.pulse.judge(now, heartbeat, self.outstanding.oldest(), self.settings.patience)
    }

    /// Windows that are held.
    #[must_use]
    pub fn windows(&self) -> u32 {
        self.held.used()
    }

    /// Whether pages may be asked for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }
}

fn reference(window: &Window, page: u64) -> Option<u32> {
    let offset = window.offset(page)?;
    window.held.get(offset).then(|| window.reference.saturating_add(offset))
}

fn failed(page: u64, status: Status) -> Result<Event, ServerFault> {
    let error = match status {
        Status::ReadError => PageError::Read,
        Status::OutOfRange => PageError::OutOfRange,
        Status::BadReference => PageError::BadReference,
        Status::Gone => PageError::Gone,
        Status::Ok
        | Status::CopyInstead
        | Status::Unsupported
        | Status::Revoke
        | Status::Freeze
        | Status::NoRoom => {
            return Err(ServerFault::WrongStatus(status));
        }
    };
    Ok(Event::Failed { page, error })
}

/// First page and order of a run that is a window.
fn window(response: &Response) -> Result<(u64, u8), ServerFault> {
    let count = response.count;
    let aligned =
        count.is_power_of_two() && count <= WINDOW_MAX && response.page.is_multiple_of(u64::from(count));
    let order = if aligned { u8::try_from(count.ilog2()).ok() } else { None };
    order.map(|order| (response.page, order)).ok_or(ServerFault::BadRun)
}
