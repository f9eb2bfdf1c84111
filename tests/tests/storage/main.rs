//! Stock Linux guests on M1's block service, on real Xen: nothing of ours is inside them.

mod attach;
mod bed;
mod boots;
mod full;
mod guests;
mod killed;
mod load;
mod many;
