//! `strace=1`: every call, its arguments and what it gave, on the console.

use alloc::string::String;
use core::fmt::Write;

use super::{Args, names};
use crate::errno::SysResult;
use crate::kernel::Kernel;
use crate::machine::Machine;

/// How arguments are shown: `s` a path, `d` a number, `f` a descriptor, `o` octal, `x` anything else. Calls that are not
/// here show six words.
const KINDS: &[(u64, &str)] = &[
    (0, "fxd"),
    (1, "fxd"),
    (2, "sxo"),
    (3, "f"),
    (4, "sx"),
    (5, "fx"),
    (6, "sx"),
    (7, "xdd"),
    (8, "fdd"),
    (9, "xxxxfx"),
    (10, "xxx"),
    (11, "xx"),
    (12, "x"),
    (13, "dxxd"),
    (14, "dxxd"),
    (15, ""),
    (16, "fxx"),
    (17, "fxdd"),
    (18, "fxdd"),
    (19, "fxd"),
    (20, "fxd"),
    (21, "so"),
    (22, "x"),
    (24, ""),
    (25, "xxxxx"),
    (28, "xxd"),
    (32, "f"),
    (33, "ff"),
    (35, "xx"),
    (39, ""),
    (40, "ffxd"),
    (59, "sxx"),
    (60, "d"),
    (62, "dd"),
    (63, "x"),
    (72, "fdx"),
    (77, "fd"),
    (79, "xd"),
    (80, "s"),
    (82, "ss"),
    (83, "so"),
    (84, "s"),
    (87, "s"),
    (89, "sxd"),
    (90, "so"),
    (95, "o"),
    (97, "dx"),
    (102, ""),
    (104, ""),
    (107, ""),
    (108, ""),
    (110, ""),
    (131, "xx"),
    (137, "sx"),
    (157, "dxxxx"),
    (158, "xx"),
    (186, ""),
    (202, "xddxxx"),
    (204, "ddx"),
    (217, "fxd"),
    (218, "x"),
    (228, "dx"),
    (230, "ddxx"),
    (231, "d"),
    (234, "ddd"),
    (257, "fsxo"),
    (262, "fsxx"),
    (263, "fsx"),
    (267, "fsxd"),
    (269, "fso"),
    (273, "xd"),
    (280, "fsxx"),
    (302, "ddxx"),
    (318, "xdx"),
    (332, "fsxxx"),
    (334, "xdxx"),
    (439, "fsox"),
];

impl<M: Machine> Kernel<M> {
    /// The arguments as text, before the call may change what they point to.
    pub(super) fn trace_arguments(&mut self, call: u64, args: &Args) -> String {
        let kinds = KINDS.iter().find(|(number, _)| *number == call).map_or("xxxxxx", |(_, kinds)| kinds);
        let mut text = String::new();
        for (index, (kind, argument)) in kinds.bytes().zip(args).enumerate() {
            if index > 0 {
                text.push_str(", ");
            }
            let _ = match kind {
                b's' => match self.memory.read_path(*argument) {
                    Ok(path) => write!(text, "\"{}\"", path.escape_ascii()),
                    Err(_) => write!(text, "{argument:#x}"),
                },
                b'f' if *argument as i32 == -100 => write!(text, "AT_FDCWD"),
                b'd' => write!(text, "{}", *argument as i64),
                b'f' => write!(text, "{}", *argument as i32),
                b'o' => write!(text, "0{argument:o}"),
                _ => write!(text, "{argument:#x}"),
            };
        }
        text
    }

    pub(super) fn trace_result(&mut self, call: u64, arguments: &str, result: SysResult) {
        let name = names::name(call);
        match result {
            Ok(value) if value > 0xffff => self.say(format_args!("{name}({arguments}) = {value:#x}")),
            Ok(value) => self.say(format_args!("{name}({arguments}) = {value}")),
            Err(error) => self.say(format_args!("{name}({arguments}) = -{}", error.name())),
        }
    }
}
