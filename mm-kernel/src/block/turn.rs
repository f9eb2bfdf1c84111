//! A turn of the block service: requests are taken, jobs go on, answers are shown.

use xen_drivers::Platform;
use xen_drivers::blkback::{Operation, Status};

use super::barrier::{self, Part};
use super::hold::Do;
use super::job::{self, Job, Step};
use super::write::{self, InMemory};
use super::{Block, GuestDisk, Over, freeze, keep, read};
use crate::effects::Hands;
use crate::overlays::Asker;

/// Requests of one client that are under way at once: the rest wait on its ring.
const JOBS_OF_ONE: usize = 64;
/// How long a job waits for a frame where none comes free. Then the client gets an error.
const PATIENCE_NS: u64 = 2_000_000_000;

impl Block {
    /// Takes new requests and lets all go on. Gives a device that is to be closed for what it did; true in the other if there is more
    /// to do at once.
    pub(crate) fn turn(&mut self, hands: &mut Hands<'_>, now: u64) -> (Option<usize>, bool) {
        let mut broken = None;
        let mut more = self.freeze_turn(hands, now);
        let look = self.held_until.is_some_and(|until| until <= now);
        if look {
            for disk in self.disks.iter_mut().flatten() {
                disk.pending |= disk.hold.until().is_some_and(|until| until <= now);
            }
            self.knocked = true;
        }
        if core::mem::take(&mut self.knocked) {
            for index in 0..self.disks.len() {
                match self.take(index, now) {
                    Ok(left) => self.knocked |= left,
                    Err(()) => {
                        // The others are looked at when this one is closed.
                        (broken, self.knocked) = (Some(index), true);
                        break;
                    }
                }
            }
        }
        if self.awake || self.starved {
            (self.awake, self.starved) = (false, false);
            let (mut answered, mut at_once) = (false, 0);
            for number in 0..self.jobs.len() {
                let Some(mut job) = self.jobs[number].take() else { continue };
                match self.step(number, &mut job, hands, now) {
                    Step::Done(status) => {
                        self.answer(&job, status, hands.clock.now_ns());
                        answered = true;
                        at_once += u32::from(job.taken_ns == now);
                    }
                    Step::Again => {
                        (self.awake, more) = (true, true);
                        self.jobs[number] = Some(job);
                    }
                    Step::Wait => self.jobs[number] = Some(job),
                }
            }
            let then = hands.clock.now_ns();
            self.cost.took(at_once, then.saturating_sub(now));
            self.show(then);
            // There is room for what was left on a ring.
            if answered && core::mem::take(&mut self.held_back) {
                self.knocked = true;
            }
        } else if look {
            self.show(now);
        }
        (broken, more || self.knocked || self.awake)
    }

    /// Shows clients their answers, or holds them back for a moment.
    fn show(&mut self, now: u64) {
        self.held_until = None;
        for disk in self.disks.iter_mut().flatten() {
            let Some(ring) = disk.ring.as_mut().filter(|ring| ring.unpublished() > 0) else { continue };
            let wish = match disk.hold.answered(ring.unpublished(), disk.urgent, now, self.cost) {
                Do::Show => {
                    disk.urgent = false;
                    self.totals.events += u64::from(ring.publish());
                    1
                }
                Do::Wait(more) => more,
            };
            if ring.check_for(wish) {
                (disk.pending, self.knocked) = (true, true);
            }
            self.held_until = [self.held_until, disk.hold.until()].into_iter().flatten().min();
        }
    }

    /// Takes requests of one disk, as far as there is room. True if there may be more that fit.
    fn take(&mut self, index: usize, now: u64) -> Result<bool, ()> {
        let Some(disk) = self.disks[index].as_mut().filter(|disk| disk.pending) else { return Ok(false) };
        let Some(ring) = &mut disk.ring else { return Ok(false) };
        let (mut free, mut taken) = (0, 0);
        while disk.jobs < JOBS_OF_ONE && !disk.barred {
            let Some(place) = self.jobs[free..].iter().position(Option::is_none) else { break };
            free += place;
            match ring.pop() {
                Ok(Some(request)) => {
                    taken += 1;
                    disk.requests.taken(&request, &mut self.totals);
                    disk.jobs += 1;
                    disk.barred = request.operation == Operation::Barrier;
                    self.serial = self.serial.wrapping_add(1);
                    self.jobs[free] = Some(Job::new(index, request, self.serial, now));
                    self.awake = true;
                }
                Ok(None) => {
                    // What was refused on the way has its answer.
                    self.awake |= ring.unpublished() > 0;
                    disk.hold.taken(taken, now, self.cost);
                    disk.pending = ring.final_check();
                    return Ok(disk.pending);
                }
                Err(fault) => {
                    log::warn!("domain {}: its block ring: impossible index: {fault:?}", disk.domain.0);
                    disk.pending = false;
                    return Err(());
                }
            }
        }
        disk.hold.taken(taken, now, self.cost);
        self.held_back = true;
        Ok(false)
    }

    /// One step of a job.
    fn step(&mut self, number: usize, job: &mut Job, hands: &mut Hands<'_>, now: u64) -> Step {
        let Some(disk) = self.disks.get_mut(job.disk).and_then(Option::as_mut) else {
            return Step::Done(Status::Error);
        };
        if freeze::changes(job.request.operation) {
            if disk.frozen && !job.begun {
                return Step::Wait;
            }
            job.begun = true;
        }
        let asker = Asker { job: u16::try_from(number).unwrap_or(u16::MAX), serial: job.serial };
        let stepped = match job.request.operation {
            Operation::Read => {
                let (memory, zero) = (self.memory.as_ref(), self.zero);
                read::step(job, disk, memory, zero, self.platform, &mut self.totals, hands)
            }
            Operation::Discard => match disk.over {
                Over::Store(overlay) => keep::discard(job, overlay, hands),
                _ => write::discard(job, disk, self.memory.as_mut(), hands),
            },
            Operation::Write => write_to(job, disk, self.memory.as_mut(), asker, self.platform, hands),
            Operation::Flush => flush(job, disk, asker, hands),
            Operation::Barrier => {
                let stepped = match job.stage.part(disk.jobs == 1) {
                    Part::Wait => Ok(Step::Wait),
                    Part::Flush => flush(job, disk, asker, hands),
                    Part::Write => write_to(job, disk, self.memory.as_mut(), asker, self.platform, hands),
                };
                barrier::stepped(job, stepped)
            }
        };
        match stepped {
            Ok(step) => {
                job.starved = None;
                step
            }
            Err(job::NoRoom) => {
                self.starved = true;
                // As long as something is on its way to the store's disk, room comes free.
                if hands.overlays.as_ref().is_some_and(|overlays| overlays.is_busy()) {
                    job.starved = None;
                    return Step::Wait;
                }
                let since = *job.starved.get_or_insert(now);
                if now.saturating_sub(since) > PATIENCE_NS { Step::Done(Status::Error) } else { Step::Wait }
            }
        }
    }

    fn answer(&mut self, job: &Job, status: Status, now: u64) {
        let Some(disk) = self.disks.get_mut(job.disk).and_then(Option::as_mut) else { return };
        disk.jobs = disk.jobs.saturating_sub(1);
        if job.request.operation == Operation::Barrier {
            disk.barred = false;
        }
        disk.urgent |= matches!(job.request.operation, Operation::Flush | Operation::Barrier);
        // One that waits for the others.
        self.awake |= disk.barred && disk.jobs == 1;
        // It may have stopped taking requests for want of a place.
        disk.pending = true;
        let took = now.saturating_sub(job.taken_ns);
        disk.requests.answered(&job.request, status == Status::Okay, took, &mut self.totals);
        if let Some(ring) = &mut disk.ring
            && ring.complete(job.request.tag, status).is_err()
        {
            log::error!("bug: domain {}: a request was answered twice", disk.domain.0);
        }
    }
}

/// Writes to wherever the disk keeps what is written.
fn write_to(
    job: &mut Job,
    disk: &mut GuestDisk,
    memory: Option<&mut InMemory>,
    asker: Asker,
    platform: Platform,
    hands: &mut Hands<'_>,
) -> Result<Step, job::NoRoom> {
    match disk.over {
        Over::Store(overlay) => keep::write(job, disk, overlay, asker, platform, hands),
        _ => write::step(job, disk, memory, platform, hands),
    }
}

fn flush(job: &mut Job, disk: &GuestDisk, asker: Asker, hands: &mut Hands<'_>) -> Result<Step, job::NoRoom> {
    match disk.over {
        Over::Store(_) => keep::flush(job, asker, hands),
        // What is only in memory promises no more than that.
        _ => Ok(Step::Done(Status::Okay)),
    }
}
