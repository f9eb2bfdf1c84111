//! A source tree with everything that matters to a filesystem reader, and mkfs.erofs to make images of it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// A source tree and the images made of it; gone when dropped.
pub(crate) struct Made {
    dir: TempDir,
}

impl Made {
    /// Makes the tree.
    pub(crate) fn new() -> Self {
        let made = Self { dir: TempDir::new().expect("a directory for the test") };
        let tree = made.tree();
        fs::create_dir_all(tree.join("a/b/c")).expect("directories");
        fs::create_dir(tree.join("empty")).expect("directory");
        for size in [0, 1, 6, 1000, 4000, 4095, 4096, 4097, 8192, 12_289, 300_000] {
            fs::write(tree.join(format!("a/size-{size}")), noise(size, size)).expect("file");
        }
        // A hole in the middle, for chunks that point nowhere, and equal chunks, which chunked images store once.
        let sparse = File::create(tree.join("a/b/sparse")).expect("file");
        for (page, bytes) in [(0, noise(77, 4096)), (6, noise(78, 5000)), (8, noise(77, 4096))] {
            sparse.write_all_at(&bytes, page * 4096).expect("file");
        }
        // A directory of many blocks, with names of all lengths but 255, which mkfs.erofs 1.5 cannot do.
        fs::create_dir(tree.join("many")).expect("directory");
        for index in 0..700_usize {
            let name = format!("{:0>width$}", index * 7919, width = 6 + index % 249);
            fs::write(tree.join("many").join(name), noise(index, index % 50)).expect("file");
        }
        for (target, link) in [
            ("/a/b", "absolute"),
            ("b/c", "a/relative"),
            ("../../size-6", "a/b/c/up"),
            ("absolute/c/../c/up", "through"),
            ("loop", "loop"),
            ("nowhere", "dangling"),
            ("a/size-6/", "slashed"),
            (&"x".repeat(3000), "long"),
        ] {
            symlink(target, tree.join(link)).expect("link");
        }
        symlink("a/size-1000", tree.join("chain-0")).expect("link");
        for index in 1..=40 {
            symlink(format!("chain-{}", index - 1), tree.join(format!("chain-{index}"))).expect("link");
        }
        made
    }

    /// The source tree.
    pub(crate) fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// Makes an image of the tree.
    pub(crate) fn image<S: AsRef<OsStr>>(&self, options: &[S]) -> Vec<u8> {
        let image = self.dir.path().join("image.erofs");
        let _ = fs::remove_file(&image);
        let tool = mkfs();
        let done = Command::new(&tool).args(options).arg(&image).arg(self.tree()).output();
        let done = done.unwrap_or_else(|error| panic!("{} (package erofs-utils): {error}", tool.display()));
        assert!(done.status.success(), "mkfs.erofs: {}", String::from_utf8_lossy(&done.stderr));
        let mut bytes = fs::read(&image).expect("the image");
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes
    }
}

/// The tool: `MKFS_EROFS` if set, else the host's.
fn mkfs() -> PathBuf {
    if let Some(tool) = std::env::var_os("MKFS_EROFS") {
        return tool.into();
    }
    let usual = ["/usr/bin/mkfs.erofs", "/usr/sbin/mkfs.erofs", "/sbin/mkfs.erofs"];
    usual
        .into_iter()
        .map(Path::new)
        .find(|tool| tool.exists())
        .unwrap_or(Path::new("mkfs.erofs"))
        .to_path_buf()
}

/// Bytes that look random, the same ones for the same seed.
fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}
