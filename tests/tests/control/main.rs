//! dom0's command line on real Xen: `m1ctl` against an M1 with clients. The scenarios share one machine and one M1.

mod asks;
mod bed;
mod clones;
mod host;
