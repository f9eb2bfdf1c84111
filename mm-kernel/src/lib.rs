//! M1, the memory-manager domain: wiring and the serve loop.
//!
//! In the order in which to read: [`boot`] hands out the memory and builds an [`m1::M1`]; [`serve`] is its loop; [`attach`] follows clients
//! coming and going, [`versions`] the disks of volumes; [`effects`] carries out what the engine decides, through [`lending`] (grants), [`devices`] (rings) and [`disks`] (reads);
//! [`snapshots`] are frozen clients; [`pages`] is what the endpoint shows, [`control`] what dom0 can have done. [`config`], [`volumes`] and [`refusals`] are what they say. All of it compiles and what can be decided
//! without Xen is tested on the host; the image is `src/main.rs`.
#![cfg_attr(not(test), no_std)]

pub mod attach;
pub mod block;
pub mod boot;
pub mod config;
pub mod control;
pub mod devices;
pub mod disks;
pub mod effects;
pub mod flags;
pub mod lending;
pub mod m1;
pub mod overlays;
pub mod pages;
pub mod refusals;
pub mod serve;
pub mod snapshots;
pub mod trace;
pub mod versions;
pub mod volumes;

#[cfg(test)]
mod tests;
