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
    /// Takes the first `count` rows and resets them. The caller has checked that there are as many.
    pub(crate) fn new(rows: &'a mut [T], count: u32) -> Self {
        let rows = rows.get_mut(..count as usize).unwrap_or_default();
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
