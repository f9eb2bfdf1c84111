//! The picture of a run in the README: made from the numbers of a real run, which lie in `docs/demo.json`.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Report;
use crate::paths;

const BEGIN: &str = "<!-- The screen of `cargo demo`, from docs/demo.json: `cargo demo --picture` makes both anew. -->\n```text\n";
const END: &str = "```\n";

fn numbers() -> PathBuf {
    paths::workspace().join("docs/demo.json")
}

/// The run whose screen the README shows.
///
/// # Errors
/// Where it is not there, or not of the form that a run has today.
pub fn shown() -> Result<Report> {
    let path = numbers();
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// The README's picture.
///
/// # Errors
/// Where there is none.
pub fn in_readme() -> Result<String> {
    let text = fs::read_to_string(paths::workspace().join("README.md"))?;
    Ok(split(&text)?.1.to_owned())
}

/// Puts this run into `docs/demo.json` and its screen into the README.
///
/// # Errors
/// Where one of them cannot be read or written.
pub fn replace(report: &Report) -> Result<()> {
    let readme = paths::workspace().join("README.md");
    let text = fs::read_to_string(&readme)?;
    let (before, _, after) = split(&text)?;
    fs::write(numbers(), serde_json::to_string(report)? + "\n")?;
    fs::write(&readme, format!("{before}{}{after}", screen(report)))?;
    Ok(())
}

/// The screen as the README has it.
#[must_use]
pub fn screen(report: &Report) -> String {
    format!("{}\n", report.to_string().trim_matches('\n'))
}

/// What two screens have in common that show the same things about different runs: words, without numbers, and with spaces as one.
#[must_use]
pub fn form(screen: &str) -> String {
    let mut form = String::new();
    let mut words = screen.split_inclusive(|character: char| !character.is_alphanumeric()).peekable();
    while let Some(word) = words.next() {
        if word.starts_with(|first: char| first.is_ascii_digit()) || is_digest(word) {
            if !form.ends_with('#') {
                form.push('#');
            }
            let rest = word.trim_start_matches(|character: char| character.is_alphanumeric());
            // 3.25, -4: a number; the end of a sentence, a line or a word is not part of it.
            if !(matches!(rest, "." | "-")
                && words.peek().is_some_and(|next| next.starts_with(|first: char| first.is_ascii_digit())))
            {
                form.push_str(rest);
            }
        } else {
            form.push_str(word);
        }
    }
    form.replace("-#", "#").split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Sixteen digits of a hexadecimal number that begins with a letter.
fn is_digest(word: &str) -> bool {
    let word = word.trim_end_matches(|character: char| !character.is_alphanumeric());
    word.len() == 16 && word.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The README before its picture, the picture, and what comes after.
fn split(text: &str) -> Result<(&str, &str, &str)> {
    let start = text.find(BEGIN).context("the README has no picture")? + BEGIN.len();
    let length = text[start..].find(END).context("the README's picture has no end")?;
    Ok((&text[..start], &text[start..start + length], &text[start + length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn screens_of_two_runs_have_one_form_and_of_another_thing_another() {
        let one = "  client1  3.25  -15.34\n  digest ab12ab12ab12ab12, 7 µs (19 %); from 2 on.\n";
        let two = "  client1 13.5     5.04\n  digest 9b12ab12ab12ab12, 7155 µs (9 %); from 12 on.\n";
        assert_eq!(form(one), form(two));
        assert_ne!(form(one), form(&two.replace("from", "till")));
        assert_ne!(form("ok  outputs: 3"), form("WRONG  outputs: 3"));
    }

    #[test]
    fn the_readme_shows_the_run_whose_numbers_are_there_and_in_it_everything_held() {
        let report = shown().expect("docs/demo.json");
        assert!(report.good(), "{:?}", report.checks);
        assert_eq!(in_readme().expect("the README"), screen(&report), "`cargo demo --picture` makes it anew");
    }
}
