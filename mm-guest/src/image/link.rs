//! The device that M1 serves: its pages as references, as copies, and read by the kernel itself.

use alloc::string::String;

use mm_client::{Lookup, OwnFigures, PageError, Window};
use mm_guest::FreezeAnswer;
use mm_guest::{Lent, VolumeError, VolumePage};
use mm_proto::{Bitmap, CAPTURE_MAX, InfoPage, RequestBody, SnapshotInfo, Status, VolumeIdentity};
use xen::grant::RefPool;
use xen::{Access, DomId, GrantRef, GrantTable, PageWords};
use xen_drivers::mapfront::{ClientPlatform, Fetched, Lost, MapFront};
use xen_drivers::vbdfront;
use xen_rt::Boot;
use xen_rt::foreign::{ForeignPage, ForeignWindow};

use crate::store::Store;

/// Number of the device `xvda` (`xen/include/public/io/blkif.h`: major 202, minor 0).
const DEVICE: u32 = 202 << 8;
/// How long M1 may be silent while a request is outstanding.
const PATIENCE_NS: u64 = 10_000_000_000;
/// Pages that the kernel keeps mapped for itself, and how many it maps in one batch.
const OWN_PAGES: usize = 32;
const OWN_BATCH: usize = 8;

/// References of our own: the frame that a page is copied into, and the disk's.
pub(crate) static REFS: RefPool = RefPool::new();

/// The device.
pub(crate) struct Link {
    front: Option<MapFront>,
    clock: xen::Clock,
    grants: &'static GrantTable,
    pub(crate) owner: DomId,
    /// The volume is only copied: M1 is not asked for references that it will not give.
    copy_only: bool,
    pub(crate) port: xen::Port,
    copy_reference: GrantRef,
    /// For frames that M1 captures, and how many of them are lent now.
    capture_references: [GrantRef; CAPTURE_MAX],
    captured: usize,
    /// A frame stays M1's for good: no more freezes.
    stuck: bool,
    pub(crate) identity: VolumeIdentity,
    pub(crate) snapshot: Option<SnapshotInfo>,
    window: ForeignWindow,
    /// What the kernel has mapped for itself, in the order of its coming.
    own: [Option<(VolumePage, ForeignPage)>; OWN_PAGES],
    next_own: usize,
    /// The last page that was copied for the kernel itself.
    bounce: &'static PageWords,
    bounced: Option<VolumePage>,
    /// A request went to M1: page, when it was pushed, M1's times, when it was answered.
    pub(crate) trip: Option<(u64, u64, mm_proto::Timing, u64)>,
}

/// Why there is no volume: one sentence.
pub(crate) type What = String;

fn what(text: core::fmt::Arguments<'_>) -> What {
    alloc::format!("{text}")
}

impl Link {
    /// Finds the device, maps M1's two pages, and greets.
    pub(crate) fn connect(boot: &mut Boot, store: &mut Store, largest: u32) -> Result<Self, What> {
        let room = || what(format_args!("not enough memory to connect to M1"));
        let mut window = ForeignWindow::new(OWN_PAGES + 2, &mut boot.memory)
            .map_err(|error| what(format_args!("addresses for M1's pages: {error:?}")))?;
        let bounce = boot.memory.page().ok_or_else(room)?;
        let offer = store
            .with(|calls| vbdfront::offer(calls, DEVICE))
            .map_err(|error| what(format_args!("xvda: {error}")))?;
        let mut map = |reference, access| {
            let page = window.map_static(offer.backend, reference, access);
            page.map_err(|status| what(format_args!("xvda: M1's page cannot be mapped: {status:?}")))
        };
        let ring = map(offer.map_ring, Access::ReadWrite)?;
        let info = map(offer.info_page, Access::ReadOnly)?;
        let words: [u32; InfoPage::WORDS] = core::array::from_fn(|index| info.words().load(index));
        let about = InfoPage::decode(&words).map_err(|error| what(format_args!("xvda: {error:?}")))?;
        let rows = rows(largest.min(about.window), about.pages);
        let rows = boot.memory.slice(rows, Window::default()).ok_or_else(room)?;
        store
            .with(|calls| vbdfront::connect(calls, &offer))
            .map_err(|error| what(format_args!("xvda: {error}")))?;
        let platform = ClientPlatform { hypervisor: boot.hypervisor, events: boot.events, clock: boot.clock };
        let front =
            MapFront::connect(platform, &offer, ring.words(), info.words(), rows, largest, PATIENCE_NS)
                .map_err(|lost| what(format_args!("xvda: {lost:?}")))?;
        let mut capture_references = [GrantRef(0); CAPTURE_MAX];
        for reference in &mut capture_references {
            *reference = REFS.reserve().ok_or_else(room)?;
        }
        // Both stay mapped for as long as this domain lives.
        let (_, _) = (ring, info);
        Ok(Self {
            port: front.port(),
            front: Some(front),
            clock: boot.clock,
            grants: boot.grants,
            owner: offer.backend,
            copy_only: about.copy_only,
            copy_reference: REFS.reserve().ok_or_else(room)?,
            capture_references,
            captured: 0,
            stuck: false,
            identity: about.identity,
            snapshot: about.snapshot,
            window,
            own: [const { None }; OWN_PAGES],
            next_own: 0,
            bounce,
            bounced: None,
            trip: None,
        })
    }

    /// The connection, while M1 is there.
    fn front(&mut self) -> Result<&mut MapFront, VolumeError> {
        self.front.as_mut().ok_or(VolumeError::Gone)
    }

    /// M1 is of no use any more: what is mapped stays, what is not is a bus error from now on.
    fn lose(&mut self, lost: Lost) -> VolumeError {
        log::error!("M1 is lost: {lost:?}; pages that are not mapped yet are bus errors from now on");
        self.front = None;
        VolumeError::Gone
    }

    /// The reference to a page, if it is held.
    pub(crate) fn lookup(&mut self, page: VolumePage) -> Option<GrantRef> {
        match self.front.as_mut()?.client().lookup(page.0) {
            Lookup::Have(reference) => Some(GrantRef(reference)),
            Lookup::Missing => None,
        }
    }

    pub(crate) fn lend(&mut self, page: VolumePage, wanted: u32) -> Result<Lent, VolumeError> {
        if self.lookup(page).is_some() {
            return Ok(Lent::Held);
        }
        if self.copy_only {
            return Ok(Lent::CopyOnly);
        }
        let fetched = self.front()?.fetch(page.0, wanted).map_err(|lost| self.lose(lost))?;
        self.note_trip(page);
        match fetched {
            Fetched::Granted => Ok(Lent::Granted),
            Fetched::CopyInstead => Ok(Lent::CopyOnly),
            Fetched::Failed(error) => Err(volume_error(error)),
        }
    }

    fn note_trip(&mut self, page: VolumePage) {
        let now = self.clock.now_ns();
        if let Some(front) = &self.front {
            let (pushed, timing) = front.last_trip();
            self.trip = Some((page.0, pushed, timing, now));
        }
    }

    /// A page was mapped for the program.
    pub(crate) fn mapped(&mut self, page: VolumePage) {
        if let Some(front) = &mut self.front {
            front.client().mapped(page.0);
        }
    }

    pub(crate) fn unmapped(&mut self, page: VolumePage) {
        if let Some(front) = &mut self.front {
            front.client().unmapped(page.0);
        }
    }

    pub(crate) fn map_failed(&mut self, page: VolumePage) {
        if let Some(front) = &mut self.front {
            front.client().map_failed(page.0);
        }
    }

    /// Copies a page to `to`, whose frame is `frame`: from a mapping of the kernel's own, or by M1.
    ///
    /// # Errors
    /// The flag tells whether the frame may still be written to by M1: then it must not be used again.
    pub(crate) fn copy(
        &mut self,
        page: VolumePage,
        to: &PageWords,
        frame: xen::Mfn,
    ) -> Result<(), (VolumeError, bool)> {
        if self.lend(page, 1).map_err(|error| (error, false))? != Lent::CopyOnly
            && let Some(own) = self.map_own(page)
        {
            to.copy_from(own);
            return Ok(());
        }
        let Some(front) = self.front.as_mut() else { return Err((VolumeError::Gone, false)) };
        if self.grants.permit(self.copy_reference, self.owner, frame, Access::ReadWrite).is_err() {
            return Err((VolumeError::OutOfFrames, false));
        }
        let copied = front.copy(page.0, self.copy_reference.0);
        self.note_trip(page);
        if self.grants.try_revoke(self.copy_reference).is_err() {
            // The frame is M1's for good; so is the reference.
            match REFS.reserve() {
                Some(fresh) => self.copy_reference = fresh,
                None => self.front = None,
            }
            return Err((VolumeError::Gone, true));
        }
        match copied {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err((volume_error(error), false)),
            Err(lost) => Err((self.lose(lost), false)),
        }
    }

    /// Reads bytes of a page for the kernel itself.
    pub(crate) fn read(&mut self, page: VolumePage, offset: usize, to: &mut [u8]) -> Result<(), VolumeError> {
        let inside = if let Some(own) = self.find_own(page) {
            own.read(offset, to)
        } else if self.bounced == Some(page) {
            self.bounce.read(offset, to)
        } else if self.lend(page, 1)? != Lent::CopyOnly
            && let Some(own) = self.map_own(page)
        {
            own.read(offset, to)
        } else {
            let bounce = self.bounce;
            self.bounced = None;
            self.copy(page, bounce, xen_rt::mfn_of(bounce)).map_err(|(error, _)| error)?;
            self.bounced = Some(page);
            bounce.read(offset, to)
        };
        debug_assert!(inside, "a part of a page");
        Ok(())
    }

    fn find_own(&self, page: VolumePage) -> Option<&PageWords> {
        self.own.iter().flatten().find(|(own, _)| *own == page).map(|(_, mapped)| mapped.words())
    }

    /// Maps a page, and those behind it that are held, for the kernel; the oldest of its pages give way.
    fn map_own(&mut self, page: VolumePage) -> Option<&PageWords> {
        if self.find_own(page).is_none() {
            let mut references = [GrantRef(0); OWN_BATCH];
            let mut count = 0;
            while count < OWN_BATCH
                && let next = VolumePage(page.0 + count as u64)
                && self.find_own(next).is_none()
                && let Some(reference) = self.lookup(next)
            {
                references[count] = reference;
                count += 1;
            }
            self.next_own = self.next_own / OWN_BATCH * OWN_BATCH % OWN_PAGES;
            let first = self.next_own;
            self.next_own = (first + OWN_BATCH) % OWN_PAGES;
            self.unmap_own(first..first + OWN_BATCH);
            let mut mapped = [const { None }; OWN_BATCH];
            // A reference that M1 took back meanwhile fails alone.
            let _ = self.window.map(self.owner, &references[..count], &mut mapped);
            for (index, mapped) in mapped.into_iter().enumerate().take(count) {
                let next = VolumePage(page.0 + index as u64);
                match mapped {
                    Some(mapped) => {
                        self.own[first + index] = Some((next, mapped));
                        self.mapped(next);
                    }
                    None if index == 0 => self.map_failed(next),
                    None => {}
                }
            }
        }
        self.find_own(page)
    }

    fn unmap_own(&mut self, places: core::ops::Range<usize>) {
        let mut pages = [const { None }; OWN_PAGES];
        for (place, page) in self.own[places].iter_mut().zip(&mut pages) {
            if let Some((volume, mapped)) = place.take() {
                *page = Some(mapped);
                if let Some(front) = &mut self.front {
                    front.client().unmapped(volume.0);
                }
            }
        }
        self.window.unmap(&mut pages);
    }

    /// Unmaps what the kernel has mapped for itself, so that R is the program's alone.
    pub(crate) fn forget_own(&mut self) {
        self.unmap_own(0..OWN_PAGES);
    }

    /// Takes what M1 has said and sends what is to be sent. Gives a run that M1 wants back.
    pub(crate) fn service(&mut self) -> Option<(VolumePage, u64)> {
        let served = self.front.as_mut()?.service();
        if let Err(lost) = served {
            self.lose(lost);
            return None;
        }
        self.take_revoke()
    }

    /// A run that M1 wants back, which came with an answer.
    pub(crate) fn take_revoke(&mut self) -> Option<(VolumePage, u64)> {
        let (page, count) = self.front.as_mut()?.take_revoke()?;
        let run = page..page + u64::from(count);
        for place in 0..OWN_PAGES {
            if self.own[place].as_ref().is_some_and(|(own, _)| run.contains(&own.0)) {
                self.unmap_own(place..place + 1);
            }
        }
        Some((VolumePage(page), u64::from(count)))
    }

    /// The run is not mapped any more.
    pub(crate) fn revoke_done(&mut self) {
        if let Some(front) = &mut self.front {
            front.client().revoked();
            let _ = self.service();
        }
    }

    /// Whether M1 has said something meanwhile; asks for an event if not.
    pub(crate) fn look_again(&mut self) -> bool {
        self.front.as_mut().is_some_and(MapFront::look_again)
    }

    /// Shows figures through M1, with the next [`Self::service`]: that may bring a run that M1 wants back.
    pub(crate) fn report(&mut self, figures: OwnFigures) {
        if let Some(front) = &mut self.front {
            front.client().report(figures);
        }
    }

    /// Whether M1 has ordered a freeze.
    pub(crate) fn freeze_ordered(&mut self) -> bool {
        self.front.as_mut().is_some_and(MapFront::take_freeze_order)
    }

    /// Sends a step of a freeze; `frames` are those to be captured.
    pub(crate) fn freeze_send(&mut self, body: RequestBody, frames: &[xen::Mfn]) {
        let Some(front) = &mut self.front else { return };
        let body = if frames.is_empty() {
            body
        } else {
            let mut references = [0; CAPTURE_MAX];
            for ((frame, own), reference) in frames.iter().zip(self.capture_references).zip(&mut references) {
                if self.stuck || self.grants.permit(own, self.owner, *frame, Access::ReadOnly).is_err() {
                    break;
                }
                *reference = own.0;
                self.captured += 1;
            }
            // One that is not permitted is refused by M1, and the freeze ends.
            RequestBody::Capture { count: u32::try_from(frames.len()).unwrap_or(1), references }
        };
        if let Err(lost) = front.send_freeze(body) {
            self.lose(lost);
        }
    }

    /// The answer to the last step, if it is here.
    pub(crate) fn freeze_answer(&mut self) -> Option<FreezeAnswer> {
        let answer = match &mut self.front {
            Some(front) => front.take_freeze_answer()?,
            None => (Status::Gone, [0; CAPTURE_MAX]),
        };
        Some(self.answered(answer))
    }

    /// Waits for it.
    pub(crate) fn freeze_await(&mut self) -> FreezeAnswer {
        let answer = match &mut self.front {
            Some(front) => front.await_freeze_answer().map_err(|lost| self.lose(lost)),
            None => Err(VolumeError::Gone),
        };
        self.answered(answer.unwrap_or((Status::Gone, [0; CAPTURE_MAX])))
    }

    fn answered(&mut self, (status, pages): (Status, [u32; CAPTURE_MAX])) -> FreezeAnswer {
        for reference in &self.capture_references[..core::mem::take(&mut self.captured)] {
            // M1 copies and does not map: what it still maps it may read for ever.
            self.stuck |= self.grants.try_revoke(*reference).is_err();
        }
        match status {
            _ if self.front.is_none() => FreezeAnswer::Lost,
            Status::Ok if !self.stuck => FreezeAnswer::Done(pages),
            Status::NoRoom => FreezeAnswer::NoRoom,
            Status::Gone => FreezeAnswer::Lost,
            _ => FreezeAnswer::Refused,
        }
    }

    /// The program goes on from a snapshot: since the kernel's first instruction, and since the connection, in nanoseconds.
    pub(crate) fn tell_thawed(&mut self, duration: u64, connected: u64) {
        self.notice(RequestBody::Thawed { duration, connected });
    }

    /// What it touched first.
    pub(crate) fn tell_hot(&mut self, page: u64, bitmap: Bitmap) {
        self.notice(RequestBody::Hot { page, bitmap });
    }

    fn notice(&mut self, body: RequestBody) {
        if let Some(front) = &mut self.front
            && let Err(lost) = front.notice(body)
        {
            self.lose(lost);
        }
    }

    /// Requests that went through the event channel.
    pub(crate) fn asked(&self) -> u64 {
        self.front.as_ref().map_or(0, MapFront::asked)
    }
}

/// Rows of the table of windows: as many windows as the program's pages may be spread over, within reason.
fn rows(window: u32, pages: u64) -> usize {
    let spread = usize::try_from(pages / u64::from(window.div_ceil(32))).unwrap_or(usize::MAX);
    spread.saturating_add(32).clamp(64, if window >= 16 { 768 } else { 4096 })
}

fn volume_error(error: PageError) -> VolumeError {
    match error {
        PageError::Read | PageError::OutOfRange | PageError::BadReference => VolumeError::Unreadable,
        PageError::Gone => VolumeError::Gone,
    }
}
