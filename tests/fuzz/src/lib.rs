//! The bodies of the fuzz targets: everything in M1 that reads what somebody else wrote.
//!
//! Who uses it: the targets in `fuzz_targets` (`cargo +nightly fuzz run <target>` in `tests/fuzz`), and the test
//! `fuzz_corpus` of `m1-tests`, which includes these files and runs the committed corpus with seeded mutations on stable Rust.
//!
//! A body takes any bytes and panics only where a promise is broken. It keeps nothing from one input to the next.
#![forbid(unsafe_code)]

pub mod backend;
pub mod blkif_requests;
pub mod command_line;
pub mod erofs;
pub mod http_heads;
pub mod input;
pub mod manifest;
pub mod map_client;
pub mod map_ring;
pub mod protocol;
pub mod store_image;
pub mod xenstore;

/// A target: its name, which is its corpus' too, and its body.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("protocol", protocol::run),
    ("map_ring", map_ring::run),
    ("map_client", map_client::run),
    ("xenstore", xenstore::run),
    ("erofs", erofs::run),
    ("http_heads", http_heads::run),
    ("command_line", command_line::run),
    ("blk_backend", backend::blk::run),
    ("net_backend", backend::net::run),
    ("blkif_requests", blkif_requests::run),
    ("store_image", store_image::run),
    ("manifest", manifest::run),
];
