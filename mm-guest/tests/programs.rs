//! Real programs of Debian on the kernel, on the host: a traced process stands for the machine, and what they print is
//! compared with what Linux has them print. The same programs run on real Xen in the scenarios.

#![expect(clippy::cast_possible_truncation, reason = "times and exception numbers fit")]

mod traced;

use std::fs::File;

use m1_tests::programs;
use mm_guest::{End, Figures, Kernel, Options};
use traced::Traced;

/// What a program did.
struct Ran {
    end: End,
    output: Vec<u8>,
    figures: Figures,
    requests: u64,
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
    let machine = kernel.machine();
    let (output, requests) = (std::mem::take(&mut machine.console), machine.requests);
    let end = end.unwrap_or_else(|_| panic!("{line}\n{}", String::from_utf8_lossy(&output)));
    Some(Ran { end, output, figures, requests })
}

#[test]
fn programs_print_what_they_print_on_linux() {
    let seed = programs::fresh_seed().unwrap();
    let prepared = programs::prepare(seed).unwrap();
    let mut failed = Vec::new();
    for case in &prepared.runs {
        let line = case.extra();
        let Some(ran) = run(&prepared.volume.image, &line, |_| {}) else { return };
        let End::Exited(code) = ran.end else {
            failed.push(format!(
                "{}: {:?}\n{}",
                case.case.name,
                ran.end,
                String::from_utf8_lossy(&ran.output)
            ));
            continue;
        };
        eprintln!("{:12} requests={} {:?}", case.case.name, ran.requests, ran.figures);
        if let Err(error) = case.check(&ran.output, i32::from(code)) {
            failed.push(format!("{}: {error:#}\n{}", case.case.name, String::from_utf8_lossy(&ran.output)));
        }
    }
    assert!(failed.is_empty(), "seed {seed}:\n{}", failed.join("\n"));
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
