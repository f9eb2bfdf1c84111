//! `cargo xtask volume`: base volumes of packages, directories and files, and empty disks for `/data`.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use m1_tests::volume::{Volume, demo_packages, make_data};

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Makes an EROFS image and prints its path, its size in bytes and its number of files
    Build(Build),
}

#[derive(clap::Args)]
pub(crate) struct Build {
    /// Directories (with a / in their names), package files (.deb) and Debian packages; without any, the demo's packages
    #[arg(value_name = "DIR|DEB|PACKAGE")]
    sources: Vec<String>,
    /// The image to write
    #[arg(short, long, value_name = "IMAGE", default_value = "base.erofs")]
    output: PathBuf,
    /// Adds a file or a directory of the host
    #[arg(long = "file", value_name = "HOST:PATH")]
    files: Vec<String>,
    /// Makes the image this long: bytes, or with K, M or G
    #[arg(long, value_parser = bytes)]
    size: Option<u64>,
    /// Makes an empty disk for a client's /data instead: ext3 of this length, at least 16M
    #[arg(long, value_name = "SIZE", value_parser = bytes, conflicts_with_all = ["sources", "files", "size"])]
    data: Option<u64>,
}

pub(crate) fn run(command: Command) -> Result<ExitCode> {
    let Command::Build(arguments) = command;
    if let Some(size) = arguments.data {
        make_data(&arguments.output, size)?;
        println!("{} {size} 0", arguments.output.display());
        return Ok(ExitCode::SUCCESS);
    }
    let mut volume = Volume::new();
    for source in &arguments.sources {
        volume = volume.source(source)?;
    }
    if arguments.sources.is_empty() {
        volume = volume.packages(demo_packages());
    }
    for file in &arguments.files {
        let (host, guest) =
            file.rsplit_once(':').with_context(|| format!("--file {file} is not HOST:PATH"))?;
        ensure!(guest.starts_with('/'), "--file {file}: {guest} is no absolute path");
        volume = volume.file(host, guest);
    }
    if let Some(size) = arguments.size {
        volume = volume.size(size);
    }
    let built = volume.build()?;
    // A copy: the image in the cache must stay as it is.
    fs::copy(&built.image, &arguments.output)
        .with_context(|| format!("cannot write {}", arguments.output.display()))?;
    println!("{} {} {}", arguments.output.display(), built.summary.bytes, built.summary.files);
    Ok(ExitCode::SUCCESS)
}

/// `4096`, `64K`, `256M`, `1G`.
fn bytes(text: &str) -> Result<u64, String> {
    let (digits, unit) = match text.strip_suffix(['K', 'M', 'G']) {
        Some(digits) => (digits, &text[digits.len()..]),
        None => (text, ""),
    };
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        _ => 0,
    };
    let number: u64 = digits.parse().map_err(|error| format!("{error}"))?;
    number.checked_mul(1 << shift).ok_or_else(|| "too large".to_owned())
}
