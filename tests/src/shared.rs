//! One machine for all tests of a program: it boots with the first test that wants it and ends with the process.

use std::ops::Deref;
use std::sync::OnceLock;

use anyhow::Result;

use crate::builder::Builder;
use crate::dom0::Dom0;

/// To be put in a `static`.
pub struct Shared {
    machine: OnceLock<Result<Dom0, String>>,
    builder: fn() -> Result<Builder>,
}

impl Shared {
    /// A machine that `builder` describes.
    pub const fn new(builder: fn() -> Result<Builder>) -> Self {
        Shared { machine: OnceLock::new(), builder }
    }

    /// The machine. If the test that holds the answer panics, the logs are shown.
    ///
    /// # Panics
    /// When it did not boot, in every test that asks.
    pub fn get(&'static self) -> Watched {
        let boot = || (self.builder)().and_then(Builder::boot).map_err(|error| format!("{error:#}"));
        match self.machine.get_or_init(boot) {
            Ok(dom0) => Watched { dom0 },
            Err(error) => panic!("{error}"),
        }
    }
}

/// A shared machine in the hands of one test.
pub struct Watched {
    dom0: &'static Dom0,
}

impl Deref for Watched {
    type Target = Dom0;

    fn deref(&self) -> &Dom0 {
        self.dom0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.dom0.diagnostics());
        }
    }
}
