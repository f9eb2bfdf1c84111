//! `cargo xtask image`: builds the bootable images, a line for each.

use std::process::ExitCode;

use anyhow::Result;
use m1_tests::image;

/// Builds what `names` says, or everything there is.
pub(crate) fn run(names: &[String]) -> Result<ExitCode> {
    let images = if names.is_empty() {
        image::build_all()?
    } else {
        names.iter().map(|name| image::build(name)).collect::<Result<Vec<_>>>()?
    };
    for image in images {
        println!("{} {} {}", image.name, image.path.display(), image.bytes);
    }
    Ok(ExitCode::SUCCESS)
}
