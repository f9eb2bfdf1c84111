//! M1 on real Xen: each scenario is named by the behaviour that it shows.
//!
//! The scenarios share one machine, and each brings M1s of its own, so that none sees what another left.

mod bed;
mod clients;
mod disks;
mod endpoint;
mod hostile;
mod leaving;
mod refusals;
