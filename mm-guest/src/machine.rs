//! What the kernel needs of the machine below it, as one trait: the program's address space, frames, the volume,
//! clocks, randomness and the console.
//!
//! `machine_xen` in the image is the real one. Tests have two: a table of pages in memory, and a traced process of
//! the host whose system calls and faults are answered here.

use mm_proto::{AbortReason, CAPTURE_MAX, SnapshotInfo, VolumeIdentity};

use crate::page::{UserPage, VolumePage};

/// What a page-table entry lets the program do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Prot {
    None,
    Read,
    ReadWrite,
    ReadExec,
    ReadWriteExec,
}

/// The program's registers, as they were when it trapped.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
#[expect(missing_docs, reason = "the names are the processor's")]
pub struct Registers {
    pub rax: u64,
    pub rbx: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    pub rbp: u64,
    pub rsp: u64,
    pub r8: u64,
    pub r9: u64,
    pub r10: u64,
    pub r11: u64,
    pub r12: u64,
    pub r13: u64,
    pub r14: u64,
    pub r15: u64,
    pub rip: u64,
    pub rflags: u64,
    pub fs_base: u64,
    pub gs_base: u64,
}

/// Why the program stopped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// It made a system call: number in `rax`.
    Syscall,
    /// It touched a page that its tables do not allow.
    PageFault {
        /// The address (CR2).
        address: u64,
        /// It wrote.
        write: bool,
        /// It fetched an instruction.
        fetch: bool,
    },
    /// Any other exception.
    Exception {
        /// The processor's vector.
        vector: u8,
        /// Error code, zero where the vector has none.
        code: u32,
    },
    /// Something happened outside (an event, a timer): look at [`Machine::revoked`] and the clocks.
    Event,
}

/// No frame is left, and none could be had from the hypervisor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutOfFrames;

/// The page at this address is absent or does not allow the access.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotThere {
    /// First such address.
    pub address: u64,
}

/// Why a page of the volume cannot be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum VolumeError {
    /// The base disk could not be read there, or the page lies beyond its end.
    Unreadable,
    /// M1 is gone: no answer, and no progress, for a bounded time.
    Gone,
    /// No frame for a copy.
    OutOfFrames,
}

/// How a page of the volume can be had.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lent {
    /// A reference is held already, and M1 was not asked: [`Machine::map_shared`] will do.
    Held,
    /// M1 was asked, and has given a reference: the same.
    Granted,
    /// M1 lends no reference now: [`Machine::copy_volume`] will do.
    CopyOnly,
}

/// One page to be mapped from a held reference, read-only.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedMap {
    /// Where; absent now.
    pub page: UserPage,
    /// Which; its reference is held.
    pub volume: VolumePage,
    /// Whether instructions are fetched from it.
    pub exec: bool,
}

/// A shared page and where it is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SharedPage {
    /// Where.
    pub page: UserPage,
    /// Which.
    pub volume: VolumePage,
}

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

/// A page to be captured: whatever it lets the program do, its content is taken as it is.
#[derive(Debug)]
pub enum Source<'a, F> {
    /// A private page of the program's.
    Mapped(UserPage),
    /// A frame that is not mapped.
    Frame(&'a F),
}

/// A step of a freeze, as `mm_proto::RequestBody` has it.
#[derive(Debug)]
pub enum FreezeStep<'a, F> {
    /// The program stands still; so many pages will be captured at most.
    Begin(u64),
    /// At most [`CAPTURE_MAX`] pages. None of them may change before the answer.
    Capture(&'a [Source<'a, F>]),
    /// Which of 512 pages of the frozen part from this one on are kept.
    Keep(u64, mm_proto::Bitmap),
    /// The snapshot is complete: the page that a clone begins with, and nanoseconds of standing still.
    Commit(u64, u64),
    /// The freeze is given up.
    Abort(AbortReason),
}

/// What came of a step.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FreezeAnswer {
    /// Done; after a capture, which page of the frozen part each page has become.
    Done([u32; CAPTURE_MAX]),
    /// M1 has no room.
    NoRoom,
    /// M1 refused, or could not read a page.
    Refused,
    /// M1 is gone.
    Lost,
}

/// Nanoseconds of the processor's time.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, serde::Serialize, serde::Deserialize)]
pub struct ProcessorTime {
    /// In the program's own code.
    pub user: u64,
    /// In the kernel on its behalf.
    pub system: u64,
}

/// The disk behind `/data`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DataDisk {
    /// Blocks of 4096 bytes.
    pub blocks: u64,
    /// Writes are refused.
    pub read_only: bool,
}

/// The disk failed, or its backend is gone: an input/output error to the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DiskFailed;

/// Most blocks of one call of [`Machine::disk_read`] and [`Machine::disk_write`].
pub const DISK_RUN: usize = 32;

/// The machine. One program, one processor.
pub trait Machine {
    /// A private frame that is not mapped. It is consumed by mapping and comes back by [`Machine::take`].
    type Frame;

    /// A frame of zeroes.
    ///
    /// # Errors
    /// [`OutOfFrames`] within a second, also where the hypervisor has none.
    fn allocate(&mut self) -> Result<Self::Frame, OutOfFrames>;
    /// A frame with any content of this domain's, to be written whole.
    ///
    /// # Errors
    /// As [`Machine::allocate`].
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

    /// Maps a private frame at an absent page.
    ///
    /// # Errors
    /// Gives the frame back where there is no memory for tables.
    fn map_private(&mut self, page: UserPage, frame: Self::Frame, prot: Prot) -> Result<(), Self::Frame>;
    /// Maps a page of the volume, and in the same batch those around it that are held. Bit `i` of `around` stands for page
    /// `i` of the aligned block of 64 that `want.page` lies in; each shows as far from `want.volume` as it lies from
    /// `want.page`. Gives the set of those mapped. Where the page itself is not among them, its reference is dropped and
    /// the next [`Machine::lend`] asks again.
    fn map_shared(&mut self, want: SharedMap, around: u64) -> u64;
    /// Puts a private frame in the place of a shared page: the end of a copy-on-write.
    ///
    /// # Errors
    /// Gives the frame back where the hypervisor refused; nothing is mapped there then.
    fn replace_shared(&mut self, page: SharedPage, frame: Self::Frame, prot: Prot)
    -> Result<(), Self::Frame>;
    /// Unmaps private pages, at most 64, and releases their frames.
    fn unmap(&mut self, pages: &[UserPage]);
    /// Unmaps shared pages, at most 64.
    fn unmap_shared(&mut self, pages: &[SharedPage]);
    /// Unmaps one private page and gives its frame.
    fn take(&mut self, page: UserPage) -> Option<Self::Frame>;
    /// Changes what present private pages allow.
    fn protect(&mut self, pages: &[UserPage], prot: Prot);
    /// Copies a mapped page into a frame.
    fn copy_page(&mut self, from: UserPage, to: &Self::Frame);
    /// Reads the program's memory; never faults.
    ///
    /// # Errors
    /// The first address that is not mapped readable.
    fn read_user(&self, address: u64, to: &mut [u8]) -> Result<(), NotThere>;
    /// Writes the program's memory; never faults.
    ///
    /// # Errors
    /// The first address that is not mapped writable.
    fn write_user(&mut self, address: u64, from: &[u8]) -> Result<(), NotThere>;

    /// Gets a reference to this page, from M1 where none is held; `wanted` pages from there would be of use. Waits, but
    /// not for ever.
    ///
    /// # Errors
    /// [`VolumeError`]: a bus error to the program.
    fn lend(&mut self, page: VolumePage, wanted: u32) -> Result<Lent, VolumeError>;
    /// Copies a page of the volume into a frame, by whatever way there is.
    ///
    /// # Errors
    /// [`VolumeError`], with the frame unless M1 may still write to it.
    fn copy_volume(
        &mut self,
        page: VolumePage,
        to: Self::Frame,
    ) -> Result<Self::Frame, (Option<Self::Frame>, VolumeError)>;
    /// Reads bytes of a page of the volume for the kernel itself.
    ///
    /// # Errors
    /// [`VolumeError`].
    fn read_volume(&mut self, page: VolumePage, offset: usize, to: &mut [u8]) -> Result<(), VolumeError>;
    /// A run of the volume that M1 wants back, first page and count. The kernel unmaps it and calls
    /// [`Machine::revoke_done`].
    fn revoked(&mut self) -> Option<(VolumePage, u64)>;
    /// The run is not mapped any more.
    fn revoke_done(&mut self, page: VolumePage, count: u64);

    /// Identity of the volume's content.
    fn volume_identity(&self) -> VolumeIdentity;
    /// The snapshot that the volume came with, if it did.
    fn snapshot(&self) -> Option<SnapshotInfo>;
    /// Whether M1 has ordered a freeze since this was last asked.
    fn freeze_ordered(&mut self) -> bool;
    /// Sends a step of the freeze. One at a time: its answer is to be taken before the next.
    fn freeze_send(&mut self, step: FreezeStep<'_, Self::Frame>);
    /// The answer to the last step, if there is one already.
    fn freeze_answer(&mut self) -> Option<FreezeAnswer>;
    /// Waits for the answer to the last step, not for ever.
    fn freeze_await(&mut self) -> FreezeAnswer;
    /// Lets the program no longer write to these private pages; what else they allow stays.
    fn write_protect(&mut self, pages: &mut dyn Iterator<Item = UserPage>);
    /// Maps up to 64 pages whose references are held, each at an absent page; gives the set of those that were, in their order.
    fn map_ahead(&mut self, maps: &[SharedMap]) -> u64;
    /// Whether the program has touched a page since [`Machine::map_ahead`] mapped it.
    fn touched(&self, page: UserPage) -> bool;
    /// Has M1 show these figures; they go with what is said next.
    fn report(&mut self, _figures: &crate::kernel::Figures) {}
    /// Tells M1 that the program goes on from a snapshot, and what it touched first, as pages of the volume and the frozen part.
    fn tell_thawed(&mut self);
    /// Tells M1 which of 512 pages from this one on the program touched soon after its thaw.
    fn tell_hot(&mut self, page: u64, bitmap: mm_proto::Bitmap);

    /// Whether the toolstack has asked the domain to end since this was last called.
    fn asked_to_end(&mut self) -> bool;

    /// Runs the program until it traps.
    fn run(&mut self, registers: &mut Registers) -> Exit;
    /// How long the program has used the processor, up to when it trapped last.
    fn processor_time(&self) -> ProcessorTime;
    /// The FXSAVE image of the program.
    fn fpu(&self) -> [u8; 512];
    /// Replaces it. Reserved MXCSR bits are cleared, not trusted.
    fn set_fpu(&mut self, image: &[u8; 512]);

    /// Upper halves of the AVX registers, where the program has them.
    fn vectors(&self) -> Option<[u8; 256]>;
    /// Replaces them. False where this machine has none.
    fn set_vectors(&mut self, halves: &[u8; 256]) -> bool;
    /// Sets the processor time from which this machine counts on.
    fn set_processor_time(&mut self, used: ProcessorTime);

    /// Nanoseconds since some start; never goes back.
    fn monotonic(&self) -> u64;
    /// Sets the moment that it is now by [`Machine::monotonic`]: a thawed program goes on where it stood.
    fn set_monotonic(&mut self, now: u64);
    /// Nanoseconds since 1970.
    fn realtime(&self) -> u64;
    /// Ends [`Machine::run`] with [`Exit::Event`] at that moment (monotonic), or not any more.
    fn set_alarm(&mut self, at: Option<u64>);
    /// Sleeps until the deadline (monotonic), console input, or anything else that happens.
    fn wait(&mut self, deadline: Option<u64>);
    /// Fresh seed material, and whether the processor's own generator contributed.
    fn seed(&mut self) -> ([u8; 32], bool);
    /// CPUID leaf 1 EDX: `AT_HWCAP`.
    fn hwcap(&self) -> u64;

    /// Writes to the console, all of it; what nobody takes for seconds is dropped.
    fn console_write(&mut self, bytes: &[u8]);
    /// Takes what was typed, without waiting.
    fn console_read(&mut self, to: &mut [u8]) -> usize;
    /// Whether something was typed.
    fn console_ready(&mut self) -> bool;

    /// The disk behind `/data`, if the domain has one.
    fn data_disk(&self) -> Option<DataDisk>;
    /// Reads blocks of it from `first` on, 1 to [`DISK_RUN`], into frames. Waits, but not for ever.
    ///
    /// # Errors
    /// [`DiskFailed`].
    fn disk_read(&mut self, first: u64, to: &[Self::Frame]) -> Result<(), DiskFailed>;
    /// Writes blocks of it from `first` on, 1 to [`DISK_RUN`]. Waits, but not for ever.
    ///
    /// # Errors
    /// [`DiskFailed`]; some may have been written.
    fn disk_write(&mut self, first: u64, from: &[&Self::Frame]) -> Result<(), DiskFailed>;
    /// Makes durable what was written. On a disk that knows no flush it is so already.
    ///
    /// # Errors
    /// [`DiskFailed`].
    fn disk_flush(&mut self) -> Result<(), DiskFailed>;
    /// Says that blocks hold nothing any more, where the disk wants to know.
    fn disk_discard(&mut self, first: u64, count: u64);
}
