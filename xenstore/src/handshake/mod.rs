//! What a frontend or a backend does next, from what both sides say: pure machines over [`XenbusState`](crate::XenbusState).
//!
//! The rules are those of `xen/include/public/io/blkif.h` ("State Diagrams") and of what Linux's drivers and libxl do in
//! fact; each step is one arm of one match, and each has a test.

mod backend;
mod frontend;

pub use backend::{Backend, BackendStep, Observed};
pub use frontend::{Frontend, FrontendStep};
