//! What was found out, as numbers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::server::Answer;
use crate::demo::Check;

/// A clone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloneRow {
    /// Its name.
    pub name: String,
    /// What it answered, which request that was, and what is its own.
    pub answer: String,
    /// See `answer`.
    pub count: u64,
    /// See `answer`.
    pub generation: String,
    /// See `answer`.
    pub random: String,
    /// The toolstack, the kernel's boot and the thaw, in microseconds.
    pub toolstack_us: u64,
    /// See `toolstack_us`.
    pub boot_us: u64,
    /// See `toolstack_us`.
    pub thaw_us: u64,
    /// Seconds from the command to its answer.
    pub seconds: f64,
    /// Bytes of Xen's free memory that it took, until it waited again.
    pub bytes: i64,
}

impl CloneRow {
    pub(super) fn new(name: &str, made: &Value, answer: Answer, seconds: f64, bytes: i64) -> Self {
        let clone = &made["clones"][0];
        let time = |key: &str| clone[key].as_u64().unwrap_or(0) / 1000;
        Self {
            name: name.to_owned(),
            answer: answer.text,
            count: answer.count,
            generation: answer.generation,
            random: answer.random,
            toolstack_us: time("toolstack_ns"),
            boot_us: time("boot_ns"),
            thaw_us: time("attach_ns"),
            seconds,
            bytes,
        }
    }
}

/// Everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CloneReport {
    /// Seconds from `xl create` to the first answer of a program that starts cold.
    pub cold_seconds: f64,
    /// Bytes of Xen's free memory that it took.
    pub cold_bytes: i64,
    /// Pages that M1 copied.
    pub frozen_pages: u64,
    /// How long the program stood still, in microseconds.
    pub standstill_us: u64,
    /// Bytes of Xen's free memory that freezing took.
    pub freeze_bytes: i64,
    /// Of the clone that was frozen: pages that were kept, and those that were copied.
    pub kept_pages: u64,
    /// See `kept_pages`.
    pub captured_again: u64,
    /// The clones.
    pub clones: Vec<CloneRow>,
    /// Pages that each shares.
    pub shared_pages: Vec<u64>,
    /// What has to hold.
    pub checks: Vec<Check>,
    /// Seconds from the start of the machine to the end.
    pub seconds: f64,
    /// Where M1 answers.
    pub url: String,
}

impl CloneReport {
    /// Whether everything holds.
    #[must_use]
    pub fn good(&self) -> bool {
        self.checks.iter().all(|check| check.good)
    }
}
