//! M1 whole, on a fake Xen: the serve loop with its engine, grants, rings and drivers, a disk in another domain, a xenstored, and
//! clients that are domains of their own and speak the map protocol as client kernels do.

pub(crate) mod client;
mod deaths;
mod detach;
mod disk;
mod faults;
pub(crate) mod freeze;
pub(crate) mod frozen_disks;
mod hostile;
mod overlays;
mod persist;
mod refusals;
mod snapshots;
pub(crate) mod stock;
mod stock_io;
mod store_disk;
mod versions;
pub(crate) mod world;
