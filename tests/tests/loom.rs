//! `xen-ring`'s notifications under every interleaving. loom's atomics take the place of the machine's only with `--cfg loom`, which
//! is for a whole build: so it is one of its own, in a directory of its own.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use m1_tests::paths;

/// For building and running, also on a slow machine; both together take a few seconds on a fast one.
const PATIENCE: Duration = Duration::from_secs(300);

#[test]
fn no_event_of_a_ring_is_lost_in_any_interleaving() {
    // Cargo hands the directory on to us as the parent of ours.
    let target = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("../loom");
    let arguments = ["test", "-p", "xen-ring", "--test", "loom", "--release", "--quiet"];
    eprintln!("RUSTFLAGS='--cfg loom' cargo {} (in a target directory of its own)", arguments.join(" "));
    let start = Instant::now();
    let mut cargo = Command::new(env!("CARGO"))
        .args(arguments)
        .current_dir(paths::workspace())
        .env("RUSTFLAGS", "--cfg loom")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env("CARGO_TARGET_DIR", target)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("cargo runs");
    let status = loop {
        match cargo.try_wait().expect("it is ours") {
            Some(status) => break status,
            None if start.elapsed() > PATIENCE => {
                // It is gone when it has been waited for; what it said so far is on standard error.
                let _ = cargo.kill();
                let _ = cargo.wait();
                panic!("loom has not come to an end in {PATIENCE:?}");
            }
            None => std::thread::sleep(Duration::from_millis(50)),
        }
    };
    let output = cargo.wait_with_output().expect("it has ended");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(status.success(), "{said}");
    assert!(said.contains("running") && !said.contains("running 0 tests"), "no test is there: {said}");
    eprintln!("all interleavings held, {:.1} s", start.elapsed().as_secs_f32());
}
