//! Why a command failed, and the exit code that says so to scripts.

use std::fmt;
use std::io;

/// A failure and what to say about it.
#[derive(Debug)]
pub(crate) enum Failure {
    /// M1 or a check said no: code 1.
    Refused(String),
    /// M1 is not there, or does not answer: code 3.
    NotThere(String),
    /// It did not end in time: code 4.
    TimedOut(String),
    /// This host: xenstore, xl, a file: code 5.
    Host(String),
}

pub(crate) type Result<T> = std::result::Result<T, Failure>;

impl Failure {
    /// The process's exit code.
    pub(crate) fn code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::NotThere(_) => 3,
            Self::TimedOut(_) => 4,
            Self::Host(_) => 5,
        }
    }

    /// The same failure with what it was about before it.
    pub(crate) fn of(self, what: impl fmt::Display) -> Self {
        let join = |why: String| format!("{what}: {why}");
        match self {
            Self::Refused(why) => Self::Refused(join(why)),
            Self::NotThere(why) => Self::NotThere(join(why)),
            Self::TimedOut(why) => Self::TimedOut(join(why)),
            Self::Host(why) => Self::Host(join(why)),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) | Self::NotThere(why) | Self::TimedOut(why) | Self::Host(why) => {
                f.write_str(why)
            }
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Host(error.to_string())
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Host(format!("M1's answer makes no sense: {error}"))
    }
}
