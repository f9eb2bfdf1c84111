//! Puts function names and source lines to the addresses of a guest's backtrace.

use std::fmt::Write as _;
use std::path::Path;

use addr2line::Loader;

use crate::image::Image;

/// A backtrace line of our images: this, then the address in hex.
const MARK: &str = "at 0x";

/// The log with `function (file:line)` after each address of a backtrace. Which image wrote the log is told by the
/// first of their names that occurs in it; failing that, by which one has code at every address.
pub fn symbolise(log: &str, images: &[Image]) -> String {
    let addresses: Vec<u64> = log.lines().filter_map(address).collect();
    if addresses.is_empty() {
        return log.to_owned();
    }
    let named =
        images.iter().filter_map(|image| Some((log.find(&image.name)?, image))).min_by_key(|(at, _)| *at);
    let loader = match named {
        Some((_, image)) => load(&image.debug),
        None => images.iter().find_map(|image| {
            let loader = load(&image.debug)?;
            addresses.iter().all(|address| describe(&loader, *address).is_some()).then_some(loader)
        }),
    };
    let Some(loader) = loader else { return log.to_owned() };
    let mut out = String::with_capacity(log.len() * 2);
    for line in log.lines() {
        out.push_str(line);
        if let Some(text) = address(line).and_then(|address| describe(&loader, address)) {
            let _ = write!(out, "  {text}");
        }
        out.push('\n');
    }
    out
}

fn load(path: &Path) -> Option<Loader> {
    Loader::new(path).ok()
}

fn address(line: &str) -> Option<u64> {
    let (_, rest) = line.split_once(MARK)?;
    let digits = rest.split(|c: char| !c.is_ascii_hexdigit()).next()?;
    u64::from_str_radix(digits, 16).ok()
}

/// Inlined functions first, each with its line. A return address is one past the call, so the byte before it counts.
fn describe(loader: &Loader, address: u64) -> Option<String> {
    let at = address.checked_sub(1)?;
    let mut parts = Vec::new();
    if let Ok(mut frames) = loader.find_frames(at) {
        while let Ok(Some(frame)) = frames.next() {
            let Some(function) = frame.function else { continue };
            let name = function.demangle().map(|name| name.into_owned()).unwrap_or_default();
            let place =
                frame.location.and_then(|l| Some(format!(" ({}:{})", l.file?, l.line?))).unwrap_or_default();
            parts.push(format!("{name}{place}"));
        }
    }
    if parts.is_empty() {
        parts.push(loader.find_symbol(at)?.to_owned());
    }
    Some(parts.join(" < "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test program has symbols too: a function of it must be found again by its address in the file.
    #[test]
    fn an_address_gets_its_functions_name() {
        let debug = std::env::current_exe().expect("a test has a program");
        let content = std::fs::read(&debug).expect("readable");
        let file = object::File::parse(&*content).expect("an ELF");
        let symbol = object::Object::symbols(&file)
            .find(|symbol| {
                object::ObjectSymbol::name(symbol).is_ok_and(|name| name.contains("an_address_gets"))
            })
            .map(|symbol| object::ObjectSymbol::address(&symbol))
            .expect("this test has a symbol");
        let image = Image { name: "mm-none".into(), path: debug.clone(), debug, bytes: 0 };
        let shown = symbolise(&format!("panicked\n  at {:#x}\n", symbol + 1), &[image]);
        assert!(shown.contains("an_address_gets_its_functions_name"), "{shown}");
        assert_eq!(symbolise("no trace\n", &[]), "no trace\n");
    }
}
