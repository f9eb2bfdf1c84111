//! A slice that was handed in at boot, indexed by `u32`, that cannot panic.

/// "Nothing" in a link of a table.
pub(crate) const NIL: u32 = u32::MAX;

/// Rows of `T`. A wild index reads and writes a spare row instead of panicking, and is counted: it can only come from a
/// mistake of this crate, and the count is shown as such.
pub(crate) struct Table<'a, T> {
    rows: &'a mut [T],
    spare: T,
    wild: u32,
}

impl<'a, T: Copy + Default> Table<'a, T> {
    /// Takes the rows and resets them.
    pub(crate) fn new(rows: &'a mut [T]) -> Self {
        rows.fill(T::default());
        Self { rows, spare: T::default(), wild: 0 }
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.rows.len()).unwrap_or(NIL)
    }

    pub(crate) fn at(&self, index: u32) -> &T {
        self.rows.get(index as usize).unwrap_or(&self.spare)
    }

    pub(crate) fn at_mut(&mut self, index: u32) -> &mut T {
        match self.rows.get_mut(index as usize) {
            Some(row) => row,
            None => {
                self.wild = self.wild.saturating_add(1);
                self.spare = T::default();
                &mut self.spare
            }
        }
    }

    /// How often an index was wild.
    pub(crate) fn wild(&self) -> u32 {
        self.wild
    }
}

/// Scrambles a key so that a client cannot choose pages that share a bucket; the seed is the caller's secret.
pub(crate) fn scramble(seed: u64, key: u64) -> u64 {
    // The finalizer of the splitmix64 generator (public domain): every input bit reaches every output bit.
    let mut x = key ^ seed;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
