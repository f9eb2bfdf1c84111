//! What M1's block service does, against a naive model of what is on disks and what is dirty.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::model::VOLUMES;
use super::world::{Bytes, World, bytes};
use crate::*;

/// A page of a volume.
type Key = (u16, u64);

/// The naive model.
#[derive(Default)]
pub(super) struct Blocks {
    /// Pages whose bytes are other than those of [`bytes`].
    disk: BTreeMap<Key, Bytes>,
    /// Dirty pages: their frame, and what was written there.
    pub(super) dirty: BTreeMap<Key, (FrameId, Bytes)>,
    /// What the disk will give for frames that are being read.
    pub(super) asked: BTreeMap<u32, Bytes>,
    /// Pages that somebody waits for.
    wanted: BTreeSet<Key>,
    /// Pages whose last read failed, as far as nobody was told.
    pub(super) failed: BTreeSet<Key>,
    versions: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Deed {
    Want {
        volume: u8,
        page: u16,
        ahead: u8,
    },
    Resident {
        volume: u8,
        page: u16,
    },
    /// All those who wait look again.
    Poll,
    Fill {
        memory: bool,
        page: u16,
    },
    Written {
        which: u8,
        good: bool,
    },
    Forget {
        volume: u8,
        page: u16,
    },
}

pub(super) fn deed() -> impl Strategy<Value = Deed> {
    let (v, page) = (any::<u8>(), any::<u16>());
    prop_oneof![
        6 => (v, page, 0u8..20).prop_map(|(volume, page, ahead)| Deed::Want { volume, page, ahead }),
        2 => (v, page).prop_map(|(volume, page)| Deed::Resident { volume, page }),
        3 => Just(Deed::Poll),
        6 => (any::<bool>(), page).prop_map(|(memory, page)| Deed::Fill { memory, page }),
        4 => (any::<u8>(), any::<bool>()).prop_map(|(which, good)| Deed::Written { which, good }),
        3 => (v, page).prop_map(|(volume, page)| Deed::Forget { volume, page }),
    ]
}

/// A page of one of the world's volumes, or now and then one just beyond its end.
fn key(volume: u8, page: u16) -> Key {
    let volume = usize::from(volume) % VOLUMES.len();
    (u16::try_from(volume).unwrap(), u64::from(page) * 7 % 90 * (VOLUMES[volume].0 + 1) / 90)
}

impl World {
    /// What the volume's disk has there, or what was there when it was lost.
    pub(super) fn expected(&self, volume: VolumeId, page: u64) -> Bytes {
        if self.engine.frozen_volume() == Some(volume) {
            return self.frozen[&page];
        }
        let written = self.blocks.disk.get(&(volume.0, page));
        written.copied().unwrap_or_else(|| bytes(volume, page))
    }

    /// Bytes that were nowhere before.
    fn news(&mut self) -> Bytes {
        self.blocks.versions += 1;
        let mut news = *b"written by blks.";
        news[..4].copy_from_slice(&self.blocks.versions.to_le_bytes());
        news
    }

    /// A cached frame has what a guest must read there.
    fn judge(&self, (volume, page): Key, frame: FrameId) {
        let dirty = self.blocks.dirty.get(&(volume, page));
        let expected = dirty.map_or_else(|| self.expected(VolumeId(volume), page), |(_, bytes)| *bytes);
        assert_eq!(self.frames[frame.0 as usize], expected, "page {page} of volume {volume}");
    }

    pub(super) fn want(&mut self, key: Key, ahead: u32) -> Wanted {
        let (volume, page) = key;
        let wanted = self.engine.want(VolumeId(volume), page, ahead, &mut self.table, &mut self.out);
        self.perform();
        let absent = self.kind(volume) == Sharing::Memory && !self.blocks.dirty.contains_key(&key);
        let none = absent || page >= u64::from(self.engine.volumes[usize::from(volume)].pages);
        match wanted {
            Wanted::Resident(frame) => self.judge(key, frame),
            Wanted::Failed => assert!(none || self.blocks.failed.remove(&key), "{key:?} did not fail"),
            Wanted::Reading => assert!(!none),
            Wanted::NoRoom => assert!(!none),
        }
        if matches!(wanted, Wanted::Reading | Wanted::NoRoom) {
            self.blocks.wanted.insert(key);
        } else {
            self.blocks.wanted.remove(&key);
        }
        wanted
    }

    pub(super) fn kind(&self, volume: u16) -> Sharing {
        self.engine.volumes[usize::from(volume)].sharing
    }

    pub(super) fn fill(&mut self, key: Key) -> Result<FrameId, FillError> {
        let filled = self.engine.fill(VolumeId(key.0), key.1, &mut self.table);
        match filled {
            Ok(frame) => {
                let news = self.news();
                self.frames[frame.0 as usize] = news;
                assert!(self.blocks.dirty.insert(key, (frame, news)).is_none());
            }
            Err(FillError::Dirty) => assert!(self.blocks.dirty.contains_key(&key)),
            Err(FillError::NoPage) => {
                let rings = matches!(self.kind(key.0), Sharing::Map | Sharing::Copy);
                assert!(rings || key.1 >= u64::from(self.engine.volumes[usize::from(key.0)].pages));
            }
            Err(FillError::NoRoom) => {}
        }
        filled
    }

    /// The writing of a dirty page to its disk ends.
    pub(super) fn written(&mut self, key: Key, good: bool) {
        let Some((frame, bytes)) = self.blocks.dirty.remove(&key) else { return };
        if good && self.kind(key.0) != Sharing::Memory {
            self.blocks.disk.insert(key, bytes);
            self.engine.filled(frame).unwrap();
        } else {
            // What is there now is neither the old nor the new.
            let news = self.news();
            self.blocks.disk.insert(key, news);
            self.engine.unfill(frame).unwrap();
        }
        self.advance();
    }

    pub(super) fn forget(&mut self, key: Key) -> Forgot {
        let forgot = self.engine.forget(VolumeId(key.0), key.1);
        match forgot {
            Forgot::Done if matches!(self.kind(key.0), Sharing::Private | Sharing::Memory) => {
                // The block is free: somebody else writes there.
                let news = self.news();
                self.blocks.disk.insert(key, news);
                if let Some((frame, _)) = self.blocks.dirty.remove(&key) {
                    assert_eq!(self.kind(key.0), Sharing::Memory, "{frame:?} is on its way to a disk");
                }
            }
            Forgot::Dirty => assert!(self.blocks.dirty.contains_key(&key)),
            Forgot::Later => assert!(matches!(self.kind(key.0), Sharing::Map | Sharing::Copy)),
            Forgot::Absent | Forgot::Done => {}
        }
        self.advance();
        forgot
    }

    pub(super) fn block(&mut self, deed: Deed) {
        match deed {
            Deed::Want { volume, page, ahead } => {
                self.want(key(volume, page), u32::from(ahead));
            }
            Deed::Resident { volume, page } => {
                let key = key(volume, page);
                if let Some(frame) = self.engine.resident(VolumeId(key.0), key.1) {
                    self.judge(key, frame);
                } else {
                    assert!(!self.blocks.dirty.contains_key(&key));
                }
            }
            Deed::Poll => {
                for key in self.blocks.wanted.clone() {
                    self.want(key, 4);
                }
            }
            Deed::Fill { memory, page } => {
                let _ = self.fill(key(if memory { 5 } else { 4 }, page));
            }
            Deed::Written { which, good } => {
                let passing = |key: &&Key| self.kind(key.0) == Sharing::Private;
                let passing: Vec<_> = self.blocks.dirty.keys().filter(passing).copied().collect();
                if let Some(which) = usize::from(which).checked_rem(passing.len()) {
                    self.written(passing[which], good);
                }
            }
            Deed::Forget { volume, page } => {
                self.forget(key(volume, page));
            }
        }
    }

    /// Nothing stays dirty.
    pub(super) fn end_dirty(&mut self) {
        for key in self.blocks.dirty.keys().copied().collect::<Vec<_>>() {
            if self.kind(key.0) == Sharing::Memory {
                assert_eq!(self.forget(key), Forgot::Done);
            } else {
                self.written(key, true);
            }
        }
    }

    /// Nobody of the block service waits for ever.
    pub(super) fn end_blocks(&mut self) {
        self.end_dirty();
        for key in self.blocks.wanted.clone() {
            let done = (0..50).any(|_| match self.want(key, 0) {
                Wanted::Resident(_) | Wanted::Failed => true,
                // Who looks at once finds it; later it may have made room for others.
                Wanted::Reading if !self.reads.is_empty() => {
                    self.end_read_only(0);
                    false
                }
                Wanted::Reading | Wanted::NoRoom => {
                    self.settle_reads();
                    self.engine.sweep(1, &mut self.table);
                    false
                }
            });
            assert!(done || self.engine.frames_at_hand() == 0, "{key:?} is never there");
        }
    }
}
