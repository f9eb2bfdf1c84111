//! e2fsprogs, out of its package, as the testbed has it.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

fn tool(name: &str) -> Command {
    let program = format!("/usr/sbin/{name}");
    let mut command = m1_tests::volume::e2fsprogs_command(&program).expect("e2fsprogs can be had");
    command.env("E2FSPROGS_FAKE_TIME", "1700000000");
    command
}

fn run(mut command: Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap_or(-1), text)
}

/// A fresh image of so many MiB.
pub(super) fn make(mib: u64, options: &[&str]) -> Vec<u8> {
    static PLAIN: OnceLock<Vec<u8>> = OnceLock::new();
    let plain = || {
        let dir = TempDir::new().unwrap();
        let image = dir.path().join("image");
        std::fs::File::create(&image).unwrap().set_len(mib << 20).unwrap();
        let mut command = tool("mke2fs");
        command.args(["-q", "-F", "-t", "ext3", "-b", "4096"]).args(options).arg(&image);
        let (code, text) = run(command);
        assert_eq!(code, 0, "{text}");
        std::fs::read(&image).unwrap()
    };
    if mib == 16 && options.is_empty() { PLAIN.get_or_init(plain).clone() } else { plain() }
}

fn with_image<R>(bytes: &[u8], work: impl FnOnce(&Path) -> R) -> R {
    let dir = TempDir::new().unwrap();
    let image = dir.path().join("image");
    std::fs::write(&image, bytes).unwrap();
    work(&image)
}

/// Panics with what e2fsck says unless there is nothing at all to say.
pub(super) fn check_clean(bytes: &[u8]) {
    with_image(bytes, |image| {
        let mut command = tool("e2fsck");
        command.args(["-f", "-n"]).arg(image);
        let (code, text) = run(command);
        assert_eq!(code, 0, "{text}");
    });
}

/// After a power cut: `e2fsck -p` goes through without asking anybody, and then it is clean. Gives the image.
pub(super) fn check_preen(bytes: &[u8]) -> Vec<u8> {
    with_image(bytes, |image| {
        let mut command = tool("e2fsck");
        command.args(["-f", "-p"]).arg(image);
        let (code, text) = run(command);
        assert!(code <= 1, "{code}: {text}");
        let bytes = std::fs::read(image).unwrap();
        check_clean(&bytes);
        bytes
    })
}

/// What `debugfs` does with these commands, to the image.
pub(super) fn debugfs(bytes: &[u8], commands: &[&str]) -> (Vec<u8>, String) {
    with_image(bytes, |image| {
        let mut text = String::new();
        for line in commands {
            let mut command = tool("debugfs");
            command.args(["-w", "-R", line]).arg(image);
            text += &run(command).1;
        }
        (std::fs::read(image).unwrap(), text)
    })
}

/// The whole tree, as debugfs reads it, in a directory.
pub(super) fn dump(bytes: &[u8]) -> TempDir {
    let out = TempDir::new().unwrap();
    with_image(bytes, |image| {
        let mut command = tool("debugfs");
        command.args(["-R", &format!("rdump / {}", out.path().display())]).arg(image);
        run(command)
    });
    out
}

/// With directories as `e2fsck -D` makes them: hash trees where they are large.
pub(super) fn optimize(bytes: &[u8]) -> Vec<u8> {
    with_image(bytes, |image| {
        let mut command = tool("e2fsck");
        command.args(["-f", "-y", "-D"]).arg(image);
        let (code, text) = run(command);
        assert!(code <= 1, "{text}");
        std::fs::read(image).unwrap()
    })
}

/// After a series of debugfs's commands in one session; `@` stands for a file with these bytes.
pub(super) fn debugfs_session(bytes: &[u8], commands: &str, file: &[u8]) -> (Vec<u8>, String) {
    with_image(bytes, |image| {
        let (content, script) = (image.with_extension("content"), image.with_extension("script"));
        std::fs::write(&content, file).unwrap();
        std::fs::write(&script, commands.replace('@', &content.display().to_string())).unwrap();
        let mut command = tool("debugfs");
        command.arg("-w").arg("-f").arg(&script).arg(image);
        let (_, text) = run(command);
        (std::fs::read(image).unwrap(), text)
    })
}
