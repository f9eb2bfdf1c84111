//! The C program, and pages that it is given.

use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use m1_tests::packages::{self, Follow};
use xen_ring::{PAGE_SIZE, PageWords};

/// The compiled program.
pub(crate) struct Peer {
    program: PathBuf,
}

/// A page of zeros.
pub(crate) fn page() -> &'static PageWords {
    Box::leak(Box::default())
}

impl Peer {
    /// Compiles it, once.
    pub(crate) fn get() -> &'static Self {
        static PEER: OnceLock<Peer> = OnceLock::new();
        PEER.get_or_init(|| {
            let headers = packages::unpack(&["libxen-dev"], Follow::Libraries).expect("Debian's libxen-dev");
            let header = headers.require("usr/include/xen/xen.h").expect("it has Xen's headers");
            let include = header.ancestors().nth(2).expect("two levels up");
            let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("wire-peer");
            let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/wire/peer.c");
            let mut compiler = Command::new("cc");
            compiler
                .args(["-std=gnu11", "-O1", "-Wall", "-o"])
                .arg(&program)
                .arg("-I")
                .arg(include)
                .arg(source);
            let output = compiler.output().expect("a C compiler named cc");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Self { program }
        })
    }

    /// Gives it the page, and takes the page back; what it said.
    pub(crate) fn meets(&self, mode: &str, page: &PageWords) -> String {
        let mut bytes = [0; PAGE_SIZE];
        assert!(page.read(0, &mut bytes));
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), bytes).expect("writable");
        let output = Command::new(&self.program).arg(mode).arg(file.path()).output().expect("it runs");
        assert!(output.status.success(), "{mode}: {output:?}");
        let bytes = std::fs::read(file.path()).expect("readable");
        assert!(page.write(0, &bytes));
        String::from_utf8(output.stdout).expect("text")
    }
}
