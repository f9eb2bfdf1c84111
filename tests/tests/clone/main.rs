//! Freeze, thaw and clone on real Xen: programs that go on elsewhere, and memory that adds up.

mod avx;
mod bed;
mod data;
mod ends;
mod lasts;
mod story;
