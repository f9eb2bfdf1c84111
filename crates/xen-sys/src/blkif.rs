//! Numbers of the block interface (`xen/include/public/io/blkif.h`), as x86-64 lays it out.

/// Operations (`BLKIF_OP_*`).
pub mod op {
    #![expect(missing_docs, reason = "named as in the header")]
    pub const READ: u8 = 0;
    pub const WRITE: u8 = 1;
    pub const WRITE_BARRIER: u8 = 2;
    pub const FLUSH_DISKCACHE: u8 = 3;
    pub const DISCARD: u8 = 5;
    pub const INDIRECT: u8 = 6;
}

/// Results (`BLKIF_RSP_*`).
pub mod rsp {
    #![expect(missing_docs, reason = "named as in the header")]
    pub const OKAY: i16 = 0;
    pub const ERROR: i16 = -1;
    pub const EOPNOTSUPP: i16 = -2;
}

/// 32-bit words of a request: 112 bytes.
pub const REQUEST_WORDS: usize = 28;
/// 32-bit words of a response: 16 bytes.
pub const RESPONSE_WORDS: usize = 4;
/// Segments that lie in the request itself (`BLKIF_MAX_SEGMENTS_PER_REQUEST`).
pub const MAX_SEGMENTS: usize = 11;
/// Bytes of a segment, in a request and in an indirect page: reference, first and last sector, two that mean nothing.
pub const SEGMENT_BYTES: usize = 8;
/// Bytes of a sector, in requests and in `sectors`: what `sector-size` says where a frontend does not ask for more.
pub const SECTOR: u64 = 512;
/// Sectors of a page.
pub const PAGE_SECTORS: u64 = 8;
/// Bit of `info`: nothing can be written (`VDISK_READONLY`).
pub const VDISK_READONLY: u32 = 4;
/// What `protocol` says where requests look as here (`XEN_IO_PROTO_ABI_X86_64`, io/protocols.h).
pub const PROTOCOL: &str = "x86_64-abi";
