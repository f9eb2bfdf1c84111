//! The loop. Everything M1 does happens in a turn of it, and between turns it sleeps.

use mm_engine::{Effects, GroupId, Sharing};
use mm_proto::InfoPage;
use xenstore::Message;

use crate::disks::DiskEvent;
use crate::m1::M1;
use crate::overlays::Overlays;
use crate::volumes::{self, VolumeState};

/// Rounds in one turn of letting requests go on; what is left goes on in the next turn.
const ROUNDS: usize = 64;
/// Xenstore messages in one turn.
const MESSAGES: usize = 64;
/// Rows of the engine's tables that are swept in one turn.
const SWEEP: u32 = 256;
/// Looks at xenstore without a reason, and at pages that clients should let go of.
const RECHECK_NS: u64 = 1_000_000_000;
/// Another look for frames that a write waits for.
const STARVED_NS: u64 = 10_000_000;
/// Free references below which the grant table grows, and frames by which it does.
const LOW_REFERENCES: u64 = 1024;
const GROW_FRAMES: u32 = 8;

/// Whose events have come, rings of clients apart.
#[derive(Clone, Copy, Default)]
struct Heard {
    /// M1's own disks.
    disks: bool,
    /// Xenstore, the network, the timer.
    others: bool,
}

impl M1 {
    /// Serves for ever.
    pub fn run(&mut self) -> ! {
        loop {
            let more = self.turn();
            if !more {
                self.sleep();
            }
        }
    }

    /// One turn. True if there is more to do at once.
    pub(crate) fn turn(&mut self) -> bool {
        let now = self.clock.now_ns();
        self.heartbeat();
        let heard = self.hear();
        // A request has to do with rings and disks alone: xenstore and the network take their turns when something came from there, when
        // they asked for it, and once a second.
        let all = heard.others || core::mem::take(&mut self.look) || now >= self.look_at;
        if all {
            self.xenstore_turn(now);
            self.control_turn();
        }
        if all || heard.disks {
            self.disks_turn();
        }
        // Where there is a store, many have work for it: clients' disks, snapshots that are kept, dom0.
        let _ = self.overlays_turn();
        let mut more = self.devices_turn(now);
        self.instants_turn(now);
        more |= self.block_turn(now);
        more |= self.engine_turn();
        // What the blocks that were written lead to goes out in this turn.
        more |= self.overlays_turn() | self.overlays.as_deref().is_some_and(Overlays::has_work);
        // Frames of blocks that have reached the disk may be what a request waits for.
        more |= self.engine.can_go_on();
        self.snapshots_turn();
        more |= self.keeper_turn();
        self.answer();
        if all {
            self.network_turn(now);
            let wishes = [self.network.deadline, self.backend.deadline()];
            self.look_at = wishes.into_iter().flatten().fold(now + RECHECK_NS, u64::min);
        }
        self.grow();
        more | self.look_again() | self.block.is_awake() | self.look
    }

    /// Takes the events that have come, and says whose they were.
    fn hear(&mut self) -> Heard {
        let mut heard = Heard { disks: core::mem::take(&mut self.disks_came), others: false };
        let pending = self.events.take_pending();
        for port in pending {
            if self.devices.raise(port) || self.block.raise(port) {
                continue;
            }
            let disk = self.disks.iter_mut().flatten().any(|disk| disk.front().port() == Some(port))
                || self.overlays.as_deref().is_some_and(|overlays| overlays.has_port(port));
            if disk {
                heard.disks = true;
            } else {
                heard.others = true;
            }
        }
        heard
    }

    /// Sleeps until an event or the next deadline.
    fn sleep(&mut self) {
        let now = self.clock.now_ns();
        let starved = self.block.starved.then(|| now + STARVED_NS);
        let deadlines = [starved, self.block.held_until];
        let deadline = deadlines.into_iter().flatten().fold(self.look_at, u64::min);
        // One that is set already, and comes no later, will do: at worst there is a turn more.
        if self.timer_at.is_none_or(|at| at <= now || at > deadline) {
            // A timer that does not take is a loop that turns a little more often than it has to.
            self.timer_at = self.hypervisor.set_timer(Some(deadline)).is_ok().then_some(deadline);
        }
        self.events.wait(self.hypervisor);
    }

    /// Advances the word by which clients know that M1 lives.
    fn heartbeat(&mut self) {
        self.turns += 1;
        let [low, high] =
            [self.turns & 0xffff_ffff, self.turns >> 32].map(|half| u32::try_from(half).unwrap_or(0));
        for info in self.infos.iter().flatten() {
            info.words.store(InfoPage::HEARTBEAT_WORD + 1, high);
            info.words.store(InfoPage::HEARTBEAT_WORD, low);
        }
        self.snapshots.heartbeat(low, high);
    }

    fn xenstore_turn(&mut self, now: u64) {
        let recheck = now.saturating_sub(self.rechecked) >= RECHECK_NS;
        if recheck {
            self.rechecked = now;
            self.devices.sweep();
            self.versions_turn();
            self.control.recheck();
            self.snapshots_recheck(now);
        }
        for _ in 0..MESSAGES {
            match self.xenstore.poll() {
                Ok(Some(incoming)) => {
                    let message: &Message<'_> = &incoming.message;
                    let _ = self.network.card.on_message(message);
                    for disk in self.disks.iter_mut().flatten() {
                        let _ = disk.front().on_message(message);
                    }
                    if let Some(overlays) = &mut self.overlays {
                        let _ = overlays.on_message(message);
                    }
                    let _ = self.control.on_message(message);
                    let _ = self.backend.on_message(message);
                }
                Ok(None) => break,
                // Xenstored itself is broken: nothing new can be attached, and those who are served go on.
                Err(fault) => {
                    log::error!("xenstore: {fault}");
                    break;
                }
            }
        }
        self.network.card.advance(&mut self.xenstore.client, now);
        for disk in self.disks.iter_mut().flatten() {
            disk.front().advance(&mut self.xenstore.client, now);
        }
        if let Some(overlays) = &mut self.overlays {
            overlays.advance(&mut self.xenstore.client, now);
        }
        self.control.advance(&mut self.xenstore.client);
        self.backend_turn(now);
        if let Err(fault) = self.xenstore.flush() {
            log::error!("xenstore: {fault}");
        }
        if self.xenstore.take_notify() {
            let _ = self.hypervisor.evtchn_send(self.xenstore_port);
        }
    }

    fn disks_turn(&mut self) {
        let now = self.clock.now_ns();
        for index in 0..self.disks.len() {
            while let Some(event) = self.disks[index].as_mut().and_then(|disk| disk.turn(&self.lending, now))
            {
                match event {
                    DiskEvent::Read(read, outcome) => {
                        self.block.wake();
                        if let Err(bug) = self.engine.read_done(&read, outcome) {
                            log::error!("bug: {bug:?}");
                        }
                    }
                    DiskEvent::Lost(read) => {
                        self.block.wake();
                        if let Err(bug) = self.engine.read_lost(&read) {
                            log::error!("bug: {bug:?}");
                        }
                    }
                    DiskEvent::Identified(pages) if self.volumes[index].id.is_some() => {
                        self.disk_is_back(index, pages);
                    }
                    DiskEvent::Identified(pages) => self.open_volume(index, pages),
                    DiskEvent::Unusable(state) => {
                        log::error!("volume {}: {state}", self.volumes[index].name);
                        self.volumes[index].state = state;
                    }
                }
            }
            let lost = self.disks[index].as_ref().is_some_and(|disk| disk.is_lost(now));
            if lost && self.volumes[index].state == VolumeState::Serving {
                log::error!("volume {}: {}", self.volumes[index].name, VolumeState::DiskGone);
                self.volumes[index].state = VolumeState::DiskGone;
            }
        }
    }

    /// A new backend serves the disk of a volume that there is already.
    fn disk_is_back(&mut self, index: usize, pages: u64) {
        let Some(disk) = &mut self.disks[index] else { return };
        let volume = &mut self.volumes[index];
        volume.next = None;
        if volume.state == VolumeState::Retiring {
            // Whatever it is, it is another version.
            disk.refuse();
            volume.next = Some(pages);
            return;
        }
        if pages == volume.pages && volumes::identity(&disk.first_page(), pages) == volume.identity {
            log::info!("volume {}: its disk is back", volume.name);
            volume.state = VolumeState::Serving;
        } else {
            disk.refuse();
            log::error!("volume {}: {}", volume.name, VolumeState::OtherDisk);
            (volume.state, volume.next) = (VolumeState::OtherDisk, Some(pages));
            self.versions_turn();
        }
    }

    /// The disk has said what it is: it becomes a volume.
    pub(crate) fn open_volume(&mut self, index: usize, pages: u64) {
        let (Some(disk), Some(info)) = (&self.disks[index], self.infos[index]) else { return };
        let identity = volumes::identity(&disk.first_page(), pages);
        let group = GroupId(volumes::group_number(self.volumes, &self.volumes[index].group));
        let version = volumes::next_version(self.volumes, &self.volumes[index].name);
        let volume = &mut self.volumes[index];
        let sharing = if volume.copy_only { Sharing::Copy } else { Sharing::Map };
        match self.engine.add_volume(pages, group, sharing) {
            Ok(id) => {
                (volume.id, volume.pages, volume.identity) = (Some(id), pages, identity);
                // At boot the order is that of the configuration, whichever disk answers first.
                if volume.state != VolumeState::Waiting || volume.version == 0 {
                    volume.version = version;
                }
                volume.state = VolumeState::Serving;
                log::info!(
                    "volume {}: version {}, {} MiB, serving",
                    volume.name,
                    volume.version,
                    pages / 256
                );
            }
            Err(refusal) => {
                log::error!("volume {}: {refusal:?}", volume.name);
                volume.state = VolumeState::NoRoom;
                return;
            }
        }
        let words = self.info_page(index).encode();
        info.words.store(0, 0);
        // The magic, word 0, comes last: the page is an info page only when all of it is there.
        for (word, value) in words.iter().enumerate().rev() {
            info.words.store(word, *value);
        }
    }

    /// What clients of a volume are told.
    pub(crate) fn info_page(&self, index: usize) -> InfoPage {
        let volume = &self.volumes[index];
        InfoPage {
            version_min: mm_proto::VERSION_MIN,
            version_max: mm_proto::VERSION,
            copy_only: volume.copy_only,
            epoch: self.started,
            heartbeat: self.turns,
            pages: volume.pages,
            window: self.config.window,
            identity: volume.identity,
            snapshot: None,
        }
    }

    /// Takes the requests of every ring that may have some: at most a ring's worth from each.
    fn devices_turn(&mut self, now: u64) -> bool {
        let mut more = false;
        let mut effects = Effects::new();
        let mut from = 0;
        while let Some(index) = self.devices.pending.next(from) {
            from = index + 1;
            self.devices.pending.remove(index);
            let Some(ring) = self.devices.get(index).and_then(|device| device.ring) else { continue };
            let mut broken = None;
            for _ in 0..mm_proto::RING_SLOTS {
                let Some(device) = self.devices.get_mut(index) else { break };
                match device.back.pop_request() {
                    Ok(Some(words)) => {
                        self.devices.trace.took(index, &words);
                        let handled =
                            self.engine.handle_words(now, ring, &words, &mut self.lending, &mut effects);
                        self.hands().perform(&effects);
                        if let Err(fault) = handled {
                            broken = Some(fault);
                            break;
                        }
                    }
                    Ok(None) => break,
                    Err(fault) => {
                        log::warn!("ring {}: impossible index: {fault:?}", ring.0);
                        self.ring_faults += 1;
                        self.engine.blame(ring);
                        self.close_device(index);
                        break;
                    }
                }
            }
            if let Some(fault) = broken {
                log::warn!("ring {}: {fault:?}", ring.0);
                self.close_device(index);
            } else if let Some(device) = self.devices.get_mut(index)
                // Asks for an event at the next request, and looks once more.
                && device.back.final_check()
            {
                self.devices.pending.insert(index);
                more = true;
            }
        }
        more
    }

    /// Serves the disks of stock frontends.
    fn block_turn(&mut self, now: u64) -> bool {
        let (block, mut hands) = self.block_and_hands();
        let (broken, more) = block.turn(&mut hands, now);
        if let Some(index) = broken {
            self.ring_faults += 1;
            self.close_device(index);
        }
        more
    }

    /// Lets requests go on that waited, and takes back what nobody uses.
    fn engine_turn(&mut self) -> bool {
        let mut effects = Effects::new();
        let mut more = false;
        for _ in 0..ROUNDS {
            more = self.engine.advance(&mut self.lending, &mut effects);
            more |= self.hands().perform(&effects);
            if !more {
                break;
            }
        }
        more |= self.engine.sweep(SWEEP, &mut self.lending);
        // Reads that this asked for go out now.
        self.disks_turn();
        more
    }

    /// Shows responses to clients.
    fn answer(&mut self) {
        let mut from = 0;
        while let Some(index) = self.devices.answered.next(from) {
            from = index + 1;
            self.devices.answered.remove(index);
            let Some(device) = self.devices.get_mut(index).filter(|device| device.ring.is_some()) else {
                continue;
            };
            if device.back.publish() {
                let _ = self.hypervisor.evtchn_send(device.port);
            }
        }
    }

    /// Grows the grant table in steps, before references run out.
    fn grow(&mut self) {
        let grants = self.platform.grants;
        let limit =
            self.first_reference.saturating_add(self.references).div_ceil(512).min(grants.frames_max());
        if grants.frames() >= limit || self.engine.references_free() >= LOW_REFERENCES {
            return;
        }
        let frames = (grants.frames() + GROW_FRAMES).min(limit);
        if let Err(error) = grants.grow_to(frames) {
            log::warn!("the grant table does not grow to {frames} frames: {error:?}; pages will be copied");
            self.references = grants.capacity().saturating_sub(self.first_reference);
            return;
        }
        self.engine
            .extend_references(grants.capacity().saturating_sub(self.first_reference).min(self.references));
    }

    /// Before sleeping: did something come while we worked?
    fn look_again(&mut self) -> bool {
        // What came without an event is for the next turn, whichever that is.
        let more = self.network.card.look_again() | self.xenstore.look_again();
        self.look |= more;
        for disk in self.disks.iter_mut().flatten() {
            self.disks_came |= disk.front().look_again();
        }
        if let Some(overlays) = &mut self.overlays {
            self.disks_came |= overlays.look_again();
        }
        more | self.disks_came
    }
}
