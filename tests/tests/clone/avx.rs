//! Registers that the kernel itself never touches, the upper halves of AVX included, are as they were in the program that was frozen and in
//! each clone.

use std::path::PathBuf;
use std::process::Command;

use m1_tests::mm_guest::{self, End};

use crate::bed::{Bed, LIMIT};

/// Where the program is in the volume.
pub(crate) const PROGRAM: &str = "/srv/avx";

/// Makes it, by the host's C compiler, which Rust links with anyway.
pub(crate) fn program() -> PathBuf {
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("avx");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/clone/avx.c");
    let flags =
        "-O2 -ffreestanding -nostdlib -static -fno-pie -no-pie -fno-stack-protector -fcf-protection=none";
    let made = Command::new("cc").args(flags.split(' ')).arg("-o").arg(&program).arg(source).status();
    assert!(made.expect("cc runs").success());
    program
}

#[test]
fn avx_registers_are_kept_by_the_frozen_program_and_by_its_clones() {
    let bed = Bed::get();
    let m1 = bed.m1(64);
    let config = mm_guest::client::<&str>("m1", "base", "", PROGRAM, &[]).expect("a command line");
    let source = bed.create("vectors", &config.to_string()).expect("the client starts");
    source.wait_log("warm", LIMIT).expect("it is warm");
    println!("{}", bed.does("freeze vectors vectors"));
    let mut guests = vec![bed.clone("vectors-1", "vectors", ""), bed.clone("vectors-2", "vectors", "")];
    guests.push(source);
    guests.iter().for_each(|guest| bed.go(guest));
    for guest in &guests {
        let log = bed.ended(guest);
        assert_eq!(log.end, Some(End::Exited(0)), "{}\n{}", log.output, log.kernel.join("\n"));
        assert!(log.output.contains("registers are as they were"), "{}", log.output);
        guest.wait_end(LIMIT).expect("the domain is gone");
    }
    bed.does("rm base@vectors");
    m1.destroy().expect("it ends");
}
