//! Programs of Debian's that a guest needs and whose packages bring more than a small system has room for: they come alone, with the
//! libraries that they load.

use std::path::PathBuf;

use anyhow::Result;

use crate::elf;
use crate::packages::{self, Follow};

/// Measures and verifies disks.
const FIO: &str = "/usr/bin/fio";

/// fio with its libraries: a file of the host and where it goes.
pub(super) fn fio() -> Result<Vec<(PathBuf, String)>> {
    let set = packages::unpack(&["fio"], Follow::Libraries)?;
    let program = set.require(FIO)?;
    let libraries = elf::libraries(&set, std::slice::from_ref(&program))?;
    let files = libraries.into_iter().map(|(path, host)| (host, path));
    Ok(files.chain([(program, FIO.to_owned())]).collect())
}
