//! Loading, on the fake machine: programs made of a few bytes, in a file in memory.

use proptest::prelude::*;

use super::*;
use crate::machine::Prot;
use crate::syscalls::tests::Guest;
use crate::vm::STACK_TOP;

/// A program header.
#[derive(Clone, Copy, Debug)]
struct Header {
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    file_size: u64,
    memory_size: u64,
}

const LOAD: u32 = 1;
const INTERP: u32 = 3;

/// An ELF file: the header, program headers behind it, and this content from byte 0x1000 on.
fn file(kind: u16, entry: u64, headers: &[Header], content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
    bytes.resize(16, 0);
    bytes.extend(kind.to_le_bytes());
    bytes.extend(62_u16.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    for word in [entry, 64, 0] {
        bytes.extend(word.to_le_bytes());
    }
    bytes.extend(0_u32.to_le_bytes());
    for half in [64, 56, headers.len() as u16, 0, 0, 0] {
        bytes.extend(half.to_le_bytes());
    }
    for header in headers {
        bytes.extend(header.kind.to_le_bytes());
        bytes.extend(header.flags.to_le_bytes());
        for word in
            [header.offset, header.address, header.address, header.file_size, header.memory_size, 0x1000]
        {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes.resize(0x1000, 0);
    bytes.extend_from_slice(content);
    bytes
}

/// Text with the headers in it, then data that ends in the middle of a page, then zeroes.
fn headers() -> [Header; 2] {
    [
        Header {
            kind: LOAD,
            flags: 5,
            offset: 0,
            address: 0x40_0000,
            file_size: 0x1800,
            memory_size: 0x1800,
        },
        Header {
            kind: LOAD,
            flags: 6,
            offset: 0x1800,
            address: 0x40_3800,
            file_size: 0x500,
            memory_size: 0x3000,
        },
    ]
}

fn exec(guest: &mut Guest, bytes: &[u8], args: &[&str]) -> Result<(), ExecError> {
    guest.write_file("/tmp/program", bytes).unwrap();
    let path = guest.path("/tmp/program");
    guest.call(90, &[path, 0o755]).unwrap();
    let args: Vec<Vec<u8>> = args.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    guest.kernel.exec(b"/tmp/program", args, &[b"A=1".to_vec(), b"B=".to_vec()])
}

#[test]
fn segments_lie_where_they_belong_and_behind_the_files_end_there_are_zeroes() {
    let mut guest = Guest::new();
    let content: Vec<u8> = (0..0x2000).map(|at| (at % 251 + 1) as u8).collect();
    exec(&mut guest, &file(2, 0x40_1010, &headers(), &content), &["program", "x y"]).unwrap();
    assert_eq!(guest.kernel.registers.rip, 0x40_1010);
    assert_eq!(guest.get(0x40_1000, 0x800), content[..0x800]);
    assert_eq!(guest.get(0x40_3800, 0x500), content[0x800..0xd00]);
    assert_eq!(guest.get(0x40_3d00, 0x2b00), vec![0; 0x2b00], "zeroes from the file's end on");
    let memory = &mut guest.kernel.memory;
    assert_eq!(memory.write_bytes(0x40_1000, b"x"), Err(Errno::FAULT), "text is not writable");
    assert_eq!(memory.read_bytes(0x40_2000, &mut [0]), Err(Errno::FAULT), "nothing lies between segments");
    assert_eq!(memory.heap, 0x40_7000..0x40_7000);
    assert_eq!(memory.vmas.find(0x400).unwrap().rights.prot(), Prot::ReadExec);
    assert_eq!(memory.vmas.find(0x403).unwrap().rights.prot(), Prot::ReadWrite);
}

#[test]
fn the_stack_says_what_the_abi_wants_it_to_say() {
    let mut guest = Guest::new();
    exec(&mut guest, &file(2, 0x40_1010, &headers(), &[0; 0x2000]), &["program", "x y"]).unwrap();
    let pointer = guest.kernel.registers.rsp;
    assert_eq!(pointer % 16, 0);
    assert!(pointer < STACK_TOP && pointer > STACK_TOP - 4096);
    let mut at = pointer;
    let mut word = |guest: &mut Guest| {
        let word = guest.kernel.memory.read_u64(at).unwrap();
        at += 8;
        word
    };
    let text =
        |guest: &mut Guest, at: u64| String::from_utf8(guest.kernel.memory.read_path(at).unwrap()).unwrap();
    assert_eq!(word(&mut guest), 2);
    let mut strings = Vec::new();
    for _ in 0..2 {
        loop {
            let pointer = word(&mut guest);
            if pointer == 0 {
                break;
            }
            strings.push(text(&mut guest, pointer));
        }
    }
    assert_eq!(strings, ["program", "x y", "A=1", "B="]);
    let mut auxiliary = std::collections::BTreeMap::new();
    loop {
        let (kind, value) = (word(&mut guest), word(&mut guest));
        if kind == 0 {
            break;
        }
        auxiliary.insert(kind, value);
    }
    assert_eq!((auxiliary[&3], auxiliary[&4], auxiliary[&5]), (0x40_0040, 56, 2));
    assert_eq!((auxiliary[&6], auxiliary[&7], auxiliary[&9]), (4096, 0, 0x40_1010));
    assert_eq!(text(&mut guest, auxiliary[&31]), "/tmp/program");
    assert_eq!(text(&mut guest, auxiliary[&15]), "x86_64");
    let random = auxiliary[&25];
    assert_ne!(guest.get(random, 16), [0; 16]);
    assert!(!auxiliary.contains_key(&33), "there is no vDSO");
    assert_eq!(guest.read_file("/proc/self/cmdline").unwrap(), b"program\0x y\0");
    assert_eq!(guest.read_file("/proc/self/environ").unwrap(), b"A=1\0B=\0");
    assert_eq!(guest.read_file("/proc/self/comm").unwrap(), b"program\n");
}

#[test]
fn a_program_that_may_go_anywhere_is_moved_as_a_whole() {
    let mut guest = Guest::new();
    let headers = headers().map(|header| Header { address: header.address - 0x40_0000, ..header });
    let content: Vec<u8> = (0..0x2000).map(|at| (at % 251 + 1) as u8).collect();
    exec(&mut guest, &file(3, 0x1010, &headers, &content), &["program"]).unwrap();
    let base = guest.kernel.registers.rip - 0x1010;
    assert_eq!(base, PIE_BASE);
    assert_eq!(guest.get(base + 0x3800, 0x500), content[0x800..0xd00]);
}

#[test]
fn scripts_are_run_by_what_their_first_line_names() {
    let mut guest = Guest::new();
    guest.write_file("/tmp/program", &file(2, 0x40_1010, &headers(), &[0; 0x2000])).unwrap();
    guest.write_file("/tmp/script", b"#! /tmp/program -x  y \nrest\n").unwrap();
    for path in ["/tmp/program", "/tmp/script"] {
        let path = guest.path(path);
        guest.call(90, &[path, 0o755]).unwrap();
    }
    guest.kernel.exec(b"/tmp/script", vec![b"script".to_vec(), b"arg".to_vec()], &[]).unwrap();
    assert_eq!(guest.read_file("/proc/self/cmdline").unwrap(), b"/tmp/program\0-x  y\0/tmp/script\0arg\0");
}

#[test]
fn what_is_no_program_is_refused_by_name() {
    let good = file(2, 0x40_1010, &headers(), &[0; 0x2000]);
    let refused = |bytes: &[u8]| exec(&mut Guest::new(), bytes, &["p"]).unwrap_err();
    assert_eq!(refused(b"hello"), ExecError::Format(ImageError::NotElf));
    assert_eq!(refused(&good[..60]), ExecError::Format(ImageError::Damaged));
    for (at, byte) in [(4, 1), (5, 2), (18, 3), (16, 4)] {
        let mut bytes = good.clone();
        bytes[at] = byte;
        assert_eq!(refused(&bytes), ExecError::Format(ImageError::WrongMachine), "byte {at}");
    }
    let with = |headers: &[Header]| file(2, 0x40_1010, headers, &[0; 0x2000]);
    let [text, data] = headers();
    assert_eq!(refused(&with(&[data, text])), ExecError::Format(ImageError::Damaged), "not ascending");
    let overlap = Header { address: 0x40_1800, ..data };
    assert_eq!(refused(&with(&[text, overlap])), ExecError::Format(ImageError::Damaged));
    let huge = Header { memory_size: 1 << 46, ..data };
    assert_eq!(refused(&with(&[text, huge])), ExecError::TooLarge(Errno::NOMEM));
    let beyond = Header { memory_size: u64::MAX - 5, ..data };
    assert_eq!(refused(&with(&[text, beyond])), ExecError::Format(ImageError::Damaged));
    let interpreter = Header { kind: INTERP, offset: 0x1000, file_size: 8, ..text };
    let mut nowhere = with(&[interpreter, text, data]);
    nowhere[0x1000..0x1008].copy_from_slice(b"/nowhere");
    assert_eq!(refused(&nowhere), ExecError::File(Errno::NOENT));
    let mut guest = Guest::new();
    assert_eq!(guest.kernel.exec(b"/a", vec![], &[]), Err(ExecError::File(Errno::ACCES)));
    assert_eq!(
        guest.kernel.exec(b"/a/size-6", vec![], &[]),
        Err(ExecError::File(Errno::ACCES)),
        "not executable"
    );
    let long = vec![vec![b'x'; 130 << 10]];
    guest.write_file("/tmp/program", &good).unwrap();
    let path = guest.path("/tmp/program");
    guest.call(90, &[path, 0o755]).unwrap();
    assert_eq!(guest.kernel.exec(b"/tmp/program", long, &[]), Err(ExecError::TooLarge(Errno::TOOBIG)));
}

fn header() -> impl Strategy<Value = Header> {
    let size = || prop_oneof![0..0x5000_u64, any::<u64>(), Just(0), Just(u64::MAX)];
    let kind = prop_oneof![4 => Just(LOAD), 1 => Just(INTERP), 1 => Just(0x6474_e551), 1 => any::<u32>()];
    let place =
        prop_oneof![(0..0x800_u64).prop_map(|page| page << 12), any::<u64>(), 0x40_0000..0x41_0000_u64];
    (kind, any::<u32>(), size(), place, size(), size()).prop_map(
        |(kind, flags, offset, address, file_size, memory_size)| Header {
            kind,
            flags,
            offset,
            address,
            file_size,
            memory_size,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn no_file_stops_the_kernel(
        kind in 2..4_u16,
        entry in any::<u64>(),
        headers in proptest::collection::vec(header(), 0..6),
        damage in proptest::collection::vec((0..400_usize, any::<u8>()), 0..4),
    ) {
        let mut bytes = file(kind, entry, &headers, b"/tmp/program\0and more");
        for (at, byte) in damage {
            bytes[at] = byte;
        }
        let mut guest = Guest::new();
        if exec(&mut guest, &bytes, &["p"]).is_ok() {
            prop_assert!(guest.kernel.registers.rip < 1 << 47);
        }
    }
}
