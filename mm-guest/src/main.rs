//! The client kernel's image: the machine under `mm_guest::Kernel`, and what surrounds a program's run.
#![no_std]
#![no_main]

extern crate alloc;

#[path = "image/disk.rs"]
mod disk;
#[path = "image/heap.rs"]
mod heap;
#[path = "image/link.rs"]
mod link;
#[path = "image/machine/mod.rs"]
mod machine;
#[path = "image/registers.rs"]
mod registers;
#[path = "image/run.rs"]
mod run;
#[path = "image/seed.rs"]
mod seed;
#[path = "image/store.rs"]
mod store;
#[path = "image/trace.rs"]
mod trace;

xen_rt::entry!(run::main);
