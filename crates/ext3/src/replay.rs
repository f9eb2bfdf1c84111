//! The journal that somebody left behind, Linux or this crate: committed transactions are done once more.

use alloc::vec::Vec;

use crate::commit::{COMMIT, DESCRIPTOR, ESCAPED, LAST, Log, MAGIC, SAME_UUID};
use crate::mount::{MountError, read_block, write_block};
use crate::{BLOCK, Device, be32, index};

const REVOKE: u32 = 5;

/// A walk along the journal.
struct Walk<'a, B> {
    log: &'a Log<B>,
    at: u32,
    sequence: u32,
    /// Blocks that may still be looked at: the journal is gone round once.
    left: u32,
}

/// What a block of the journal begins.
enum Part {
    Descriptor,
    Commit,
    Revoke,
    End,
}

impl<B> Walk<'_, B> {
    /// The block at this place, and the next place.
    fn next<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        buffer: &mut Option<B>,
        block: &mut [u8; BLOCK],
    ) -> Result<(), MountError> {
        self.left = self.left.checked_sub(1).ok_or(MountError::Damaged)?;
        let at = self.log.block(self.at).map_err(|_| MountError::Damaged)?;
        self.skip_one();
        read_block(device, buffer, at, block)
    }

    fn skip_one(&mut self) {
        self.at = if self.at + 1 >= self.log.length { self.log.first } else { self.at + 1 };
    }

    fn part(&self, block: &[u8; BLOCK]) -> Part {
        if be32(block, 0) != MAGIC || be32(block, 8) != self.sequence {
            return Part::End;
        }
        match be32(block, 4) {
            DESCRIPTOR => Part::Descriptor,
            COMMIT => Part::Commit,
            REVOKE => Part::Revoke,
            _ => Part::End,
        }
    }
}

/// The copies that a descriptor names: block and flags.
fn tags(block: &[u8; BLOCK]) -> impl Iterator<Item = (u32, u16)> {
    let mut at = 12;
    let mut done = false;
    core::iter::from_fn(move || {
        if done || at + 8 > BLOCK {
            return None;
        }
        let words = be32(block, at + 4);
        let flags = u16::try_from(words & 0xffff).unwrap_or(0);
        let tag = (be32(block, at), flags);
        at += if flags & SAME_UUID == 0 { 24 } else { 8 };
        done = flags & LAST != 0;
        Some(tag)
    })
}

/// Replays from block `start` on. Gives the number of the transaction that would have followed.
pub(crate) fn replay<D: Device>(
    device: &mut D,
    buffer: &mut Option<D::Buffer>,
    log: &Log<D::Buffer>,
    start: u32,
    blocks: u32,
) -> Result<u32, MountError> {
    let mut block = [0; BLOCK];
    let mut revoked: Vec<(u32, u32)> = Vec::new();
    let begin = || Walk { log, at: start, sequence: log.sequence, left: log.length };
    let mut walk = begin();
    // How far it is good, and what is revoked on the way.
    let mut kept = 0;
    let end = loop {
        match walk.next(device, buffer, &mut block) {
            Ok(()) => {}
            Err(MountError::Io) => return Err(MountError::Io),
            Err(_) => break walk.sequence,
        }
        match walk.part(&block) {
            Part::Descriptor => {
                for _ in tags(&block) {
                    walk.skip_one();
                    walk.left = walk.left.saturating_sub(1);
                }
            }
            Part::Commit => {
                walk.sequence = walk.sequence.wrapping_add(1);
                kept = revoked.len();
            }
            Part::Revoke => {
                let count = index(be32(&block, 12)).min(BLOCK);
                for at in (16..count.saturating_sub(3)).step_by(4) {
                    revoked.try_reserve(1).map_err(|_| MountError::NoMemory)?;
                    revoked.push((be32(&block, at), walk.sequence));
                }
            }
            Part::End => break walk.sequence,
        }
    };
    revoked.truncate(kept);
    revoked.sort_unstable();
    let mut walk = begin();
    while walk.sequence != end {
        walk.next(device, buffer, &mut block)?;
        match walk.part(&block) {
            Part::Descriptor => {
                let descriptor = block;
                for (to, flags) in tags(&descriptor) {
                    walk.next(device, buffer, &mut block)?;
                    if to >= blocks {
                        return Err(MountError::Damaged);
                    }
                    if is_revoked(&revoked, to, walk.sequence) {
                        continue;
                    }
                    if flags & ESCAPED != 0 {
                        crate::put(&mut block, 0, &MAGIC.to_be_bytes());
                    }
                    write_block(device, buffer, to, &block)?;
                }
            }
            Part::Commit => walk.sequence = walk.sequence.wrapping_add(1),
            Part::Revoke => {}
            Part::End => return Err(MountError::Damaged),
        }
    }
    Ok(end)
}

/// Whether a transaction of this number or a later one has revoked the block.
fn is_revoked(revoked: &[(u32, u32)], block: u32, sequence: u32) -> bool {
    let from = revoked.partition_point(|(other, _)| *other < block);
    let of_block = revoked.get(from..).unwrap_or_default().iter().take_while(|(other, _)| *other == block);
    of_block.into_iter().any(|(_, by)| by.wrapping_sub(sequence) < 1 << 31)
}
