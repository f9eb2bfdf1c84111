//! M1, the memory-manager domain: wiring and the serve loop.
//!
//! What can be decided without Xen stands in this library, so that it is tested on the host: [`config`] reads the
//! options that `extra=` in `xl-config/m1.cfg` carries. The image is `src/main.rs`.
#![cfg_attr(not(test), no_std)]

pub mod config;
