//! What the unikernel does: `extra=` of its configuration.

/// Most pages that can be mapped at once.
pub(crate) const MAPPED_MAX: u32 = 4000;

/// Options, each of the form `key=value`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// `device=`: number of the disk, 51712 (`xvda`) by default.
    pub device: u32,
    /// `first=`: page to begin at.
    pub first: u64,
    /// `pages=`: pages to digest; all by default.
    pub pages: u64,
    /// `stride=`: every how many pages; 1 by default.
    pub stride: u64,
    /// `rounds=`: how often; 1 by default.
    pub rounds: u32,
    /// `window=`: largest window to ask for, in pages.
    pub window: u32,
    /// `mapped=`: pages that it keeps mapped at most, 4000 by default; the oldest give way.
    pub mapped: u32,
    /// `copy=1`: has every page copied instead of mapping it.
    pub copy: bool,
    /// `write=`: so many of the mapped pages are then copied to pages of its own and changed there, and read again from M1.
    pub write: u64,
    /// `hold=1`: stays afterwards, with what it has mapped, until it is destroyed or `control/shutdown` is written; answers M1.
    pub hold: bool,
    /// `patience=`: milliseconds that M1 may be silent.
    pub patience_ms: u64,
    /// `hostile=`: guesses references and ports of M1, and then breaks the ring's rules in the way of this number; 0: does not.
    pub hostile: u32,
    /// `forge=`: number of a domain to guess references and ports of, and to forge a device of; the disk is then dom0's. 0: none.
    pub forge: u16,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            device: 51712,
            first: 0,
            pages: u64::MAX,
            stride: 1,
            rounds: 1,
            window: mm_proto::WINDOW_MAX,
            mapped: MAPPED_MAX,
            copy: false,
            write: 0,
            hold: false,
            patience_ms: 10_000,
            hostile: 0,
            forge: 0,
        }
    }
}

impl Options {
    /// Reads them.
    ///
    /// # Errors
    /// The first word that is none, or whose value is no number.
    pub fn parse(command_line: &str) -> Result<Self, &str> {
        let mut options = Self::default();
        for word in command_line.split_ascii_whitespace() {
            let (key, value) = word.split_once('=').ok_or(word)?;
            let number: u64 = value.parse().map_err(|_| word)?;
            let small = u32::try_from(number).map_err(|_| word);
            match key {
                "device" => options.device = small?,
                "first" => options.first = number,
                "pages" => options.pages = number,
                "stride" if number > 0 => options.stride = number,
                "rounds" => options.rounds = small?,
                "window" if number.is_power_of_two() && number <= 512 => options.window = small?,
                "mapped" if (1..=u64::from(MAPPED_MAX)).contains(&number) => options.mapped = small?,
                "copy" => options.copy = number != 0,
                "write" => options.write = number,
                "hold" => options.hold = number != 0,
                "patience" => options.patience_ms = number,
                "hostile" => options.hostile = small?,
                "forge" => options.forge = u16::try_from(number).map_err(|_| word)?,
                _ => return Err(word),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_wrong_ones_named() {
        let options = Options::parse("pages=5 stride=2 hold=1 window=1 copy=0").unwrap();
        let expected = Options { pages: 5, stride: 2, hold: true, window: 1, ..Options::default() };
        assert_eq!(options, expected);
        for wrong in [
            "pages",
            "pages=x",
            "stride=0",
            "window=3",
            "window=1024",
            "mapped=0",
            "colour=1",
            "device=4294967296",
        ] {
            assert_eq!(Options::parse(wrong), Err(wrong));
        }
    }

    #[test]
    fn the_digest_is_fnv_1a() {
        assert_eq!(crate::Digest::new().with(b"foobar").value(), 0x8594_4171_f739_67e8);
    }
}
