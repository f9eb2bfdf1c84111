//! Frames of memory.

/// No frame is left, and none could be had from the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfFrames;

/// Pages of memory, for `/proc/meminfo` and the figures.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct FrameCount {
    /// Most that this domain may have.
    pub ceiling: u64,
    /// Could be allocated now, counting what the hypervisor would give.
    pub available: u64,
    /// The kernel's own: image, tables, heap, rings (KAS).
    pub kernel: u64,
    /// Times that the hypervisor refused a frame.
    pub populate_failed: u64,
}

/// Frames of memory: what the domain has, and what is in each.
pub trait Frames {
    /// A private frame that is not mapped. It is consumed by mapping and comes back by
    /// [`take`](super::AddressSpace::take).
    type Frame;

    /// A frame of zeroes.
    ///
    /// # Errors
    /// [`OutOfFrames`] within a second, also where the hypervisor has none.
    fn allocate(&mut self) -> Result<Self::Frame, OutOfFrames>;
    /// A frame with any content of this domain's, to be written whole.
    ///
    /// # Errors
    /// As [`Frames::allocate`].
    fn allocate_unfilled(&mut self) -> Result<Self::Frame, OutOfFrames>;
    /// Gives a frame back.
    fn release(&mut self, frame: Self::Frame);
    /// How much there is.
    fn frames(&self) -> FrameCount;
    /// What the kernel's own pages are used for, and what else the domain has: a name and a number of pages for each use.
    fn account(&self, _each: &mut dyn FnMut(&'static str, u64)) {}
    /// Bytes that the kernel's own heap has left.
    fn heap_left(&self) -> usize;
    /// Reads from a frame; the range lies within its 4096 bytes.
    fn read_frame(&self, frame: &Self::Frame, offset: usize, to: &mut [u8]);
    /// Writes to a frame; the range lies within its 4096 bytes.
    fn write_frame(&mut self, frame: &Self::Frame, offset: usize, from: &[u8]);
}
