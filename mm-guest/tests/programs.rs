//! Real programs of Debian on the kernel, on the host: a traced process stands for the machine, and what they print is
//! compared with what Linux has them print. The same programs run on real Xen in the scenarios.

#![expect(clippy::cast_possible_truncation, reason = "times and exception numbers fit")]

#[path = "programs/data.rs"]
mod data;
#[path = "programs/freeze.rs"]
mod freeze;
mod traced;

use std::fs::File;
use std::sync::OnceLock;

use m1_tests::programs;
use mm_guest::{End, Figures, Kernel, Options};
use traced::Traced;

/// What a program did.
struct Ran {
    end: End,
    output: Vec<u8>,
    figures: Figures,
    requests: u64,
    revocations: u64,
}

/// Runs a program; `adjust` may change the machine before. `None` where processes cannot be traced.
fn run(image: &std::path::Path, line: &str, adjust: impl FnOnce(&mut Traced)) -> Option<Ran> {
    let machine = Traced::new(File::open(image).unwrap(), 65536);
    let Some(mut machine) = machine else {
        eprintln!("processes cannot be traced here: nothing was tested");
        return None;
    };
    adjust(&mut machine);
    let mut kernel = match Kernel::start(machine, Options::parse(line.as_bytes())) {
        Ok(kernel) => kernel,
        Err((machine, error)) => {
            panic!("{line}: {error:?}\n{}", String::from_utf8_lossy(&machine.console))
        }
    };
    let end = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| kernel.run()));
    let figures = kernel.figures();
    kernel.finish_data();
    let machine = kernel.machine();
    let (output, requests) = (std::mem::take(&mut machine.console), machine.requests);
    let revocations = machine.revocations;
    let end = end.unwrap_or_else(|_| panic!("{line}\n{}", String::from_utf8_lossy(&output)));
    Some(Ran { end, output, figures, requests, revocations })
}

/// The volume of all programs, and what they print on Linux.
fn prepared() -> &'static programs::Prepared {
    static PREPARED: OnceLock<programs::Prepared> = OnceLock::new();
    PREPARED.get_or_init(|| programs::prepare(programs::fresh_seed().unwrap()).unwrap())
}

/// Runs a script in Python and gives what it printed, line by line, and how it ended.
fn python(options: &str, script: &str, adjust: impl FnOnce(&mut Traced)) -> Option<(Vec<String>, End)> {
    let script = script.replace('\'', "\"");
    let line = format!("init=/usr/bin/python3 -- {options} -c '{script}'");
    let ran = run(&prepared().volume.image, &line, adjust)?;
    let text = String::from_utf8(ran.output).unwrap();
    Some((text.lines().filter(|line| !line.starts_with("mm-guest: ")).map(str::to_owned).collect(), ran.end))
}

/// All programs on machines that `adjust` makes, each compared with Linux; `judge` looks at the figures.
fn run_all(adjust: impl Fn(&mut Traced), judge: impl Fn(&str, &Ran)) {
    let prepared = prepared();
    let mut failed = Vec::new();
    for case in &prepared.runs {
        let name = case.case.name;
        let Some(ran) = run(&prepared.volume.image, &case.extra(), &adjust) else { return };
        eprintln!("{name:12} requests={} {:?}", ran.requests, ran.figures.faults);
        let verdict = match ran.end {
            End::Exited(code) => {
                case.check(&ran.output, i32::from(code)).map_err(|error| format!("{error:#}"))
            }
            End::Killed(signal) => Err(format!("signal {signal}")),
        };
        if let Err(what) = verdict {
            failed.push(format!("{name}: {what}\n{}", String::from_utf8_lossy(&ran.output)));
            continue;
        }
        judge(name, &ran);
    }
    assert!(failed.is_empty(), "seed {}:\n{}", prepared.seed, failed.join("\n"));
}

#[test]
fn programs_print_what_they_print_on_linux() {
    run_all(
        |_| {},
        |name, ran| {
            assert!(ran.figures.mapped > 100, "{name} runs out of shared pages");
            assert_eq!(ran.figures.faults.refused, 0, "{name}");
        },
    );
}

#[test]
fn they_do_so_too_where_m1_lends_one_page_at_a_time() {
    run_all(
        |machine| machine.window = 1,
        |name, ran| {
            let faults = &ran.figures.faults;
            assert!(ran.requests >= ran.figures.mapped, "{name}: each page was asked for");
            assert!(faults.asked > faults.local, "{name}: {faults:?}");
        },
    );
}

#[test]
fn and_where_it_lends_none_and_all_is_copied() {
    run_all(
        |machine| machine.copy_only = true,
        |name, ran| {
            assert_eq!((ran.figures.mapped, ran.figures.faults.mapped), (0, 0), "{name}");
            assert!(ran.figures.faults.copied > 50, "{name}");
        },
    );
}

#[test]
fn and_where_m1_takes_pages_back_all_the_time() {
    run_all(
        |machine| machine.revoke_every = 5,
        |name, ran| assert!(ran.revocations > 10, "{name}: {}", ran.revocations),
    );
}

#[test]
fn a_page_that_cannot_be_read_is_an_error_to_read_and_a_bus_error_to_touch() {
    let image = &prepared().volume.image;
    let touch = "import mmap,sys\nf = open('/srv/python3/input.bin', 'rb')\nm = mmap.mmap(f.fileno(), 0, prot=1)\n\
                 print('mapped', flush=True)\nm[:]";
    let read = "try:\n    open('/srv/python3/input.bin', 'rb').read()\nexcept OSError as error:\n    print(error.strerror)";
    let bytes = std::fs::read(image).unwrap();
    let volume = erofs::Erofs::open(erofs::SlicePages(&bytes)).unwrap();
    let inode = volume.resolve(b"/srv/python3/input.bin").unwrap();
    let input = volume.extent(&inode, 10).unwrap().unwrap();
    let bad = |machine: &mut Traced| {
        machine.unreadable.insert(input);
    };
    let Some((lines, end)) = python("", read, bad) else { return };
    assert_eq!((lines.join("\n").as_str(), end), ("Input/output error", End::Exited(0)));
    let (lines, end) = python("", touch, bad).unwrap();
    assert_eq!((lines.join("\n").as_str(), end), ("mapped", End::Killed(7)));
}

#[test]
fn a_program_is_told_of_its_own_faults_on_the_stack_that_it_chose() {
    let Some((lines, end)) = python("-X faulthandler", "import ctypes; ctypes.string_at(16)", |_| {}) else {
        return;
    };
    assert_eq!(lines[0], "Fatal Python error: Segmentation fault");
    assert_eq!(end, End::Killed(11));
    let (lines, end) = python("-X faulthandler", "import os; os.abort()", |_| {}).unwrap();
    assert_eq!((lines[0].as_str(), end), ("Fatal Python error: Aborted", End::Killed(6)));
}

#[test]
fn one_program_can_take_anothers_place() {
    let image = &prepared().volume.image;
    let line = "init=/usr/bin/env -- -i A=b /usr/bin/env -u C /usr/bin/busybox env";
    let Some(ran) = run(image, line, |_| {}) else { return };
    assert_eq!((String::from_utf8_lossy(&ran.output).as_ref(), ran.end), ("A=b\n", End::Exited(0)));
    let script = "import os, signal\nkept = os.open('/srv/python3/app.py', os.O_RDONLY); os.set_inheritable(kept, True)\n\
        os.open('/dev/null', os.O_RDONLY)\nsignal.signal(signal.SIGUSR1, print)\n\
        try: os.execv('/srv/python3/app.py', ['x'])\nexcept OSError as error: print(error.strerror, flush=True)\n\
        os.execv('/usr/bin/busybox', ['busybox', 'ls', '/proc/self/fd'])";
    let (lines, end) = python("", script, |_| {}).unwrap();
    assert_eq!((lines.join(" ").as_str(), end), ("Permission denied 0 1 2 3 4", End::Exited(0)));
}

#[test]
fn signals_alarms_and_sleep() {
    let script = "import os, signal, time\ngot = []\n\
        signal.signal(signal.SIGALRM, lambda number, frame: got.append(number))\n\
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)\nbusy = 0\nwhile len(got) < 3: busy += 1\n\
        signal.setitimer(signal.ITIMER_REAL, 0)\nprint(len(got) >= 3)\n\
        signal.alarm(1)\nstart = time.monotonic(); time.sleep(1.2)\nprint(time.monotonic() - start >= 1.2)\n\
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1]); os.kill(os.getpid(), signal.SIGUSR1)\n\
        print(signal.sigpending(), signal.sigwait([signal.SIGUSR1]))\n\
        signal.signal(signal.SIGUSR2, signal.SIG_DFL); os.kill(os.getpid(), signal.SIGUSR2)";
    let Some((lines, end)) = python("-u", script, |_| {}) else { return };
    assert_eq!(lines, ["True", "True", "{<Signals.SIGUSR1: 10>} 10"]);
    assert_eq!(end, End::Killed(12));
}

#[test]
fn files_in_memory_serve_a_real_librarys_ways() {
    let script = "import mmap, os, shutil, tempfile\nd = tempfile.mkdtemp()\np = os.path.join(d, 'x')\n\
        open(p, 'w').write('line\\n' * 1000)\nos.rename(p, p + '2'); os.symlink('x2', p); os.makedirs(d + '/a/b/c')\n\
        shutil.copytree(d, d + 'c', symlinks=True)\nprint([sorted(os.listdir(r)) for r, _, _ in os.walk(d + 'c')][0])\n\
        shutil.rmtree(d); shutil.rmtree(d + 'c'); print(os.listdir('/tmp'))\n\
        f = open('/tmp/m', 'wb+'); f.truncate(10000); m = mmap.mmap(f.fileno(), 10000)\n\
        m[5000:5003] = b'abc'; f.seek(5000); print(f.read(3)); f.seek(1); f.write(b'Z'); f.flush(); print(m[1:2])\n\
        m.resize(20000); m[19999:20000] = b'q'; print(os.path.getsize('/tmp/m')); os.unlink('/tmp/m'); print(m[19999:])\n\
        f.truncate(100); print(m[99:100], flush=True); m[8192]";
    let Some((lines, end)) = python("", script, |_| {}) else { return };
    assert_eq!(lines[..2], ["['a', 'x', 'x2']", "[]"]);
    assert_eq!(lines[2..], ["b'abc'", "b'Z'", "20000", "b'q'", "b'\\x00'"]);
    assert_eq!(end, End::Killed(7), "behind the file's end");
}

#[test]
fn memory_that_is_not_there_is_refused_in_the_programs_own_words() {
    let small = |machine: &mut Traced| machine.ceiling = 4000;
    let script = "try:\n    bytearray(64 << 20)\nexcept MemoryError:\n    print('no memory')";
    let Some((lines, end)) = python("", script, small) else { return };
    assert_eq!((lines.join("\n").as_str(), end), ("no memory", End::Exited(0)));
    // What was promised and is not there when it is touched is a bus error.
    let script = "x = [bytearray(4 << 20) for _ in range(5)]\nprint('never')";
    let (lines, end) = python("", script, small).unwrap();
    assert!(!lines.contains(&"never".to_owned()));
    assert!(end == End::Killed(7) || end == End::Exited(1), "{end:?} {lines:?}");
}

/// Runs what the environment says: `IMAGE=… LINE='init=… strace=1 -- …' cargo test -p mm-guest --test programs -- --ignored
/// --nocapture`.
#[test]
#[ignore = "for people: runs a program of their choice"]
fn run_what_the_environment_says() {
    let image = std::env::var("IMAGE").expect("IMAGE=PATH of an EROFS image");
    let line = std::env::var("LINE").expect("LINE=kernel command line");
    let Some(ran) = run(image.as_ref(), &line, |_| {}) else { return };
    println!("{}", String::from_utf8_lossy(&ran.output));
    println!("{:?} requests={} {:?}", ran.end, ran.requests, ran.figures);
}
