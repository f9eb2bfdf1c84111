//! Programs that are frozen in the middle, and go on from there elsewhere: on the host, where a traced process stands for the machine.

use std::fs::File;

use crate::prepared;
use crate::traced::{Frozen, Traced};
use mm_guest::{End, Frames, Kernel, Options};
use mm_proto::SnapshotInfo;

fn image() -> &'static std::path::Path {
    &prepared().volume.image
}

/// How a program ended and what it wrote, the kernel's lines taken out, and those.
struct Ran {
    end: End,
    output: String,
    kernel: String,
    /// How often it stopped for its kernel.
    stops: u64,
}

/// Runs what `line` says, or what the snapshot has. `None` where processes cannot be traced.
fn run(frozen: &Frozen, line: &str, snapshot: Option<SnapshotInfo>) -> Option<Ran> {
    let mut machine = Traced::with(File::open(image()).unwrap(), 65536, frozen.clone())?;
    machine.attached = snapshot;
    let options = Options::parse(line.as_bytes());
    let started = match &snapshot {
        Some(snapshot) => Kernel::thaw(machine, options, snapshot),
        None => Kernel::start(machine, options),
    };
    let mut kernel = started.unwrap_or_else(|(machine, error)| {
        panic!("{line}: {error:?}\n{}", String::from_utf8_lossy(&machine.console))
    });
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kernel.run()));
    let text = String::from_utf8_lossy(&std::mem::take(&mut kernel.machine().console)).into_owned();
    let end = end.unwrap_or_else(|_| panic!("{line}\n{text}"));
    kernel.finish();
    let stops = kernel.machine().stops;
    let frames = kernel.machine().frames();
    assert_eq!(frames.available, frames.ceiling, "frames are left over: {line}\n{text}");
    let (kernel, output): (Vec<_>, Vec<_>) = text.lines().partition(|line| line.starts_with("mm-guest: "));
    Some(Ran { end, output: output.join("\n"), kernel: kernel.join("\n"), stops })
}

/// A program that computes for a while and touches much, with a file in memory, a pipe and a timer.
const PROGRAM: &str = r#"
import os, hashlib, time, mmap, signal
data = bytearray(os.urandom(1)) * 0
log = open("/tmp/log", "w+")
os.unlink("/tmp/log")
shared = mmap.mmap(-1, 8192)
r, w = os.pipe()
os.write(w, b"in the pipe")
ticks = []
signal.signal(signal.SIGALRM, lambda *_: ticks.append(1))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
h = hashlib.sha256()
table = {}
for i in range(3000):
    h.update(str(i).encode())
    table[i] = h.hexdigest()
    data += bytes([i & 255]) * 97
    log.write(table[i])
    shared[i % 8192] = i & 255
    if i % 1000 == 999:
        log.flush()
        time.sleep(0.01)
signal.setitimer(signal.ITIMER_REAL, 0, 0)
log.seek(0)
print("log", hashlib.sha256(log.read().encode()).hexdigest())
log.close()
print("data", hashlib.sha256(data).hexdigest(), len(data))
print("shared", hashlib.sha256(shared[:]).hexdigest())
print("table", hashlib.sha256(repr(table).encode()).hexdigest(), bool(ticks))
print(os.read(r, 100).decode())
"#;

fn python(program: &str) -> String {
    format!("init=/usr/bin/python3 -- -B -c '{}'", program.replace('\'', "\""))
}

#[test]
fn a_program_that_is_frozen_anywhere_goes_on_and_its_clones_come_to_the_same() {
    let alone = Frozen::new();
    let Some(plain) = run(&alone, &python(PROGRAM), None) else {
        eprintln!("processes cannot be traced here: nothing was tested");
        return;
    };
    assert_eq!(plain.end, End::Exited(0), "{}", plain.output);
    // Early, with answers at once, to late, with slow ones; what has to be copied behind its back takes some 70 answers at the most.
    for (percent, slow) in [(5, 0), (25, 3), (40, 1), (66, 8)] {
        let stop = plain.stops * percent / 100;
        let frozen = Frozen::new();
        frozen.part().order(stop, slow);
        let source = run(&frozen, &python(PROGRAM), None).unwrap();
        assert_eq!((source.end, &source.output), (End::Exited(0), &plain.output), "frozen at {stop}");
        assert!(source.kernel.contains("frozen: pages="), "{}", source.kernel);
        assert_eq!(frozen.part().outcome(), (1, 0));
        for clone in 0..3 {
            let snapshot = frozen.last();
            let clone_ran = run(&frozen, "", Some(snapshot)).unwrap();
            assert_eq!(
                (clone_ran.end, &clone_ran.output),
                (End::Exited(0), &plain.output),
                "clone {clone} of what was frozen at {stop}: {}",
                clone_ran.kernel
            );
        }
        assert_eq!(frozen.part().thawed, 3);
        assert!(frozen.part().hot.pages() > 0, "the clones said what they touched");
    }
}

#[test]
fn clones_of_clones_keep_what_nobody_wrote() {
    let frozen = Frozen::new();
    frozen.part().freeze_at = Some(1000);
    let Some(source) = run(&frozen, &python(PROGRAM), None) else { return };
    let mut captured = vec![frozen.part().captured];
    for generation in 0..3 {
        let snapshot = frozen.last();
        frozen.part().order(150 + 40 * generation, 0);
        let clone = run(&frozen, "", Some(snapshot)).unwrap();
        assert_eq!((clone.end, &clone.output), (End::Exited(0), &source.output), "{}", clone.kernel);
        let part = frozen.part();
        assert_eq!(part.heads.len(), 2 + generation as usize, "{}", clone.kernel);
        assert!(part.kept > 0, "something is as it was: {}", clone.kernel);
        captured.push(part.captured);
    }
    assert!(captured[1] < captured[0], "only what changed: {captured:?}");
    let last = run(&frozen, "", Some(frozen.last())).unwrap();
    assert_eq!((last.end, &last.output), (End::Exited(0), &source.output), "{}", last.kernel);
}

#[test]
fn a_sleeper_wakes_when_it_wanted_to_and_clones_have_entropy_of_their_own() {
    let program = r#"
import time, os
begun = time.monotonic()
time.sleep(1.2)
slept = time.monotonic() - begun
print("slept", 1.19 < slept < 9, slept if not 1.19 < slept < 9 else "")
print("id", open("/proc/sys/kernel/random/boot_id").read().strip())
print("generation", open("/proc/m1/generation").read().strip())
print("random", os.urandom(8).hex())
"#;
    let frozen = Frozen::new();
    let Some(mut machine) = Traced::with(File::open(image()).unwrap(), 65536, frozen.clone()) else { return };
    machine.order_while_waiting = true;
    let mut kernel = Kernel::start(machine, Options::parse(python(program).as_bytes())).ok().unwrap();
    assert_eq!(kernel.run(), End::Exited(0));
    let text = String::from_utf8_lossy(&kernel.machine().console).into_owned();
    assert!(text.contains("frozen: pages=") && text.contains("slept True"), "{text}");
    let lines = |text: &str, word: &str| {
        text.lines()
            .find(|line| line.starts_with(word))
            .unwrap_or_else(|| panic!("{word}: {text}"))
            .to_owned()
    };
    let mut seen = vec![text];
    for _ in 0..2 {
        let clone = run(&frozen, "", Some(frozen.last())).unwrap();
        assert!(clone.output.contains("slept True"), "{}", clone.output);
        seen.push(clone.output);
    }
    for word in ["id ", "generation ", "random "] {
        let mut all: Vec<_> = seen.iter().map(|text| lines(text, word)).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 3, "{word}: {all:?}");
    }
}
