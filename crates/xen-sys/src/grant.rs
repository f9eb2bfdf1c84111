//! Grant tables, version 1 (`xen/include/public/grant_table.h`).

use core::fmt;

/// Sub-operations of `grant_table_op` (`GNTTABOP_*`).
pub mod op {
    #![expect(missing_docs, reason = "named as in the header")]
    pub const MAP_GRANT_REF: u64 = 0;
    pub const UNMAP_GRANT_REF: u64 = 1;
    pub const SETUP_TABLE: u64 = 2;
    pub const COPY: u64 = 5;
    pub const QUERY_SIZE: u64 = 6;
    pub const UNMAP_AND_REPLACE: u64 = 7;
}

/// Flags of a grant entry (`GTF_*`).
pub mod gtf {
    /// The entry permits access to a frame.
    pub const PERMIT_ACCESS: u16 = 1;
    /// Read-only.
    pub const READONLY: u16 = 4;
    /// Written by Xen: the grantee has it mapped for reading.
    pub const READING: u16 = 8;
    /// Written by Xen: the grantee has it mapped for writing.
    pub const WRITING: u16 = 16;
    /// Bits 0 and 1 give the entry's type; 0 is invalid.
    pub const TYPE_MASK: u16 = 3;
}

/// Flags of a mapping (`GNTMAP_*`).
pub mod gntmap {
    /// Make a page-table entry for the CPU.
    pub const HOST_MAP: u32 = 2;
    /// Read-only.
    pub const READONLY: u32 = 4;
    /// Reachable from user mode.
    pub const APPLICATION_MAP: u32 = 8;
    /// `host_addr` is the machine address of the page-table entry.
    pub const CONTAINS_PTE: u32 = 16;
}

/// Flags of a copy (`GNTCOPY_*`).
pub mod gntcopy {
    /// The source is a grant reference.
    pub const SOURCE_GREF: u16 = 1;
    /// The destination is a grant reference.
    pub const DEST_GREF: u16 = 2;
}

/// Entries of one frame of a version 1 table.
pub const ENTRIES_PER_FRAME: u32 = 512;
/// References below this one belong to the toolstack: 0 console, 1 xenstore (`GNTTAB_NR_RESERVED_ENTRIES`).
pub const RESERVED_ENTRIES: u32 = 8;
/// Xen flushes the TLB once for this many unmaps (`GNTTAB_UNMAP_BATCH_SIZE` in `xen/common/grant_table.c`).
pub const UNMAP_BATCH: usize = 32;

/// The result of one grant operation (`GNTST_*`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[must_use]
#[repr(transparent)]
pub struct GrantStatus(pub i16);

macro_rules! statuses {
    ($($name:ident = $number:literal $what:literal),* $(,)?) => {
        impl GrantStatus {
            $(#[doc = $what] pub const $name: Self = Self($number);)*

            /// The constant's name, if it is one of those above.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($number => Some(stringify!($name)),)* _ => None }
            }
        }
    };
}

statuses! {
    OKAY = 0 "Done.",
    GENERAL_ERROR = -1 "Refused: wrong domain, wrong access, or cleared.",
    BAD_DOMAIN = -2 "No such domain: it is gone.",
    BAD_GNTREF = -3 "No such reference.",
    BAD_HANDLE = -4 "No such mapping.",
    BAD_VIRT_ADDR = -5 "Inappropriate virtual address.",
    BAD_DEV_ADDR = -6 "Inappropriate device address.",
    NO_DEVICE_SPACE = -7 "No space in the I/O MMU.",
    PERMISSION_DENIED = -8 "Not enough privilege.",
    BAD_PAGE = -9 "The frame is not the granter's, or is gone.",
    BAD_COPY_ARG = -10 "A copy crosses a page boundary.",
    ADDRESS_TOO_BIG = -11 "Frame number too large.",
    EAGAIN = -12 "Not now.",
    NO_SPACE = -13 "Out of mapping handles.",
}

impl GrantStatus {
    /// Whether it was done.
    #[must_use]
    pub const fn is_okay(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Debug for GrantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "GNTST {}", self.0),
        }
    }
}

impl fmt::Display for GrantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// `struct gnttab_map_grant_ref`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MapGrantRef {
    /// Linear address to map at, or machine address of the entry ([`gntmap::CONTAINS_PTE`]).
    pub host_addr: u64,
    /// [`gntmap`].
    pub flags: u32,
    /// The granter's reference.
    pub reference: u32,
    /// The granter. [`crate::DomId::SELF`] does not work here.
    pub dom: u16,
    /// Result.
    pub status: GrantStatus,
    /// Result: what to unmap by.
    pub handle: u32,
    /// Result: machine address of the frame.
    pub dev_bus_addr: u64,
}
layout!(MapGrantRef, 32, host_addr @ 0, flags @ 8, reference @ 12, dom @ 16, status @ 18, handle @ 20, dev_bus_addr @ 24);

/// `struct gnttab_unmap_grant_ref`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UnmapGrantRef {
    /// The address of the map.
    pub host_addr: u64,
    /// 0.
    pub dev_bus_addr: u64,
    /// The map's handle.
    pub handle: u32,
    /// Result.
    pub status: GrantStatus,
}
layout!(UnmapGrantRef, 24, host_addr @ 0, dev_bus_addr @ 8, handle @ 16, status @ 20);

/// `struct gnttab_setup_table`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SetupTable {
    /// Whose table.
    pub dom: u16,
    /// Frames wanted in all.
    pub nr_frames: u32,
    /// Result.
    pub status: GrantStatus,
    /// Guest address of a list of `nr_frames` frame numbers to fill in.
    pub frame_list: u64,
}
layout!(SetupTable, 24, dom @ 0, nr_frames @ 4, status @ 8, frame_list @ 16);

/// `struct gnttab_query_size`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct QuerySize {
    /// Whose table.
    pub dom: u16,
    /// Result: frames now.
    pub nr_frames: u32,
    /// Result: frames at most.
    pub max_nr_frames: u32,
    /// Result.
    pub status: GrantStatus,
}
layout!(QuerySize, 16, dom @ 0, nr_frames @ 4, max_nr_frames @ 8, status @ 12);

/// One end of a copy: `struct gnttab_copy_ptr`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct CopyEnd {
    /// A grant reference, or one of the caller's own machine frames.
    pub ref_or_frame: u64,
    /// Whose.
    pub dom: u16,
    /// Byte offset in the page.
    pub offset: u16,
}
layout!(CopyEnd, 16, ref_or_frame @ 0, dom @ 8, offset @ 10);

/// `struct gnttab_copy`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct GrantCopy {
    /// From.
    pub source: CopyEnd,
    /// To.
    pub dest: CopyEnd,
    /// Bytes; neither end may cross its page.
    pub len: u16,
    /// [`gntcopy`].
    pub flags: u16,
    /// Result.
    pub status: GrantStatus,
}
layout!(GrantCopy, 40, source @ 0, dest @ 16, len @ 32, flags @ 34, status @ 36);
