//! The unikernel's image.
//!
//! Options in `extra=`, each `key=value` with a number: `device=51712`, `first=0`, `pages=` (all), `stride=1`, `rounds=1`, `window=512`,
//! `copy=0`, `write=0`, `hold=0`, `patience=10000` (milliseconds). It prints a line for each round,
//! `mm-unikernel: round=0 pages=… digest=… ns=… asked=… copied=… retries=… R=…`, where the digest is FNV-1a (64 bits) of the pages' bytes in
//! order, writes `data/digest` (the last round's) and `data/result` (`ok` or `failed`) into its home in xenstore, and powers off; a failure is a crash.
//!
//! `hostile=1` to `5` makes it a liar, and `forge=DOMID` one that dom0 did not introduce to M1: see `src/hostile.rs`.
#![no_std]
#![no_main]

xen_rt::entry!(main);

fn main(boot: xen_rt::Boot) -> ! {
    mm_unikernel::run(boot)
}
