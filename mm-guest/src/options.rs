//! What `extra=` in the domain's configuration says. `xl-config/client.cfg` documents every option for people.

use alloc::string::String;
use alloc::vec::Vec;

/// The kernel's options and the program to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Options {
    /// Path of the program.
    pub init: Vec<u8>,
    /// Its arguments, the first of which is its name.
    pub args: Vec<Vec<u8>>,
    /// Its environment, `NAME=VALUE` each.
    pub env: Vec<Vec<u8>>,
    /// Directory to start in.
    pub cwd: Vec<u8>,
    /// Writes every system call to the console.
    pub strace: bool,
    /// Writes every fault to the console.
    pub fault_trace: bool,
    /// Stays after the program's end, serving revocations, until the toolstack shuts the domain down.
    pub hold: bool,
    /// Gives the domain's memory back and waits until a device is attached: one of a pool that is created ahead.
    pub pool: bool,
    /// Frames that the domain keeps unused for faults that must not wait.
    pub reserve: u64,
    /// Largest window of pages asked for in one request.
    pub window: u32,
    /// Pages mapped around a fault; 1 is none.
    pub fault_around: u64,
    /// A clone maps ahead what earlier clones touched first.
    pub ahead: bool,
    /// What becomes of a disk `xvdb` that cannot be mounted.
    pub data: DataOption,
    /// What was not understood, one sentence each; the kernel says it and goes on.
    pub complaints: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            init: b"/bin/busybox".to_vec(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: b"/".to_vec(),
            strace: false,
            fault_trace: false,
            hold: false,
            pool: false,
            reserve: 32,
            window: 512,
            fault_around: 16,
            ahead: true,
            data: DataOption::Required,
            complaints: Vec::new(),
        }
    }
}

/// What becomes of the disk behind `/data`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DataOption {
    /// If there is one it has to be mounted, or the program is not started.
    Required,
    /// The program is started without it, too.
    Optional,
    /// It is not looked at.
    Off,
}

/// Environment of a program for which `env=` says nothing.
const PATH: &[u8] = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl Options {
    /// Reads a command line. Words are separated by blanks; quotes, single or double, keep blanks together, and a
    /// backslash keeps the next character. What follows `--` are the program's arguments.
    #[must_use]
    pub fn parse(line: &[u8]) -> Self {
        let mut options = Self::default();
        let mut words = split(line).into_iter();
        for word in words.by_ref() {
            if word == b"--" {
                break;
            }
            let (name, value) = match word.iter().position(|byte| *byte == b'=') {
                Some(at) => (&word[..at], &word[at + 1..]),
                None => (&word[..], &b"1"[..]),
            };
            if let Err(complaint) = options.set(name, value) {
                options.complaints.push(complaint);
            }
        }
        options.args.push(options.init.clone());
        options.args.extend(words);
        for fallback in [PATH, b"HOME=/tmp", b"TERM=dumb"] {
            let name = &fallback[..=fallback.iter().position(|byte| *byte == b'=').unwrap_or(0)];
            if !options.env.iter().any(|variable| variable.starts_with(name)) {
                options.env.push(fallback.to_vec());
            }
        }
        options
    }

    fn set(&mut self, name: &[u8], value: &[u8]) -> Result<(), String> {
        let shown = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let number = |low: u64, high: u64| {
            let parsed = core::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok());
            parsed.filter(|number| (low..=high).contains(number)).ok_or_else(|| {
                alloc::format!("{}={} is not a number from {low} to {high}", shown(name), shown(value))
            })
        };
        match name {
            b"init" => self.init = value.to_vec(),
            b"env" => self.env.push(value.to_vec()),
            b"cwd" => self.cwd = value.to_vec(),
            b"strace" => self.strace = number(0, 1)? == 1,
            b"faulttrace" => self.fault_trace = number(0, 1)? == 1,
            b"hold" => self.hold = number(0, 1)? == 1,
            b"ahead" => self.ahead = number(0, 1)? == 1,
            b"pool" => self.pool = number(0, 1)? == 1,
            b"reserve" => self.reserve = number(1, 1 << 20)?,
            b"window" => self.window = power_of_two(number(1, 512)?)? as u32,
            b"data" => {
                self.data = match value {
                    b"required" => DataOption::Required,
                    b"optional" => DataOption::Optional,
                    b"off" => DataOption::Off,
                    _ => {
                        return Err(alloc::format!("data={} is not required, optional or off", shown(value)));
                    }
                }
            }
            b"faultaround" => self.fault_around = power_of_two(number(1, 64)?)?,
            _ => return Err(alloc::format!("unknown option {}", shown(name))),
        }
        Ok(())
    }
}

fn power_of_two(number: u64) -> Result<u64, String> {
    if number.is_power_of_two() { Ok(number) } else { Err(alloc::format!("{number} is not a power of two")) }
}

fn split(line: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut quote = None;
    let mut bytes = line.iter().copied();
    while let Some(byte) = bytes.next() {
        match (byte, quote) {
            (b'\\', None | Some(b'"')) => {
                if let Some(next) = bytes.next() {
                    word.get_or_insert_default().push(next);
                }
            }
            (byte, Some(open)) if byte == open => quote = None,
            (b'"' | b'\'', None) => {
                quote = Some(byte);
                word.get_or_insert_default();
            }
            (b' ' | b'\t' | b'\n' | 0, None) => words.extend(word.take()),
            _ => word.get_or_insert_default().push(byte),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_its_arguments_and_its_environment_come_out_as_written() {
        let line =
            br#"init=/usr/bin/python3 env=A="b c" strace=1 window=1 -- -c 'print("x = 1")' a\ b "" --"#;
        let options = Options::parse(line);
        assert_eq!(options.init, b"/usr/bin/python3");
        let args: Vec<&[u8]> = options.args.iter().map(Vec::as_slice).collect();
        let expected: [&[u8]; 6] = [b"/usr/bin/python3", b"-c", br#"print("x = 1")"#, b"a b", b"", b"--"];
        assert_eq!(args, expected);
        assert_eq!(options.env[0], b"A=b c");
        assert!(options.env[1].starts_with(b"PATH="));
        assert!(options.strace && !options.hold && options.window == 1);
        assert!(options.complaints.is_empty());
    }

    #[test]
    fn what_is_not_understood_is_said_and_the_rest_holds() {
        let options = Options::parse(b"window=3 colour=red faultaround=x hold=1 env=PATH=/bin");
        assert_eq!(options.complaints.len(), 3);
        assert!(options.complaints[1].contains("colour"));
        assert!(options.hold);
        assert_eq!(options.window, 512);
        assert_eq!(options.env.iter().filter(|variable| variable.starts_with(b"PATH=")).count(), 1);
    }
}
