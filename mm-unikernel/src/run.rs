//! What the unikernel does, from boot to shutdown.

use core::fmt::Write;

use mm_client::{Lookup, OwnFigures, Window};
use xen::grant::{PermitError, RefPool};
use xen::{Access, DomId, GrantRef, PageWords, ShutdownReason};
use xen_drivers::mapfront::{ClientPlatform, Fetched, Lost, MapFront};
use xen_drivers::vbdfront;
use xen_rt::Boot;
use xen_rt::foreign::{ForeignPage, ForeignWindow};
use xenstore::{Blocking, Connection, Pause, Transaction};

use crate::{Digest, Options, hostile};

/// Windows that are held at most.
const WINDOWS: usize = 1024;
/// Patience with xenstored and with M1's handshake.
const XENSTORE_NS: u64 = 20_000_000_000;

/// References of our own: for pages that are copied to us.
static REFS: RefPool = RefPool::new();

/// Runs.
pub fn run(boot: Boot) -> ! {
    let reason = match Unikernel::start(boot) {
        Ok(Some(mut unikernel)) => unikernel.work(),
        Ok(None) => ShutdownReason::Poweroff,
        Err(what) => {
            log::error!("mm-unikernel: {what}");
            ShutdownReason::Crash
        }
    };
    xen_rt::shutdown(reason)
}

struct Unikernel {
    boot: Boot,
    options: Options,
    xenstore: Connection,
    link: MapFront,
    owner: DomId,
    pages: u64,
    foreign: ForeignWindow,
    /// What is mapped: page and mapping, by its place.
    mapped: &'static mut [Option<(u64, ForeignPage)>],
    next: usize,
    /// A page of our own, for copies.
    own: &'static PageWords,
    own_reference: GrantRef,
    copied: u64,
    mapped_now: u64,
    retries: u64,
}

/// What is said when something is missing.
type What = heapless::String<96>;

fn say(text: core::fmt::Arguments<'_>) -> What {
    let mut what = What::new();
    // Cut where it does not fit.
    let _ = core::fmt::Write::write_fmt(&mut what, text);
    what
}

impl Unikernel {
    /// Nothing, where all was done that the options want.
    fn start(mut boot: Boot) -> Result<Option<Self>, What> {
        let options =
            Options::parse(boot.cmdline).map_err(|word| say(format_args!("option '{word}' is wrong")))?;
        let page = boot.xenstore.ok_or_else(|| say(format_args!("no xenstore")))?;
        boot.events.unmask(page.port);
        let mut xenstore = Connection::new(page.page);
        let memory = &mut boot.memory;
        let room = || say(format_args!("no memory"));
        let places = options.mapped as usize;
        let mut foreign =
            ForeignWindow::new(places + 8, memory).map_err(|error| say(format_args!("{error:?}")))?;
        let rows = memory.slice(WINDOWS, Window::default()).ok_or_else(room)?;
        let mapped = memory.slice_with(places, |_| None).ok_or_else(room)?;
        let own = memory.page().ok_or_else(room)?;
        let own_reference = REFS.reserve().ok_or_else(room)?;

        if options.forge != 0 {
            let (own, m1) = (boot.domid, DomId(options.forge));
            with_calls(&boot, &mut xenstore, |calls| hostile::forge(calls, own, options.device, m1))
                .map_err(|error| say(format_args!("device {}: {error}", options.device)))?;
            log::info!("mm-unikernel: {}", hostile::guess(&boot, &mut foreign, m1));
            return Ok(None);
        }
        let offer = with_calls(&boot, &mut xenstore, |calls| vbdfront::offer(calls, options.device))
            .map_err(|error| say(format_args!("device {}: {error}", options.device)))?;
        let map = |foreign: &mut ForeignWindow, reference, access| {
            foreign
                .map_static(offer.backend, reference, access)
                .map_err(|status| say(format_args!("{status:?}")))
        };
        let ring = map(&mut foreign, offer.map_ring, Access::ReadWrite)?;
        let info = map(&mut foreign, offer.info_page, Access::ReadOnly)?;
        with_calls(&boot, &mut xenstore, |calls| vbdfront::connect(calls, &offer))
            .map_err(|error| say(format_args!("device {}: {error}", options.device)))?;
        let platform = ClientPlatform { hypervisor: boot.hypervisor, events: boot.events, clock: boot.clock };
        let patience = options.patience_ms.saturating_mul(1_000_000);
        let link =
            MapFront::connect(platform, &offer, ring.words(), info.words(), rows, options.window, patience)
                .map_err(|lost| say(format_args!("M1: {lost:?}")))?;
        let about = link.info().map_err(|lost| say(format_args!("M1: {lost:?}")))?;
        log::info!("mm-unikernel: a volume of {} pages, window {}", about.pages, about.window);
        let owner = offer.backend;
        if options.hostile != 0 {
            log::info!("mm-unikernel: {}", hostile::guess(&boot, &mut foreign, owner));
            hostile::break_rules(&boot, &link, ring.words(), options.hostile);
            let ended = with_calls(&boot, &mut xenstore, |calls| hostile::wait_closed(calls, &offer));
            log::info!("mm-unikernel: M1 says {ended:?} to hostile={}", options.hostile);
            return Ok(None);
        }
        // The two pages stay mapped as long as we run.
        let (_, _) = (ring, info);
        Ok(Some(Self {
            boot,
            options,
            xenstore,
            link,
            owner,
            pages: about.pages,
            foreign,
            mapped,
            next: 0,
            own,
            own_reference,
            copied: 0,
            mapped_now: 0,
            retries: 0,
        }))
    }

    fn work(&mut self) -> ShutdownReason {
        let mut reason = ShutdownReason::Poweroff;
        let mut last = None;
        for round in 0..self.options.rounds {
            let started = self.boot.clock.now_ns();
            match self.digest() {
                Ok((digest, pages)) => {
                    log::info!(
                        "mm-unikernel: round={round} pages={pages} digest={:016x} ns={} asked={} copied={} retries={} R={}",
                        digest.value(),
                        self.boot.clock.now_ns() - started,
                        self.link.asked(),
                        self.copied,
                        self.retries,
                        self.mapped_now
                    );
                    last = Some(digest);
                }
                Err(stop) => {
                    log::error!("mm-unikernel: round={round} {stop:?}");
                    reason = ShutdownReason::Crash;
                    break;
                }
            }
        }
        if reason == ShutdownReason::Poweroff && self.options.write > 0 {
            match self.write() {
                Ok(changed) => {
                    log::info!("mm-unikernel: wrote {changed} pages of its own, M1's are as before")
                }
                Err(stop) => {
                    log::error!("mm-unikernel: write {stop:?}");
                    reason = ShutdownReason::Crash;
                }
            }
        }
        self.report();
        if let Some(digest) = last {
            self.publish(digest);
        }
        let asked_for = with_calls(&self.boot, &mut self.xenstore, |calls| {
            calls.write(
                Transaction::NONE,
                "data/result",
                if reason == ShutdownReason::Poweroff { b"ok" } else { b"failed" },
            )
        });
        if let Err(error) = asked_for {
            log::warn!("mm-unikernel: data/result: {error}");
        }
        if self.options.hold {
            self.hold();
        }
        reason
    }

    /// Writes the last round's digest where dom0 finds it without a console (`m1ctl selftest`), before `data/result`.
    fn publish(&mut self, digest: Digest) {
        let mut text = heapless::String::<16>::new();
        // Sixteen digits.
        let _ = write!(text, "{:016x}", digest.value());
        let written = with_calls(&self.boot, &mut self.xenstore, |calls| {
            calls.write(Transaction::NONE, "data/digest", text.as_bytes())
        });
        if let Err(error) = written {
            log::warn!("mm-unikernel: data/digest: {error}");
        }
    }

    /// The digest of all pages that the options name, and how many.
    fn digest(&mut self) -> Result<(Digest, u64), Stop> {
        let (mut digest, mut count) = (Digest::new(), 0);
        let mut page = self.options.first;
        let mut bytes = [0; mm_proto::PAGE_SIZE];
        while page < self.pages && count < self.options.pages {
            self.read(page, &mut bytes)?;
            digest = digest.with(&bytes);
            count += 1;
            page = page.saturating_add(self.options.stride);
            self.answer_revocations()?;
        }
        Ok((digest, count))
    }

    /// Reads a page: from what is mapped, or by mapping it, or by a copy.
    fn read(&mut self, page: u64, out: &mut [u8; mm_proto::PAGE_SIZE]) -> Result<(), Stop> {
        if let Some((_, found)) = self.mapped.iter().flatten().find(|(number, _)| *number == page) {
            let _ = found.words().read(0, out);
            return Ok(());
        }
        if self.options.copy {
            return self.read_copy(page, out);
        }
        // A map that fails says that M1 has taken the page back: it is asked for again, and copied if that goes on.
        for _ in 0..3 {
            let reference = match self.link.client().lookup(page) {
                Lookup::Have(reference) => reference,
                Lookup::Missing => match self.link.fetch(page, 1).map_err(Stop::Lost)? {
                    Fetched::Granted => continue,
                    Fetched::CopyInstead => return self.read_copy(page, out),
                    Fetched::Failed(error) => return Err(Stop::Page(page, error)),
                },
            };
            let place = self.make_place();
            let mut got = [None];
            match self.foreign.map(self.owner, &[GrantRef(reference)], &mut got) {
                Ok(()) => {
                    let [Some(found)] = got else { return Err(Stop::Map(page)) };
                    let _ = found.words().read(0, out);
                    self.mapped[place] = Some((page, found));
                    self.mapped_now += 1;
                    self.link.client().mapped(page);
                    return Ok(());
                }
                Err(_) => {
                    self.retries += 1;
                    if self.link.client().map_failed(page) == mm_client::Retry::Copy {
                        return self.read_copy(page, out);
                    }
                }
            }
        }
        self.read_copy(page, out)
    }

    /// A place for one more mapping; the oldest gives way.
    fn make_place(&mut self) -> usize {
        let place = self.next % self.mapped.len();
        self.next += 1;
        if let Some((page, found)) = self.mapped[place].take() {
            self.foreign.unmap(&mut [Some(found)]);
            self.link.client().unmapped(page);
            self.mapped_now -= 1;
        }
        place
    }

    fn read_copy(&mut self, page: u64, out: &mut [u8; mm_proto::PAGE_SIZE]) -> Result<(), Stop> {
        let frame = xen_rt::mfn_of(self.own);
        self.boot
            .grants
            .permit(self.own_reference, self.owner, frame, Access::ReadWrite)
            .map_err(Stop::Permit)?;
        let copied = self.link.copy(page, self.own_reference.0);
        if self.boot.grants.try_revoke(self.own_reference).is_err() {
            return Err(Stop::Kept);
        }
        copied.map_err(Stop::Lost)?.map_err(|error| Stop::Page(page, error))?;
        self.copied += 1;
        let _ = self.own.read(0, out);
        Ok(())
    }

    fn answer_revocations(&mut self) -> Result<(), Stop> {
        self.link.service().map_err(Stop::Lost)?;
        let Some((first, count)) = self.link.take_revoke() else { return Ok(()) };
        for place in self.mapped.iter_mut() {
            if let Some((page, found)) =
                place.take_if(|(page, _)| (first..first + u64::from(count)).contains(page))
            {
                self.foreign.unmap(&mut [Some(found)]);
                self.link.client().unmapped(page);
                self.mapped_now -= 1;
            }
        }
        self.link.client().revoked();
        self.link.service().map_err(Stop::Lost)
    }

    /// Copies mapped pages to a page of our own, changes that, and looks whether M1's is as it was.
    fn write(&mut self) -> Result<u64, Stop> {
        let (mut before, mut after) = ([0; mm_proto::PAGE_SIZE], [0; mm_proto::PAGE_SIZE]);
        let mut changed = 0;
        let mut page = self.options.first;
        while page < self.pages && changed < self.options.write {
            self.read(page, &mut before)?;
            let _ = self.own.write(0, &before.map(|byte| !byte));
            self.read(page, &mut after)?;
            if before != after {
                return Err(Stop::Changed(page));
            }
            changed += 1;
            page += self.options.stride;
        }
        Ok(changed)
    }

    fn report(&mut self) {
        let figures = OwnFigures { written: 1, mapped: self.mapped_now, ..OwnFigures::default() };
        self.link.client().report(figures);
        let _ = self.link.service();
    }

    /// Stays, and answers M1, until dom0 asks for the end.
    fn hold(&mut self) {
        log::info!("mm-unikernel: holding R={}", self.mapped_now);
        loop {
            let ended = with_calls(&self.boot, &mut self.xenstore, |calls| {
                calls.read(Transaction::NONE, "control/shutdown").map(|value| !value.is_empty())
            });
            if ended == Ok(true) {
                return;
            }
            if let Err(stop) = self.answer_revocations() {
                log::warn!("mm-unikernel: while holding: {stop:?}");
                return;
            }
            if !self.link.look_again() {
                let soon = self.boot.clock.now_ns().saturating_add(2_000_000_000);
                let _ = self.boot.hypervisor.sched_poll(&[self.link.port()], Some(soon));
                self.boot.events.clear(self.link.port());
            }
        }
    }
}

/// Why it stops.
#[derive(Debug)]
#[expect(dead_code, reason = "shown by Debug")]
enum Stop {
    Lost(Lost),
    Page(u64, mm_client::PageError),
    Map(u64),
    Permit(PermitError),
    /// M1 keeps our page.
    Kept,
    /// A page of M1's is not what it was.
    Changed(u64),
}

/// Xenstore calls with patience.
fn with_calls<R>(boot: &Boot, xenstore: &mut Connection, work: impl FnOnce(&mut Blocking<'_>) -> R) -> R {
    let deadline = boot.clock.now_ns() + XENSTORE_NS;
    let port = boot.xenstore.map(|page| page.port);
    let mut wait = |pause| match (pause, port) {
        (_, None) => false,
        (Pause::Notify, Some(port)) => boot.hypervisor.evtchn_send(port).is_ok(),
        (Pause::Sleep, Some(port)) => {
            let soon = boot.clock.now_ns() + 100_000_000;
            let _ = boot.hypervisor.sched_poll(&[port], Some(soon));
            boot.events.clear(port);
            boot.clock.now_ns() < deadline
        }
    };
    work(&mut Blocking::new(xenstore, &mut wait))
}
