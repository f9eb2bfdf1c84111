//! The fuzz targets without a fuzzer: every committed input, and mutations of them from a fixed seed, on any toolchain.
//!
//! `cargo +nightly fuzz run <target>` in `tests/fuzz` goes on where this ends; what it finds becomes a file in the corpus.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[path = "../fuzz/src/lib.rs"]
#[expect(unreachable_pub, reason = "a library of its own for the fuzzer")]
mod bodies;

/// Mutations of each target, and the time after which there are no more of them.
const MUTATIONS: u32 = 4000;
const TIME: Duration = Duration::from_secs(2);
/// Longest mutation.
const LONGEST: usize = 2048;

/// An xorshift generator (Marsaglia's, 64 bits): the same story in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % (end.max(1) as u64)).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }
}

fn corpus(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{directory:?}: {error}"));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read(path).expect("readable"))).collect()
}

/// Another input made of those that there are: parts of one replaced, doubled, cut, or followed by a part of another.
fn mutation(random: &mut Random, inputs: &[(PathBuf, Vec<u8>)]) -> Vec<u8> {
    let mut input = inputs[random.below(inputs.len())].1.clone();
    for _ in 0..=random.below(6) {
        let at = random.below(input.len() + 1);
        match random.below(6) {
            0 => input.insert(at, random.byte()),
            1 => input.truncate(at),
            2 => {
                let end = (at + random.below(32)).min(input.len());
                let part = input[at..end].to_vec();
                input.splice(at..at, part);
            }
            3 => {
                let other = &inputs[random.below(inputs.len())].1;
                input.truncate(at);
                input.extend_from_slice(&other[random.below(other.len() + 1)..]);
            }
            4 => drop(input.drain(at..(at + random.below(16)).min(input.len()))),
            _ => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = if random.byte() < 128 { random.byte() } else { *byte ^ 1 << random.below(8) };
                }
            }
        }
    }
    input.truncate(LONGEST);
    input
}

/// Shows which input it was, where a body panics: it can be written to a file and given to the target.
struct Blame<'a> {
    target: &'a str,
    input: &'a [u8],
    file: Option<&'a Path>,
}

impl Drop for Blame<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let hex: String = self.input.iter().map(|byte| format!("{byte:02x}")).collect();
            eprintln!("target {}, file {:?}, input {hex}", self.target, self.file);
        }
    }
}

fn target(name: &str) {
    let (_, body) = bodies::TARGETS.iter().find(|(known, _)| *known == name).expect("a target");
    let inputs = corpus(name);
    assert!(inputs.len() >= 8, "the corpus of {name} is gone");
    for (path, input) in &inputs {
        let _blame = Blame { target: name, input, file: Some(path) };
        body(input);
    }
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let start = Instant::now();
    for _ in 0..MUTATIONS {
        if start.elapsed() > TIME {
            break;
        }
        let input = mutation(&mut random, &inputs);
        let _blame = Blame { target: name, input: &input, file: None };
        body(&input);
    }
}

macro_rules! targets {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() {
            target(stringify!($name));
        })*

        #[test]
        fn every_target_is_here() {
            let names: Vec<&str> = bodies::TARGETS.iter().map(|(name, _)| *name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

targets! { protocol map_ring map_client xenstore erofs http_heads command_line blk_backend net_backend blkif_requests store_image manifest }
