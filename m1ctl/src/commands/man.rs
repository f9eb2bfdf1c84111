//! `m1ctl man`: the manual page, made from the command line's own description.

use clap::CommandFactory;

use crate::cli::Arguments;
use crate::failure::Result;
use crate::out;

pub(crate) fn run() -> Result<()> {
    out::say(&String::from_utf8_lossy(&page()?));
    Ok(())
}

/// The page of the program, and a section for each command.
fn page() -> Result<Vec<u8>> {
    let mut command = Arguments::command();
    command.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    for subcommand in command.get_subcommands().filter(|subcommand| !subcommand.is_hide_set()) {
        let name = subcommand.get_name().to_owned();
        if name == "help" {
            continue;
        }
        page.extend_from_slice(format!(".SH \"M1CTL {}\"\n", name.to_uppercase()).as_bytes());
        let man = clap_mangen::Man::new(subcommand.clone());
        man.render_description_section(&mut page)?;
        man.render_synopsis_section(&mut page)?;
        man.render_options_section(&mut page)?;
    }
    Ok(page)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_manual_has_every_command() {
        let page = String::from_utf8(super::page().expect("a page")).expect("text");
        for word in [".TH m1ctl", "M1CTL STATUS", "M1CTL TRACE", "Exit codes", "DOMAIN"] {
            assert!(page.contains(word), "{word}: {page}");
        }
    }
}
