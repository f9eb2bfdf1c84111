//! The one door: `cargo xtask …`.

mod bench;
mod demo;
mod dom0;
mod image;
mod shell;
mod test;
mod tool;
mod volume;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Builds, boots, tests and measures M1")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Several clients run Debian's programs out of pages that M1 lends: what that saves, measured, on one screen
    Demo(demo::Arguments),
    /// Boots Xen and a Linux dom0 in QEMU and runs a command in dom0
    Dom0(dom0::Arguments),
    /// Boots Xen and a Linux dom0 in QEMU and gives a prompt in dom0
    Shell(shell::Arguments),
    /// Builds the bootable images and prints for each its name, path and stripped size in bytes
    Image {
        /// Builds only these
        names: Vec<String>,
    },
    /// Builds m1ctl, dom0's command line, as a static program and prints its path
    M1ctl,
    /// Runs all tests, with --full in their longer forms
    Test(test::Arguments),
    /// Measures what the budgets are about and prints the table
    Bench(bench::Arguments),
    /// Makes base volumes
    #[command(subcommand)]
    Volume(volume::Command),
}

fn main() -> ExitCode {
    m1_tests::stage::elapsed();
    // QEMU ends with this process, whatever ends it. The handler is for shells that start background jobs deaf to Ctrl-C.
    if let Err(error) = ctrlc::set_handler(interrupted) {
        eprintln!("warning: {error}");
    }
    let result = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(arguments),
        Command::Dom0(arguments) => dom0::run(arguments),
        Command::Shell(arguments) => shell::run(&arguments),
        Command::Image { names } => image::run(&names),
        Command::M1ctl => tool::run(),
        Command::Test(arguments) => test::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Volume(command) => volume::run(command),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(101)
    })
}

fn interrupted() {
    m1_tests::demo::forget_files();
    std::process::exit(130);
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_makes_sense() {
        super::Arguments::command().debug_assert();
    }
}
