//! Where the blocks of a file are: twelve in the inode, then trees of one, two and three levels.

use crate::cache::Dirt;
use crate::inode::Inode;
use crate::{Device, Error, Ext3, Ino, index};

/// Blocks that the inode names itself, and numbers in a block of the tree.
const DIRECT: u32 = 12;
const FAN: u64 = 1024;
/// Sectors of 512 bytes in a block.
const SECTORS: u32 = 8;

/// The way to a block: where it starts in the inode, and the numbers to follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Way {
    slot: usize,
    steps: [u32; 3],
    depth: usize,
}

impl Way {
    fn to(block: u32) -> Result<Self, Error> {
        let Some(rest) = block.checked_sub(DIRECT) else {
            return Ok(Self { slot: index(block), steps: [0; 3], depth: 0 });
        };
        let mut rest = u64::from(rest);
        for depth in 1..=3 {
            let span = FAN.pow(depth);
            if rest < span {
                let step = |level: u32| u32::try_from(rest / FAN.pow(depth - 1 - level) % FAN).unwrap_or(0);
                let mut steps = [0; 3];
                for (step_at, level) in steps.iter_mut().zip(0..depth) {
                    *step_at = step(level);
                }
                return Ok(Self { slot: 11 + index(depth), steps, depth: index(depth) });
            }
            rest -= span;
        }
        Err(Error::TooLarge)
    }

    fn steps(&self) -> &[u32] {
        self.steps.get(..self.depth).unwrap_or_default()
    }
}

impl<B> Ext3<B> {
    /// The block behind block `at` of the file; `None` is a hole.
    pub(crate) fn map<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &Inode,
        at: u32,
    ) -> Result<Option<u32>, Error> {
        Ok(self.follow(device, inode, at)?.ok())
    }

    /// The block, or how many blocks from `at` on are a hole for the same reason.
    fn follow<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &Inode,
        at: u32,
    ) -> Result<Result<u32, u64>, Error> {
        let way = Way::to(at)?;
        let mut block = inode.blocks.get(way.slot).copied().unwrap_or(0);
        let mut span = FAN.pow(u32::try_from(way.depth).unwrap_or(0));
        let mut within = if way.depth == 0 { 0 } else { u64::from(at - DIRECT) };
        for depth in 1..way.depth {
            within -= FAN.pow(u32::try_from(depth).unwrap_or(0));
        }
        for step in way.steps() {
            if block == 0 {
                return Ok(Err(span - within % span));
            }
            self.check(block)?;
            block = self.word(device, block, 4 * index(*step))?;
            span /= FAN;
        }
        if block == 0 {
            return Ok(Err(1));
        }
        self.check(block)?;
        Ok(Ok(block))
    }

    /// The first block at or after `at` and before `end` that is no hole.
    pub(crate) fn next_mapped<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &Inode,
        at: u32,
        end: u32,
    ) -> Result<Option<u32>, Error> {
        let mut at = u64::from(at);
        while let Some(here) = u32::try_from(at).ok().filter(|here| *here < end) {
            match self.follow(device, inode, here)? {
                Ok(_) => return Ok(Some(here)),
                Err(hole) => at += hole.max(1),
            }
        }
        Ok(None)
    }

    /// The block behind block `at` of the file, made if there is none; tells whether it was. A new one's content is the caller's
    /// to write: it is in memory, all zeroes, to go to the disk as `dirt`. The caller writes the inode.
    pub(crate) fn map_or_make<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        ino: Ino,
        inode: &mut Inode,
        at: u32,
        dirt: Dirt,
    ) -> Result<(u32, bool), Error> {
        if let Some(block) = self.map(device, inode, at)? {
            return Ok((block, false));
        }
        let goal = match at.checked_sub(1) {
            Some(before) => self.map(device, inode, before)?.map(|block| block + 1),
            None => None,
        };
        let group = (ino.0 - 1) / self.geometry.inodes_per_group;
        let goal = goal.unwrap_or(group * self.geometry.blocks_per_group);
        let way = Way::to(at)?;
        let mut here = inode.blocks.get(way.slot).copied().unwrap_or(0);
        let mut from: Option<(u32, usize)> = None;
        for depth in 0..=way.depth {
            if here == 0 {
                let kind = if depth == way.depth { dirt } else { Dirt::Meta };
                here = self.allocate_block(device, goal)?;
                self.cache.fresh(device, here)?;
                self.cache.soil(here, kind);
                inode.sectors = inode.sectors.checked_add(SECTORS).ok_or(Error::TooLarge)?;
                match from {
                    Some((parent, place)) => self.set(device, parent, place, &here.to_le_bytes())?,
                    None => {
                        if let Some(slot) = inode.blocks.get_mut(way.slot) {
                            *slot = here;
                        }
                    }
                }
            }
            if let Some(step) = way.steps().get(depth) {
                self.check(here)?;
                let place = 4 * index(*step);
                from = Some((here, place));
                here = self.word(device, here, place)?;
            }
        }
        Ok((here, true))
    }

    /// Frees blocks from `first` on, as many as the transaction has room for; tells whether all are free.
    pub(crate) fn cut<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &mut Inode,
        first: u32,
    ) -> Result<bool, Error> {
        let mut start = u64::from(DIRECT);
        let starts: [(usize, u32, u64); 3] = core::array::from_fn(|which| {
            let level = u32::try_from(which + 1).unwrap_or(1);
            let at = start;
            start += FAN.pow(level);
            (12 + which, level, at)
        });
        for (slot, level, at) in starts.into_iter().rev() {
            let root = inode.blocks.get(slot).copied().unwrap_or(0);
            let from = u64::from(first).saturating_sub(at);
            if root == 0 || from >= FAN.pow(level) {
                continue;
            }
            if !self.cut_tree(device, inode, root, level, from)? {
                return Ok(false);
            }
            if from == 0 {
                self.drop_block(device, inode, root)?;
                if let Some(place) = inode.blocks.get_mut(slot) {
                    *place = 0;
                }
            }
        }
        for slot in (index(first.min(DIRECT))..12).rev() {
            if self.is_tight() {
                return Ok(false);
            }
            let block = inode.blocks.get_mut(slot).map_or(0, core::mem::take);
            if block != 0 {
                self.drop_block(device, inode, block)?;
            }
        }
        Ok(true)
    }

    fn cut_tree<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &mut Inode,
        tree: u32,
        level: u32,
        from: u64,
    ) -> Result<bool, Error> {
        self.check(tree)?;
        let span = FAN.pow(level - 1);
        for step in (from / span..FAN).rev() {
            let place = 4 * usize::try_from(step).unwrap_or(0);
            let block = self.word(device, tree, place)?;
            if block == 0 {
                continue;
            }
            let within = from.saturating_sub(step * span);
            if level > 1 && !self.cut_tree(device, inode, block, level - 1, within)? {
                return Ok(false);
            }
            if within == 0 {
                if self.is_tight() || self.cache.reserve(device, crate::blocks::CHANGE).is_err() {
                    return Ok(false);
                }
                self.drop_block(device, inode, block)?;
                self.set(device, tree, place, &[0; 4])?;
            }
        }
        Ok(true)
    }

    fn drop_block<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &mut Inode,
        block: u32,
    ) -> Result<(), Error> {
        self.free_block(device, block)?;
        inode.sectors = inode.sectors.saturating_sub(SECTORS);
        Ok(())
    }

    /// Makes a hole of one block.
    pub(crate) fn unmap<D: Device<Buffer = B>>(
        &mut self,
        device: &mut D,
        inode: &mut Inode,
        at: u32,
    ) -> Result<(), Error> {
        let way = Way::to(at)?;
        let mut here = inode.blocks.get(way.slot).copied().unwrap_or(0);
        let mut from = None;
        for step in way.steps() {
            if here == 0 {
                return Ok(());
            }
            self.check(here)?;
            from = Some((here, 4 * index(*step)));
            here = self.word(device, here, 4 * index(*step))?;
        }
        if here == 0 {
            return Ok(());
        }
        self.drop_block(device, inode, here)?;
        match from {
            Some((parent, place)) => self.set(device, parent, place, &[0; 4]),
            None => {
                if let Some(slot) = inode.blocks.get_mut(way.slot) {
                    *slot = 0;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_a_block_is_that_of_ext2() {
        let way = |block| {
            let way = Way::to(block).unwrap();
            (way.slot, way.steps().to_vec())
        };
        assert_eq!(way(11), (11, vec![]));
        assert_eq!(way(12), (12, vec![0]));
        assert_eq!(way(12 + 1023), (12, vec![1023]));
        assert_eq!(way(12 + 1024), (13, vec![0, 0]));
        assert_eq!(way(12 + 1024 + 1025), (13, vec![1, 1]));
        assert_eq!(way(12 + 1024 + 1024 * 1024), (14, vec![0, 0, 0]));
        assert_eq!(Way::to(u32::MAX), Err(Error::TooLarge));
    }
}
