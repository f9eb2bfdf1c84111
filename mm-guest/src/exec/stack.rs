//! The first stack of a program: arguments, environment and auxiliary vector (System V ABI, AMD64, 3.4.1).

use alloc::vec::Vec;

use crate::errno::Errno;
use crate::vm::STACK_TOP;

/// What goes onto it.
pub(crate) struct Contents<'a> {
    pub(crate) args: &'a [Vec<u8>],
    pub(crate) env: &'a [Vec<u8>],
    pub(crate) path: &'a [u8],
    pub(crate) entry: u64,
    /// Where the interpreter is; zero if there is none.
    pub(crate) base: u64,
    pub(crate) headers: u64,
    pub(crate) header_count: u64,
    pub(crate) hwcap: u64,
    pub(crate) random: [u8; 16],
}

/// The finished stack: `bytes` go to `pointer`.
pub(crate) struct Stack {
    pub(crate) pointer: u64,
    pub(crate) bytes: Vec<u8>,
    /// Where the argument and the environment strings are: start and end, for `/proc/self`.
    pub(crate) args: (u64, u64),
    pub(crate) env: (u64, u64),
    pub(crate) auxiliary: Vec<u8>,
}

/// Lays the stack out below [`STACK_TOP`]. Fails where there is no memory for it.
pub(crate) fn build(contents: &Contents<'_>) -> Result<Stack, Errno> {
    // Strings first, at the top; then the words that point to them.
    let length: usize = contents.args.iter().chain(contents.env).map(|string| string.len() + 1).sum();
    let count = contents.args.len() + contents.env.len();
    let mut strings = Vec::new();
    strings.try_reserve_exact(length + contents.path.len() + 64)?;
    let mut put = |bytes: &[u8]| {
        let at = strings.len() as u64;
        strings.extend_from_slice(bytes);
        strings.push(0);
        at
    };
    let (mut args, mut env) = (Vec::new(), Vec::new());
    args.try_reserve_exact(contents.args.len())?;
    env.try_reserve_exact(contents.env.len())?;
    args.extend(contents.args.iter().map(|arg| put(arg)));
    env.extend(contents.env.iter().map(|variable| put(variable)));
    let path = put(contents.path);
    let platform = put(b"x86_64");
    let random = strings.len() as u64;
    strings.extend_from_slice(&contents.random);
    let base = (STACK_TOP - 8 - strings.len() as u64) & !15;

    let auxiliary: Vec<u64> = [
        (3, contents.headers),
        (4, 56),
        (5, contents.header_count),
        (6, 4096),
        (7, contents.base),
        (8, 0),
        (9, contents.entry),
        (11, 0),
        (12, 0),
        (13, 0),
        (14, 0),
        (15, base + platform),
        (16, contents.hwcap),
        (17, 100),
        (23, 0),
        (25, base + random),
        (26, 0),
        (31, base + path),
        (51, 2048),
        (0, 0),
    ]
    .into_iter()
    .flat_map(|(kind, value)| [kind, value])
    .collect();

    let mut words = Vec::new();
    words.try_reserve_exact(count + 3 + auxiliary.len())?;
    words.push(args.len() as u64);
    words.extend(args.iter().map(|at| base + at).chain([0]));
    words.extend(env.iter().map(|at| base + at).chain([0]));
    words.extend(&auxiliary);
    let pointer = (base - 8 * words.len() as u64) & !15;
    let mut bytes = Vec::new();
    bytes.try_reserve_exact((base - pointer) as usize + strings.len())?;
    bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    bytes.resize((base - pointer) as usize, 0);
    bytes.extend_from_slice(&strings);
    let env_start = env.first().copied().unwrap_or(path);
    Ok(Stack {
        pointer,
        bytes,
        args: (base, base + env_start),
        env: (base + env_start, base + path),
        auxiliary: auxiliary.iter().flat_map(|word| word.to_le_bytes()).collect(),
    })
}
