//! What an `mm-unikernel` says on its console, and what it should say.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::guest::Guest;

/// One round of a unikernel: the line `mm-unikernel: round=… pages=… digest=… …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Round {
    /// Pages that it read.
    pub pages: u64,
    /// [`digest`] of them, in order.
    pub digest: u64,
    /// Nanoseconds that it took.
    pub nanoseconds: u64,
    /// Requests that it has sent to M1 since its start.
    pub asked: u64,
    /// Pages that were copied to it, since its start.
    pub copied: u64,
    /// References that did not map, since its start.
    pub retries: u64,
    /// Pages of M1 that it maps.
    pub mapped: u64,
}

impl Round {
    /// All rounds in a console's log, in order.
    pub fn all(log: &str) -> Result<Vec<Round>> {
        let lines = log.lines().filter(|line| line.contains("mm-unikernel: round=") && line.contains(" R="));
        lines.map(|line| Self::parse(line).with_context(|| format!("no round: {line:?}"))).collect()
    }

    fn parse(line: &str) -> Result<Round> {
        let word = |key: &str| {
            let word =
                line.split_ascii_whitespace().find_map(|word| word.strip_prefix(key)?.strip_prefix('='));
            word.with_context(|| format!("no {key}="))
        };
        let number = |key: &str| -> Result<u64> { Ok(word(key)?.parse()?) };
        Ok(Round {
            pages: number("pages")?,
            digest: u64::from_str_radix(word("digest")?, 16)?,
            nanoseconds: number("ns")?,
            asked: number("asked")?,
            copied: number("copied")?,
            retries: number("retries")?,
            mapped: number("R")?,
        })
    }
}

/// Waits for so many rounds of a unikernel.
pub fn wait_rounds(guest: &Guest<'_>, count: usize, limit: Duration) -> Result<Vec<Round>> {
    let Some(last) = count.checked_sub(1) else { return Ok(Vec::new()) };
    let log = guest.wait_log(&format!("mm-unikernel: round={last} "), limit)?;
    let rounds = Round::all(&log)?;
    if rounds.len() < count {
        bail!("the unikernel failed:\n{log}");
    }
    Ok(rounds)
}

/// FNV-1a of bytes, 64 bits: what a unikernel prints.
#[must_use]
pub fn digest<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let bytes = pieces.into_iter().flatten();
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_are_read_and_failures_are_none() {
        let log = "[1.2] mm-unikernel: round=0 pages=5 digest=00000000000000ff ns=7 asked=3 copied=1 retries=0 R=4\n\
                   [1.3] mm-unikernel: round=1 Lost(Closed)\n";
        let round =
            Round { pages: 5, digest: 255, nanoseconds: 7, asked: 3, copied: 1, retries: 0, mapped: 4 };
        assert_eq!(Round::all(log).unwrap(), [round]);
        assert!(Round::all("mm-unikernel: round=0 pages=5 R=1").is_err());
    }

    #[test]
    fn the_digest_is_that_of_the_unikernel() {
        assert_eq!(digest([&b"foo"[..], b"bar"]), 0x8594_4171_f739_67e8);
    }
}
