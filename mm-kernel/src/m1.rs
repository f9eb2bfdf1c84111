//! M1's state, all of it.

use mm_engine::Engine;
use mm_http::{NetConfig, NetMemory, NetService};
use xen::console::Console;
use xen::{Clock, Events, Hypervisor, Port};
use xen_drivers::netfront::NetFront;
use xen_drivers::vbdback::{DeviceId, VbdBackend};
use xen_drivers::{Frame, Platform};

use crate::block::Block;
use crate::config::Config;
use crate::control::Control;
use crate::devices::Devices;
use crate::disks::Disk;
use crate::effects::Hands;
use crate::lending::Lending;
use crate::overlays::Overlays;
use crate::pages::{Facts, Host};
use crate::refusals::Refusals;
use crate::snapshots::Snapshots;
use crate::volumes::{VolumeState, Volumes};

/// Devices that can wait for their volume's disk.
pub(crate) const UNDECIDED: usize = 64;

/// The memory-manager domain. What is large has a place of its own, so that building it takes little of the stack.
pub struct M1 {
    pub(crate) config: &'static mut Config,
    pub(crate) platform: Platform,
    pub(crate) hypervisor: &'static (dyn Hypervisor + Sync),
    pub(crate) events: Events,
    pub(crate) clock: Clock,
    pub(crate) console: Console,
    pub(crate) xenstore: &'static mut xenstore::Connection,
    pub(crate) xenstore_port: Port,
    /// Held so that it is never bound twice; its events only wake the loop.
    pub(crate) _timer: Port,
    pub(crate) network: Network,
    /// What dom0 has M1 do.
    pub(crate) control: Control,
    /// A disk and an info page for each volume that has one.
    pub(crate) disks: &'static mut [Option<&'static mut Disk>],
    pub(crate) infos: &'static mut [Option<Frame>],
    pub(crate) volumes: &'static mut Volumes,
    pub(crate) engine: &'static mut Engine<'static>,
    pub(crate) lending: Lending,
    pub(crate) devices: Devices,
    /// What clients keep, where there is a disk for it.
    pub(crate) overlays: Option<&'static mut Overlays>,
    /// Their disks, for frontends that know no map service.
    pub(crate) block: Block,
    /// The same devices as dom0 sees them.
    pub(crate) backend: VbdBackend<'static>,
    /// Devices whose volume is not known yet.
    pub(crate) undecided: heapless::Vec<DeviceId, UNDECIDED>,
    /// References that the engine may come to have, and the first of them.
    pub(crate) references: u32,
    pub(crate) first_reference: u32,
    pub(crate) refusals: Refusals,
    /// Frozen clients.
    pub(crate) snapshots: &'static mut Snapshots,
    /// Seconds since 1970.
    pub(crate) started: u64,
    pub(crate) turns: u64,
    pub(crate) ring_faults: u64,
    pub(crate) closed: u64,
    /// When xenstore was looked at again without a reason.
    pub(crate) rechecked: u64,
    /// Xenstore and the network are to be looked at in the next turn, or at this time at the latest.
    pub(crate) look: bool,
    pub(crate) look_at: u64,
    /// Something came from a disk without an event.
    pub(crate) disks_came: bool,
    /// What the timer is set to.
    pub(crate) timer_at: Option<u64>,
}

// Building it takes this much of the stack twice, and that has 128 KiB.
const _: () = assert!(size_of::<M1>() <= 24 * 1024);

/// The card and the service on it.
pub(crate) struct Network {
    pub(crate) card: &'static mut NetFront,
    /// Until there is a service.
    pub(crate) memory: Option<NetMemory<'static>>,
    pub(crate) service: Option<NetService<'static>>,
    /// When it wants to be polled, at the latest.
    pub(crate) deadline: Option<u64>,
}

impl M1 {
    /// For carrying out effects.
    pub(crate) fn hands(&mut self) -> Hands<'_> {
        self.block_and_hands().1
    }

    /// What has come from the store's disk, and what can go there. True if something came.
    pub(crate) fn overlays_turn(&mut self) -> bool {
        let Some(overlays) = &mut self.overlays else { return false };
        let mut hands = Hands {
            engine: self.engine,
            lending: &mut self.lending,
            devices: &mut self.devices,
            disks: self.disks,
            overlays: None,
            volumes: self.volumes,
            snapshots: self.snapshots,
            clock: self.clock,
            hypervisor: self.hypervisor,
        };
        let came = overlays.turn(&mut hands);
        while let Some(finished) = overlays.take_finished() {
            if finished.asker == crate::overlays::KEEPER {
                self.snapshots.keeper.finished(&finished);
            } else {
                self.block.finished(&finished);
            }
        }
        if came {
            self.block.wake();
        }
        came
    }

    /// The block service, and what it carries out effects with.
    pub(crate) fn block_and_hands(&mut self) -> (&mut Block, Hands<'_>) {
        let hands = Hands {
            engine: self.engine,
            lending: &mut self.lending,
            devices: &mut self.devices,
            disks: self.disks,
            overlays: self.overlays.as_deref_mut(),
            volumes: self.volumes,
            snapshots: self.snapshots,
            clock: self.clock,
            hypervisor: self.hypervisor,
        };
        (&mut self.block, hands)
    }

    /// One turn of the network: frames in, requests answered, frames out.
    pub(crate) fn network_turn(&mut self, now: u64) {
        if self.network.service.is_none()
            && let Some(mac) = self.network.card.mac()
            && let Some(memory) = self.network.memory.take()
        {
            let config = NetConfig {
                mac,
                addressing: self.config.ip,
                port: self.config.http_port,
                allow: self.config.http_allow,
                reserve: mm_http::RESERVE,
                limits: mm_http::Limits::default(),
                seed: xen::clock::tsc(),
            };
            match NetService::new(&config, memory, self.network.card, now) {
                Ok(service) => self.network.service = Some(service),
                Err(error) => log::error!("no endpoint: {error}"),
            }
        }
        if self.network.service.is_none() {
            return;
        }
        let (mut facts, network, _) = self.facts(now);
        let Some(service) = &mut network.service else { return };
        network.deadline = service.poll(network.card, now, Some(facts.now), &mut facts);
        network.card.flush();
    }

    /// What pages are made of at this moment, and the two that show them.
    pub(crate) fn facts(&mut self, now: u64) -> (Facts<'_>, &mut Network, &mut Control) {
        let host = Host {
            version: self.hypervisor.xen_version(),
            grant_frames: self.platform.grants.frames(),
            grant_frames_max: self.platform.grants.frames_max(),
            own_references: self.platform.refs.taken(),
            ports: u32::try_from(self.devices.iter().count() + self.disks.iter().flatten().count() + 4)
                .unwrap_or(u32::MAX),
            ports_max: xen_sys::event::PORTS,
            console_dropped: self.console.dropped(),
        };
        let wall = self.clock.unix_ns() / 1_000_000_000;
        let facts = Facts {
            config: self.config,
            engine: self.engine,
            block: &self.block,
            overlays: self.overlays.as_deref(),
            lending: &self.lending,
            volumes: self.volumes,
            refusals: &self.refusals,
            snapshots: self.snapshots,
            host,
            ring_faults: self.ring_faults,
            closed: self.closed,
            strangers: self.backend.strangers(now),
            turns: self.turns,
            control: self.control.counters(),
            started: self.started,
            now: wall,
            ready: self.volumes.iter().any(|volume| volume.state == VolumeState::Serving),
        };
        (facts, &mut self.network, &mut self.control)
    }
}
