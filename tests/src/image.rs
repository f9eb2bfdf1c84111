//! Builds the bootable images and looks at what came out.
//!
//! Each is built by cargo as an ordinary program without a red zone, in a target directory of its own, and ends as two
//! files: `target/image/NAME`, stripped, to boot, and `target/image/NAME.debug`, to put names to addresses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::apt::output;
use crate::paths;

/// The images of the workspace: M1, its Linux client, and the small client.
pub const NAMES: [&str; 3] = ["mm-kernel", "mm-guest", "mm-unikernel"];
/// A trap of a PV kernel comes on the stack that was in use, so nothing may live below the stack pointer.
const NO_RED_ZONE: &str = "-Cno-redzone=yes";

/// A built image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// The package's name.
    pub name: String,
    /// The stripped file that `kernel=` names.
    pub path: PathBuf,
    /// The same program with symbols and line tables.
    pub debug: PathBuf,
    /// Bytes of the stripped file.
    pub bytes: u64,
}

/// Builds every image that has a program.
pub fn build_all() -> Result<Vec<Image>> {
    NAMES.into_iter().filter(|name| has_program(name)).map(build).collect()
}

/// Whether the package has a program at all.
pub fn has_program(name: &str) -> bool {
    paths::workspace().join(name).join("src/main.rs").is_file()
}

/// Builds one image. Takes a second when nothing has changed.
pub fn build(name: &str) -> Result<Image> {
    let directory = paths::workspace().join("target/image");
    fs::create_dir_all(&directory)?;
    let _lock = paths::lock("image")?;
    let arguments = ["--profile", "kernel", "--features", "image"];
    let built = compile(name, &arguments, &flags(), &directory.join("build"))?;
    let (path, debug) = (directory.join(name), directory.join(format!("{name}.debug")));
    let newer = |a: &Path, b: &Path| -> bool {
        let time = |path: &Path| fs::metadata(path).and_then(|data| data.modified()).ok();
        time(a).zip(time(b)).is_some_and(|(a, b)| a > b)
    };
    if !newer(&path, &built) {
        // Under other names first: a test may just be reading the old ones.
        let partial = tempfile::tempdir_in(&directory)?;
        let (stripped, whole) = (partial.path().join("stripped"), partial.path().join("whole"));
        output(Command::new("strip").arg("-o").arg(&stripped).arg(&built))?;
        check_red_zone(
            name,
            &output(Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(&built))?,
        )?;
        fs::copy(&built, &whole)?;
        fs::rename(whole, &debug)?;
        fs::rename(stripped, &path)?;
    }
    let bytes = fs::metadata(&path)?.len();
    Ok(Image { name: name.to_owned(), path, debug, bytes })
}

/// Runs cargo with these arguments and flags for the compiler, and gives the program it made.
pub(crate) fn compile(name: &str, arguments: &[&str], flags: &[String], target: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(paths::workspace());
    command.args(["build", "--quiet", "--locked", "--package", name]).args(arguments);
    command.args(["--bin", name, "--message-format", "json-render-diagnostics", "--target-dir"]).arg(target);
    // What a test or an xtask was itself built with is of no concern here.
    for (variable, _) in std::env::vars_os() {
        let text = variable.to_string_lossy();
        let ours = ["CARGO_PKG_", "CARGO_MANIFEST", "CARGO_BIN_", "CARGO_CFG_"];
        if ours.iter().any(|prefix| text.starts_with(prefix))
            || ["RUSTFLAGS", "CARGO_BUILD_TARGET"].contains(&&*text)
        {
            command.env_remove(&variable);
        }
    }
    command.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    let done = command.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(done.status.success(), "{name} does not build");
    for line in done.stdout.split(|byte| *byte == b'\n') {
        let Ok(message) = serde_json::from_slice::<Value>(line) else { continue };
        if message["target"]["name"] == name
            && let Some(path) = message["executable"].as_str()
        {
            return Ok(PathBuf::from(path));
        }
    }
    bail!("cargo does not say where {name} is")
}

/// The compiler's flags for an image: no red zone.
fn flags() -> Vec<String> {
    [vec![NO_RED_ZONE.to_owned()], remap()].concat()
}

/// No path of this machine in what is built.
pub(crate) fn remap() -> Vec<String> {
    let mut flags = vec![format!("--remap-path-prefix={}=.", paths::workspace().display())];
    let home =
        std::env::var("CARGO_HOME").or_else(|_| std::env::var("HOME").map(|home| format!("{home}/.cargo")));
    if let Ok(home) = home {
        flags.push(format!("--remap-path-prefix={home}=cargo"));
    }
    flags
}

/// Fails if an instruction reaches below the stack pointer. Flags cannot promise that alone: the core library comes
/// compiled, with a red zone, and is only clean as far as it is compiled again when it is linked.
fn check_red_zone(name: &str, listing: &str) -> Result<()> {
    let mut function = "";
    let mut found = Vec::new();
    for line in listing.lines() {
        if let Some((_, symbol)) = line.trim_end_matches(">:").split_once(" <")
            && line.ends_with(">:")
        {
            function = symbol;
        } else if reaches_below_stack(line) {
            found.push(format!("{function}: {}", line.trim()));
        }
    }
    ensure!(
        found.is_empty(),
        "{name} has {} accesses below the stack pointer, which a trap overwrites:\n{}",
        found.len(),
        found[..found.len().min(10)].join("\n")
    );
    Ok(())
}

/// Whether a line of objdump shows a memory operand `-N(%rsp)`. `lea` only computes an address, and with an index register the
/// offset is that of an array on the stack whose index begins above it.
fn reaches_below_stack(line: &str) -> bool {
    let Some((_, instruction)) = line.split_once(":\t") else { return false };
    let negative = instruction.match_indices("(%rsp)").any(|(at, _)| {
        let before = &instruction[..at];
        let start = before.rfind([' ', ',', '*', ':']).map_or(0, |at| at + 1);
        before[start..].starts_with("-0x")
    });
    negative && !instruction.trim_start().starts_with("lea ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_access_below_the_stack_pointer_is_found() {
        let listing = "0000 <core::x>:\n    1000:\tmov    %rax,-0x8(%rsp)\n    1004:\tret\n";
        let error = check_red_zone("image", listing).expect_err("a red zone").to_string();
        assert!(error.contains("core::x: 1000:"), "{error}");
        for good in [
            "  1:\tmov    %rax,0x8(%rsp)",
            "  1:\tlea    -0x8(%rsp),%rdi",
            "  1:\tmov    -0x8(%rbp),%rsp",
            "  1:\tmov    -0x8(%rax,%rbx,8),%rcx",
            "  1:\tmov    -0x8(%rax),%rsp",
            "  1:\tmov    %dil,-0x2(%rsp,%rdx,1)",
        ] {
            assert!(!reaches_below_stack(good), "{good}");
        }
        assert!(reaches_below_stack("  1:\tmovups %xmm0,-0x20(%rsp)"));
        assert!(reaches_below_stack("  1:\tcall   *-0x10(%rsp)"));
    }
}
