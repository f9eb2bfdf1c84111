//! The disk behind `/data`: any block backend, M1's or dom0's. One call at a time, each with a limit.
//!
//! What is read and written goes through pages of this module's own, so that no frame of the program's is ever with a backend: one that
//! dies with pages of ours mapped costs those pages and the disk, and nothing else.

use heapless::Vec;
use mm_guest::{DISK_RUN, DataDisk, DiskFailed};
use xen::{PageWords, Port};
use xen_drivers::blkfront::{BlkFront, Health, Operation, PLAIN_PAGES, SubmitError};
use xen_drivers::{Frame, Platform};
use xen_rt::Boot;

use crate::link::{REFS, What};
use crate::store::Store;

/// Number of the device `xvdb` (`xen/include/public/io/blkif.h`: major 202, minor 16).
const DEVICE: u32 = 202 << 8 | 16;
/// How long the backend may take to connect, and how long for one call.
const CONNECT_NS: u64 = 20_000_000_000;
const PATIENCE_NS: u64 = 10_000_000_000;
/// Longest sleep between two looks at how the backend is.
const LOOK_NS: u64 = 200_000_000;
/// Sectors of a block.
const SECTORS: u64 = 8;

/// The disk.
pub(crate) struct Disk {
    front: &'static mut BlkFront,
    pages: &'static [PageWords],
    hypervisor: &'static (dyn xen::Hypervisor + Sync),
    events: xen::Events,
    clock: xen::Clock,
    /// It has failed for good: its backend has gone, or has pages of ours.
    dead: bool,
    /// Something came from xenstored that is not the disk's.
    pub(crate) others: bool,
}

impl Disk {
    /// Connects to `xvdb`; `None` where the domain has none.
    pub(crate) fn connect(boot: &mut Boot, store: &mut Store) -> Result<Option<Self>, What> {
        let node = alloc::format!("device/vbd/{DEVICE}/backend");
        if store.read(&node).is_none() {
            return Ok(None);
        }
        let room = || What::from("not enough memory for the disk xvdb");
        let words: &'static PageWords = boot.memory.page().ok_or_else(room)?;
        let ring = Frame { words, mfn: xen_rt::mfn_of(words) };
        let platform =
            Platform { hypervisor: boot.hypervisor, events: boot.events, grants: boot.grants, refs: &REFS };
        let front = boot.memory.place(BlkFront::new(platform, DEVICE, ring, &mut [])).ok_or_else(room)?;
        let pages = boot.memory.pages(DISK_RUN).ok_or_else(room)?;
        let mut disk = Self {
            front,
            pages,
            hypervisor: boot.hypervisor,
            events: boot.events,
            clock: boot.clock,
            dead: false,
            others: false,
        };
        if !disk.wait(store, CONNECT_NS, |front| front.health() == Health::Connected) {
            return Err(What::from("xvdb: its backend does not connect"));
        }
        Ok(Some(disk))
    }

    pub(crate) fn about(&self) -> DataDisk {
        let geometry = self.front.geometry();
        DataDisk { blocks: geometry.sectors / SECTORS, read_only: geometry.read_only }
    }

    /// Turns until `done`, or until patience (nanoseconds) is at its end: whether it was done.
    fn wait(
        &mut self,
        store: &mut Store,
        patience: u64,
        mut done: impl FnMut(&mut BlkFront) -> bool,
    ) -> bool {
        let start = self.clock.now_ns();
        loop {
            let now = self.clock.now_ns();
            self.others |= store.turn(self.front, now);
            if done(self.front) {
                return true;
            }
            if now.saturating_sub(start) >= patience || self.front.health() == Health::Dead {
                return false;
            }
            if self.front.look_again() || store.look_again() {
                continue;
            }
            let mut ports: Vec<Port, 2> = Vec::new();
            ports.extend([Some(store.port()), self.front.port()].into_iter().flatten());
            let look = now + LOOK_NS;
            let _ = self.hypervisor.sched_poll(&ports, Some(look));
            for port in ports {
                self.events.clear(port);
            }
            if self.clock.now_ns() >= look {
                // While answers come nobody asks xenstore anything.
                self.front.recheck();
            }
        }
    }

    /// Sends requests, and waits for all of them. `submit` sends number `n`, or says that there is none.
    fn requests(
        &mut self,
        store: &mut Store,
        count: usize,
        mut submit: impl FnMut(&mut BlkFront, &[PageWords], usize) -> Result<(), SubmitError>,
    ) -> Result<(), DiskFailed> {
        if self.dead {
            return Err(DiskFailed);
        }
        let mut sent = 0;
        let mut refused = false;
        while sent < count && !refused {
            match submit(self.front, self.pages, sent) {
                Ok(()) => sent += 1,
                Err(error) => {
                    log::error!("xvdb: a request could not be sent: {error:?}");
                    refused = true;
                }
            }
        }
        self.front.publish_requests();
        let (mut over, mut failed, mut gone) = (0, refused, false);
        let answered = self.wait(store, PATIENCE_NS, |front| {
            while let Some(completion) = front.next_completion() {
                over += 1;
                failed |= completion.outcome.is_err();
                gone |= completion.quarantined;
            }
            over >= sent || front.health() != Health::Connected && front.outstanding() == 0
        });
        if !answered || gone || self.front.health() != Health::Connected {
            log::error!("xvdb: the backend is gone or does not answer: /data fails from now on");
            self.dead = true;
        }
        if failed || self.dead { Err(DiskFailed) } else { Ok(()) }
    }

    fn transfer(
        &mut self,
        store: &mut Store,
        operation: Operation,
        first: u64,
        count: usize,
    ) -> Result<(), DiskFailed> {
        let frame = |words| Frame { words, mfn: xen_rt::mfn_of(words) };
        let frames: Vec<Frame, DISK_RUN> = self.pages.iter().take(count).map(frame).collect();
        self.requests(store, count.div_ceil(PLAIN_PAGES), |front, _, number| {
            let start = number * PLAIN_PAGES;
            let part = frames.get(start..count.min(start + PLAIN_PAGES)).unwrap_or_default();
            front.submit(operation, (first + start as u64) * SECTORS, part, number as u64)
        })
    }

    pub(crate) fn read(
        &mut self,
        store: &mut Store,
        first: u64,
        to: &[xen_rt::user::Frame],
    ) -> Result<(), DiskFailed> {
        self.transfer(store, Operation::Read, first, to.len())?;
        for (frame, page) in to.iter().zip(self.pages) {
            frame.words().copy_from(page);
        }
        Ok(())
    }

    pub(crate) fn write(
        &mut self,
        store: &mut Store,
        first: u64,
        from: &[&xen_rt::user::Frame],
    ) -> Result<(), DiskFailed> {
        if self.dead {
            return Err(DiskFailed);
        }
        for (frame, page) in from.iter().zip(self.pages) {
            page.copy_from(frame.words());
        }
        self.transfer(store, Operation::Write, first, from.len())
    }

    /// A backend that knows no flush has nothing to be flushed.
    pub(crate) fn flush(&mut self, store: &mut Store) -> Result<(), DiskFailed> {
        if self.dead {
            return Err(DiskFailed);
        }
        if !self.front.geometry().flush {
            return Ok(());
        }
        self.requests(store, 1, |front, _, _| front.submit(Operation::Flush, 0, &[], 0))
    }

    pub(crate) fn discard(&mut self, store: &mut Store, first: u64, count: u64) {
        if self.front.geometry().discard {
            // Only a hint: how it went is of no interest.
            let _ = self.requests(store, 1, |front, _, _| front.discard(first * SECTORS, count * SECTORS, 0));
        }
    }
}
