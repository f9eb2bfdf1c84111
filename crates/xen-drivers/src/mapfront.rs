//! A client's end of the map ring: requests out, answers in, asleep in between, and never for ever.
//!
//! [`vbdfront`](crate::vbdfront) finds what M1 published, the caller maps the two pages, and [`MapFront::connect`] binds the port and
//! greets. The state machine behind it is `mm-client`'s; this adds the ring, the event channel, the clock, and the judgement of M1.

use mm_client::{AskError, Event, Judgement, MapClient, PageError, ServerFault, Settings, Window};
use mm_proto::{
    CAPTURE_MAX, DecodeError, InfoError, InfoPage, RequestBody, Response, SLOT_WORDS, Status, Timing,
};
use xen::{Clock, Errno, Events, Hypervisor, PageWords, Port, PortState};
use xen_ring::{Front, RingFault};

use crate::vbdfront::Offer;

/// Longest sleep between two looks at M1's health.
const LOOK_NS: u64 = 1_000_000_000;
/// Requests of the state machine's own that one round puts on the ring: more than a ring holds.
const ROUND: usize = 32;

/// M1 is of no use to this device any more. What is mapped stays valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lost {
    /// An impossible index.
    Ring(RingFault),
    /// A slot that is no response.
    Message(DecodeError),
    /// A response that M1 should not have sent.
    Server(ServerFault),
    /// No answer and no heartbeat for as long as the client's patience lasts.
    Silent,
    /// M1 has closed the port, or was destroyed.
    PortClosed,
    /// The info page is not one.
    Info(InfoError),
    /// M1 does not take our version or window.
    Unsupported,
    /// The port cannot be bound.
    Bind(Errno),
}

/// What came of asking for a page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fetched {
    /// There is a reference for it now ([`MapClient::lookup`]).
    Granted,
    /// It has to be copied ([`MapFront::copy`]).
    CopyInstead,
    /// It is not to be had.
    Failed(PageError),
}

/// A connected device.
pub struct MapFront {
    hypervisor: &'static dyn Hypervisor,
    events: Events,
    clock: Clock,
    ring: Front<SLOT_WORDS, SLOT_WORDS>,
    info: &'static PageWords,
    port: Port,
    client: MapClient<'static>,
    revoke: Option<(u64, u32)>,
    freeze_ordered: bool,
    freeze_answer: Option<(Status, [u32; CAPTURE_MAX])>,
    timing: Timing,
    pushed: u64,
    asked: u64,
}

/// What a client needs of its domain.
#[derive(Clone, Copy)]
pub struct ClientPlatform {
    /// Xen.
    pub hypervisor: &'static dyn Hypervisor,
    /// Our event channels.
    pub events: Events,
    /// Time.
    pub clock: Clock,
}

impl MapFront {
    /// Binds M1's port, greets, and waits for the answer. `ring` and `info` are the two pages of `offer`, mapped; `rows` is
    /// the table of windows, at least 32; `window` the largest window in pages; `patience` how long M1 may be silent, in nanoseconds.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn connect(
        platform: ClientPlatform,
        offer: &Offer,
        ring: &'static PageWords,
        info: &'static PageWords,
        rows: &'static mut [Window],
        window: u32,
        patience: u64,
    ) -> Result<Self, Lost> {
        let ClientPlatform { hypervisor, events, clock } = platform;
        let about = read_info(info).map_err(Lost::Info)?;
        let port = hypervisor.evtchn_bind_interdomain(offer.backend, offer.port).map_err(Lost::Bind)?;
        events.unmask(port);
        let frozen = about.snapshot.is_some();
        let settings = Settings { version: about.version(), window, pages: about.pages, frozen, patience };
        let mut front = Self {
            hypervisor,
            events,
            clock,
            ring: Front::attach(ring),
            info,
            port,
            client: MapClient::new(rows, settings),
            revoke: None,
            freeze_ordered: false,
            freeze_answer: None,
            timing: Timing::default(),
            pushed: 0,
            asked: 0,
        };
        loop {
            match front.turn()? {
                Some(Event::Ready { .. }) => return Ok(front),
                Some(Event::Unsupported) => return Err(Lost::Unsupported),
                Some(_) => {}
                None => front.wait()?,
            }
        }
    }

    /// What M1 says about itself and the volume.
    ///
    /// # Errors
    /// [`Lost::Info`].
    pub fn info(&self) -> Result<InfoPage, Lost> {
        read_info(self.info).map_err(Lost::Info)
    }

    /// The state machine: what is held, what is mapped.
    pub fn client(&mut self) -> &mut MapClient<'static> {
        &mut self.client
    }

    /// Our end of the event channel.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// Requests for pages so far: each went through the event channel.
    #[must_use]
    pub fn asked(&self) -> u64 {
        self.asked
    }

    /// When the last request for a page was pushed, and when M1 took and answered it, by Xen's system time.
    #[must_use]
    pub fn last_trip(&self) -> (u64, Timing) {
        (self.pushed, self.timing)
    }

    /// Gets references for `page`, and sleeps until they are here.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn fetch(&mut self, page: u64, wanted: u32) -> Result<Fetched, Lost> {
        loop {
            let now = self.clock.now_ns();
            match self.client.ask(page, wanted, now) {
                Ok(request) => {
                    self.push(&request.encode())?;
                    self.asked += 1;
                    self.pushed = now;
                    break;
                }
                Err(AskError::OutOfRange) => return Ok(Fetched::Failed(PageError::OutOfRange)),
                Err(AskError::Asked) => break,
                // The state machine gives a window back if one is idle; if all are mapped, a copy is left.
                Err(AskError::TableFull) => {
                    let before = self.client.windows();
                    let _ = self.turn()?;
                    if self.client.windows() >= before {
                        return Ok(Fetched::CopyInstead);
                    }
                }
                Err(AskError::RingFull | AskError::NotReady) => {
                    if self.turn()?.is_none() {
                        self.wait()?;
                    }
                }
            }
        }
        loop {
            match self.turn()? {
                Some(Event::Granted { page: granted }) if granted == page => return Ok(Fetched::Granted),
                Some(Event::CopyInstead { page: refused }) if refused == page => {
                    return Ok(Fetched::CopyInstead);
                }
                Some(Event::Failed { page: failed, error }) if failed == page => {
                    return Ok(Fetched::Failed(error));
                }
                Some(_) => {}
                None => self.wait()?,
            }
        }
    }

    /// Has `page` copied into the frame that the caller granted to M1 as `reference`. The caller takes its grant back.
    ///
    /// # Errors
    /// [`Lost`]: the frame may still be written to; take the grant back, and if that fails do not use the frame again.
    pub fn copy(&mut self, page: u64, reference: u32) -> Result<Result<(), PageError>, Lost> {
        loop {
            let now = self.clock.now_ns();
            match self.client.copy(page, reference, now) {
                Ok(request) => {
                    self.push(&request.encode())?;
                    self.asked += 1;
                    self.pushed = now;
                    break;
                }
                Err(AskError::OutOfRange) => return Ok(Err(PageError::OutOfRange)),
                Err(_) => {
                    if self.turn()?.is_none() {
                        self.wait()?;
                    }
                }
            }
        }
        loop {
            match self.turn()? {
                Some(Event::Copied { page: copied, .. }) if copied == page => return Ok(Ok(())),
                Some(Event::Failed { page: failed, error }) if failed == page => return Ok(Err(error)),
                Some(_) => {}
                None => self.wait()?,
            }
        }
    }

    /// The run that M1 wants back, as first page and pages: unmap what is mapped of it, then call [`MapClient::revoked`] and
    /// [`Self::service`].
    pub fn take_revoke(&mut self) -> Option<(u64, u32)> {
        self.revoke.take()
    }

    /// Whether M1 has ordered a freeze since this was last asked. Every order is answered by a [`RequestBody::Freeze`] or a
    /// [`RequestBody::Abort`].
    pub fn take_freeze_order(&mut self) -> bool {
        core::mem::take(&mut self.freeze_ordered)
    }

    /// Sends a step of a freeze, and does not wait for its answer. One at a time.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn send_freeze(&mut self, body: RequestBody) -> Result<(), Lost> {
        loop {
            let now = self.clock.now_ns();
            match self.client.freeze_step(body, now) {
                Ok(request) => {
                    self.freeze_answer = None;
                    self.push(&request.encode())?;
                    // Out it goes, and what has come is taken.
                    return self.turn().map(drop);
                }
                Err(_) => {
                    if self.turn()?.is_none() {
                        self.wait()?;
                    }
                }
            }
        }
    }

    /// The answer to the last step, if it has come: look after [`Self::service`].
    pub fn take_freeze_answer(&mut self) -> Option<(Status, [u32; CAPTURE_MAX])> {
        self.freeze_answer.take()
    }

    /// Waits for the answer to the last step.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn await_freeze_answer(&mut self) -> Result<(Status, [u32; CAPTURE_MAX]), Lost> {
        loop {
            if let Some(answer) = self.freeze_answer.take() {
                return Ok(answer);
            }
            if self.turn()?.is_none() {
                self.wait()?;
            }
        }
    }

    /// Tells M1 something that needs no answer, if there is room on the ring.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn notice(&mut self, body: RequestBody) -> Result<(), Lost> {
        let now = self.clock.now_ns();
        if let Some(request) = self.client.notice(body, now) {
            self.push(&request.encode())?;
            self.turn()?;
        }
        Ok(())
    }

    /// Does what is to be done without waiting: sends what the state machine has, takes what M1 has said.
    ///
    /// # Errors
    /// [`Lost`].
    pub fn service(&mut self) -> Result<(), Lost> {
        for _ in 0..ROUND {
            if self.turn()?.is_none() {
                break;
            }
        }
        Ok(())
    }

    /// Asks for an event at M1's next message. `true`: there is one already.
    #[must_use = "sleeping without looking loses an event"]
    pub fn look_again(&mut self) -> bool {
        self.ring.final_check()
    }

    /// Sends what is to be sent; the next answer, if one is here.
    fn turn(&mut self) -> Result<Option<Event>, Lost> {
        let now = self.clock.now_ns();
        for _ in 0..ROUND {
            let Some(request) = self.client.next_request(now) else { break };
            self.push(&request.encode())?;
        }
        if self.ring.publish() {
            // A port that nobody hears is found out by `wait`.
            let _ = self.hypervisor.evtchn_send(self.port);
        }
        let Some(words) = self.ring.pop_response().map_err(Lost::Ring)? else { return Ok(None) };
        let response = Response::decode(&words).map_err(Lost::Message)?;
        let event = self.client.on_response(&response).map_err(Lost::Server)?;
        match event {
            Event::Revoke { page, count, .. } => self.revoke = Some((page, count)),
            Event::FreezeOrdered => self.freeze_ordered = true,
            Event::FreezeAnswered { status, pages } => self.freeze_answer = Some((status, pages)),
            Event::Granted { .. }
            | Event::Copied { .. }
            | Event::CopyInstead { .. }
            | Event::Failed { .. } => {
                self.timing = response.timing;
            }
            _ => {}
        }
        Ok(Some(event))
    }

    fn push(&mut self, words: &[u32; SLOT_WORDS]) -> Result<(), Lost> {
        // The state machine never has more outstanding than the ring has slots.
        self.ring.push_request(words).map_err(|xen_ring::Full| Lost::Server(ServerFault::NoRow))
    }

    /// Sleeps until M1's event, for a second at most, and judges M1.
    fn wait(&mut self) -> Result<(), Lost> {
        if self.ring.final_check() {
            return Ok(());
        }
        let until = self.clock.now_ns().saturating_add(LOOK_NS);
        let _ = self.hypervisor.sched_poll(&[self.port], Some(until));
        self.events.clear(self.port);
        let now = self.clock.now_ns();
        let heartbeat = u64::from(self.info.load(InfoPage::HEARTBEAT_WORD));
        let silent = self.client.judge(now, heartbeat) == Judgement::Silent;
        if now < until && !silent {
            return Ok(());
        }
        match self.hypervisor.evtchn_status(self.port) {
            Ok(PortState::Interdomain { .. }) if !silent => Ok(()),
            Ok(PortState::Interdomain { .. }) => Err(Lost::Silent),
            _ if self.ring.final_check() => Ok(()),
            _ => Err(Lost::PortClosed),
        }
    }
}

fn read_info(page: &PageWords) -> Result<InfoPage, InfoError> {
    let words: [u32; InfoPage::WORDS] = core::array::from_fn(|index| page.load(index));
    InfoPage::decode(&words)
}
