//! QEMU ends with whoever started it, even when he is killed and can do nothing about it.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use m1_tests::Dom0;

/// Says that a machine runs.
const UP: &str = "the machine is up";

/// Not a test of its own: what the other one starts.
#[test]
#[ignore = "boots a machine and waits to be killed"]
fn boots_and_waits() {
    // From another thread, as a shared machine of a test program: its end must not be the machine's.
    let boot = || Dom0::builder().quiet().boot().expect("it boots");
    let dom0 = std::thread::spawn(boot).join().expect("the thread ends well");
    println!("\n{UP} {}", dom0.sh("echo indeed").expect("it still runs"));
    std::thread::sleep(Duration::from_secs(60));
}

/// The QEMU processes that `parent` started.
fn machines_of(parent: u32) -> Vec<u32> {
    let processes = fs::read_dir("/proc").expect("Linux").flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    numbers
        .filter(|number| {
            let status = fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
            status.starts_with("Name:\tqemu-system") && status.contains(&format!("\nPPid:\t{parent}\n"))
        })
        .collect()
}

/// Whether a process is there and not just waiting to be forgotten.
fn runs(number: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{number}/status")).unwrap_or_default();
    status.contains("\nState:\t") && !status.contains("\nState:\tZ") && !status.contains("\nState:\tX")
}

#[test]
fn a_killed_run_leaves_no_process() {
    let program = std::env::current_exe().expect("a test has a program");
    let mut child = Command::new(program)
        .args(["--ignored", "--exact", "boots_and_waits", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let up = lines.map_while(Result::ok).any(|line| line.starts_with(UP));
    let machines = machines_of(child.id());
    child.kill().expect("SIGKILL");
    child.wait().expect("it ends");
    assert!(up, "no machine came up");
    assert_eq!(machines.len(), 1, "one QEMU: {machines:?}");
    let deadline = Instant::now() + Duration::from_secs(20);
    while machines.iter().any(|machine| runs(*machine)) {
        assert!(Instant::now() < deadline, "QEMU {machines:?} outlives its starter");
        std::thread::sleep(Duration::from_millis(100));
    }
}
