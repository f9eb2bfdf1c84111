//! Random sequences: whatever happens in whatever order, every client reads the bytes that it should.

use proptest::prelude::*;

use super::blocks::{Deed, deed};
use super::world::{Shape, World};
use crate::{Copied, Limits, Sharing};

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Connect { volumes: u8, window: u8 },
    Touch { peer: u8, ring: u8, page: u16 },
    Sequence { peer: u8, ring: u8, page: u16 },
    Around { peer: u8, ring: u8, page: u16 },
    Copy { peer: u8, page: u16 },
    Unmap { peer: u8, ring: u8, which: u16 },
    UnmapAll { peer: u8, ring: u8 },
    GiveBack { peer: u8, ring: u8, windows: u8 },
    Deliver { peer: u8, ring: u8 },
    Obey { peer: u8, ring: u8 },
    EndRead { which: u8 },
    EndCopy { good: bool },
    Bad { volume: u8, page: u16 },
    LoseRead,
    Block(Deed),
    Disconnect { peer: u8 },
    Bury { ghost: u8 },
    Sweep { budget: u8 },
    Scan { budget: u8 },
    Settle,
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let (p, r, page) = (any::<u8>(), any::<u8>(), any::<u16>());
    prop_oneof![
        2 => (any::<u8>(), any::<u8>()).prop_map(|(volumes, window)| Step::Connect { volumes, window }),
        12 => (p, r, page).prop_map(|(peer, ring, page)| Step::Touch { peer, ring, page }),
        4 => (p, r, page).prop_map(|(peer, ring, page)| Step::Sequence { peer, ring, page }),
        4 => (p, r, page).prop_map(|(peer, ring, page)| Step::Around { peer, ring, page }),
        2 => (p, page).prop_map(|(peer, page)| Step::Copy { peer, page }),
        4 => (p, r, any::<u16>()).prop_map(|(peer, ring, which)| Step::Unmap { peer, ring, which }),
        2 => (p, r).prop_map(|(peer, ring)| Step::UnmapAll { peer, ring }),
        2 => (p, r, any::<u8>()).prop_map(|(peer, ring, windows)| Step::GiveBack { peer, ring, windows }),
        12 => (p, r).prop_map(|(peer, ring)| Step::Deliver { peer, ring }),
        3 => (p, r).prop_map(|(peer, ring)| Step::Obey { peer, ring }),
        10 => any::<u8>().prop_map(|which| Step::EndRead { which }),
        4 => any::<bool>().prop_map(|good| Step::EndCopy { good }),
        1 => Just(Step::LoseRead),
        14 => deed().prop_map(Step::Block),
        1 => (any::<u8>(), page).prop_map(|(volume, page)| Step::Bad { volume, page }),
        1 => p.prop_map(|peer| Step::Disconnect { peer }),
        1 => any::<u8>().prop_map(|ghost| Step::Bury { ghost }),
        2 => any::<u8>().prop_map(|budget| Step::Sweep { budget }),
        2 => any::<u8>().prop_map(|budget| Step::Scan { budget }),
        2 => Just(Step::Settle),
    ]
}

pub(super) fn shape() -> impl Strategy<Value = Shape> {
    let windows = prop_oneof![Just(1u32), Just(4), Just(16), Just(64), Just(512)];
    (
        10u32..80,
        16u32..700,
        windows,
        1u32..6,
        1u32..5,
        (1u32..17, 1u32..40),
        (16u32..300, 8u32..100),
        0u32..100,
    )
        .prop_map(
            |(
                frames,
                references,
                window,
                reserve,
                reads,
                (read_run, read_ahead),
                (client_references, client_pages),
                dirty,
            )| Shape {
                frames,
                references,
                rows: 24,
                limits: Limits {
                    first_reference: 100,
                    window,
                    read_ahead,
                    read_run,
                    reads,
                    reserve,
                    dirty,
                    client_references,
                    client_pages,
                    metadata_pages: 77,
                    seed: 9,
                },
                ..Shape::default()
            },
        )
}

/// Volumes of every world: two of one group, one of another, and one of the first that is only copied.
/// And two that no ring leads to, one of them without a disk.
pub(super) const VOLUMES: [(u64, u16, Sharing); 6] = [
    (300, 1, Sharing::Map),
    (37, 1, Sharing::Map),
    (600, 2, Sharing::Map),
    (50, 1, Sharing::Copy),
    (80, 1, Sharing::Private),
    (30, 1, Sharing::Memory),
];

pub(super) struct Run {
    pub(super) world: World,
    volumes: Vec<(crate::VolumeId, u64)>,
}

impl Run {
    pub(super) fn new(shape: Shape) -> Self {
        let mut world = World::new(shape);
        let volumes = VOLUMES
            .iter()
            .map(|(pages, group, sharing)| (world.volume(*pages, *group, *sharing), *pages))
            .collect();
        Self { world, volumes }
    }

    /// A ring of a peer, where there are any.
    fn ring(&self, peer: u8, ring: u8) -> Option<(usize, usize)> {
        let peer = usize::from(peer).checked_rem(self.world.peers.len())?;
        let ring = usize::from(ring).checked_rem(self.world.peers[peer].rings.len())?;
        Some((peer, ring))
    }

    /// A page of the ring's volume, or now and then one just beyond its end.
    fn page(&self, peer: usize, ring: usize, page: u16) -> u64 {
        let pages = VOLUMES[usize::from(self.world.peers[peer].rings[ring].volume.0)].0;
        // Few enough that they are asked for again and again.
        (u64::from(page) * 7 % 90) * (pages + 1) / 90
    }

    pub(super) fn step(&mut self, step: Step) {
        let world = &self.world;
        let peers = world.peers.len();
        match step {
            Step::Connect { volumes, window } => {
                let volumes: Vec<_> = self
                    .volumes
                    .iter()
                    .enumerate()
                    .filter(|(i, _)| volumes >> i & 1 == 1)
                    .map(|(_, v)| *v)
                    .collect();
                self.world.connect(&volumes, 1 << (window % 10));
            }
            Step::Touch { peer, ring, page } => {
                if let Some((peer, ring)) = self.ring(peer, ring) {
                    let page = self.page(peer, ring, page);
                    self.world.touch(peer, ring, page);
                }
            }
            Step::Sequence { peer, ring, page } => {
                if let Some((peer, ring)) = self.ring(peer, ring) {
                    let first = self.page(peer, ring, page);
                    for page in first..first + 40 {
                        self.world.touch(peer, ring, page);
                        self.world.end_read(0);
                        while self.world.deliver(peer, ring) {}
                    }
                }
            }
            Step::Around { peer, ring, page } => {
                if let Some((peer, ring)) = self.ring(peer, ring) {
                    let page = self.page(peer, ring, page);
                    self.world.fault_around(peer, ring, page);
                }
            }
            Step::Copy { peer, page } => {
                if let Some((peer, ring)) = self.ring(peer, 0) {
                    let page = self.page(peer, ring, page);
                    self.world.copy(peer, ring, page);
                }
            }
            Step::Unmap { peer, ring, which } => {
                if let Some((peer, ring)) = self.ring(peer, ring) {
                    self.world.unmap(peer, ring, usize::from(which));
                }
            }
            Step::UnmapAll { peer, ring } => {
                if let Some((peer, ring)) = self.ring(peer, ring) {
                    while !self.world.peers[peer].rings[ring].maps.is_empty() {
                        self.world.unmap(peer, ring, 0);
                    }
                }
            }
            Step::GiveBack { peer, ring, windows } => {
                if let Some((peer, ring)) = self.ring(peer, ring) {
                    self.world.peers[peer].rings[ring].mm.give_back(u32::from(windows % 8));
                    self.world.pump(peer, ring);
                }
            }
            Step::Deliver { peer, ring } => {
                if let Some((peer, ring)) = self.ring(peer, ring) {
                    self.world.deliver(peer, ring);
                }
            }
            Step::Obey { peer, ring } => {
                if let Some((peer, ring)) = self.ring(peer, ring) {
                    self.world.obey(peer, ring);
                }
            }
            Step::EndRead { which } => self.world.end_read(usize::from(which)),
            Step::EndCopy { good } => {
                self.world.end_copy(if good { Copied::Done } else { Copied::BadReference })
            }
            // Not so many that nothing is left.
            Step::LoseRead if self.world.lost.len() < 8 => self.world.lose_read(),
            Step::LoseRead => {}
            Step::Bad { volume, page } => {
                let volume = volume % 5;
                self.world.bad.insert((u16::from(volume), u64::from(page) % VOLUMES[usize::from(volume)].0));
            }
            Step::Block(deed) => self.world.block(deed),
            Step::Disconnect { peer } => {
                if let Some(peer) = usize::from(peer).checked_rem(peers) {
                    self.world.disconnect(peer);
                }
            }
            Step::Bury { ghost } => self.world.bury(usize::from(ghost)),
            Step::Sweep { budget } => {
                let world = &mut self.world;
                world.engine.sweep(u32::from(budget % 8), &mut world.table);
            }
            Step::Scan { budget } => {
                self.world.engine.scan(u32::from(budget), &self.world.table);
            }
            Step::Settle => self.world.settle(),
        }
    }
}

proptest! {
    #![proptest_config(super::config(400))]

    #[test]
    fn every_client_reads_the_bytes_of_the_page_that_it_mapped(
        shape in shape(),
        steps in proptest::collection::vec(step(), 1..250),
    ) {
        let mut run = Run::new(shape);
        run.step(Step::Connect { volumes: 1, window: 9 });
        for step in steps {
            run.step(step);
            run.world.verify();
            run.world.check();
        }
        // Nobody waits for ever, as long as what is written to disks gets there.
        run.world.end_dirty();
        run.world.settle();
        run.world.settle();
        for ring in run.world.peers.iter().flat_map(|peer| &peer.rings) {
            prop_assert!(ring.waiting.is_empty(), "{:?} still waits for {:?}", ring.id, ring.waiting);
        }
        run.world.end();
    }
}
