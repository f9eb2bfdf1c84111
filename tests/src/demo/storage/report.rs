//! What was found out, as numbers.

use serde::{Deserialize, Serialize};

use crate::demo::Check;

/// A guest. All in bytes.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct GuestReport {
    /// Its name, and its overlay's.
    pub name: String,
    /// What it says of its system and root.
    pub system: String,
    /// What it asked M1 for until all had flushed.
    pub read: u64,
    /// What it wrote until then.
    pub written: u64,
    /// What its overlay held then.
    pub overlay: u64,
    /// SHA-256 of what it had flushed when M1 was killed.
    pub flushed: String,
    /// SHA-256 of what it finds there with the next M1.
    pub found: String,
    /// What it had noted of it, on the same disk.
    pub noted: String,
    /// Whose diary it finds.
    pub names: String,
    /// Whether e2fsck finds nothing after its second end.
    pub clean: bool,
    /// Seconds from its second start to that end.
    pub seconds: f64,
}

/// Everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StorageReport {
    /// The guests.
    pub guests: Vec<GuestReport>,
    /// Bytes of the base.
    pub base_bytes: u64,
    /// Bytes of it that M1 held when the first guest had booted and written.
    pub held_for_one: u64,
    /// The same with all guests.
    pub held_for_all: u64,
    /// M1's whole cache then, with what lies on the store's disk.
    pub cache: u64,
    /// Seconds that the second M1 took to open the store.
    pub recovery_seconds: f64,
    /// What has to hold.
    pub checks: Vec<Check>,
    /// Seconds from the start of the machine to the end.
    pub seconds: f64,
    /// Where the second M1 answers.
    pub url: String,
}

impl StorageReport {
    /// Whether everything holds.
    #[must_use]
    pub fn good(&self) -> bool {
        self.checks.iter().all(|check| check.good)
    }
}
