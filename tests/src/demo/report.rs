//! What was found out, as numbers.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::clients::Ran;
use crate::mm_guest::Fault;

/// Bytes of a page.
const PAGE: i64 = 4096;

/// Something that has to hold.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Check {
    /// What.
    pub what: String,
    /// Whether it holds.
    pub good: bool,
    /// The numbers, or what is wrong.
    pub detail: String,
}

/// A client at the end: its last program has ended, and its memory is as it was then. All in pages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ClientReport {
    /// Its number.
    pub number: u32,
    /// Its domain.
    pub domid: u16,
    /// What it ran with shared pages, in that order.
    pub ran: Vec<Ran>,
    /// R as it counts itself.
    pub r_own: u64,
    /// R as M1 counts it in its grant table.
    pub r_m1: u64,
    /// R as Xen counts it.
    pub r_xen: u64,
    /// W: pages of its own that its program uses.
    pub written: u64,
    /// KAS: pages of its own kernel.
    pub kernel: u64,
    /// Pages that Xen has given to the domain.
    pub xen: u64,
    /// Pages that Xen has given to the domain that ran the same without sharing.
    pub xen_copy: u64,
}

/// Pages taken from Xen's heap in one run, everything included: domains, Xen's structures for them, grant tables.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Breakdown {
    /// By M1 when it served nobody yet.
    pub m1: i64,
    /// By the clients in addition, Xen's and M1's grant memory for them included.
    pub clients: i64,
}

/// What sharing saves.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Saving {
    /// How many clients.
    pub clients: u32,
    /// With `share=copy`: what the clients take when each has its own copy. M1 is not charged here.
    pub copy: Breakdown,
    /// With `share=map`.
    pub map: Breakdown,
}

impl Saving {
    /// Pages saved: what the clients take with copies, less what clients and M1 take with sharing.
    #[must_use]
    pub fn net(&self) -> i64 {
        self.copy.clients - self.map.clients - self.map.m1
    }

    /// [`net`](Self::net) in bytes.
    #[must_use]
    pub fn net_bytes(&self) -> i64 {
        self.net() * PAGE
    }

    /// The smallest number of such clients for which M1 pays; `None` if none does.
    #[must_use]
    pub fn break_even(&self) -> Option<u32> {
        let each = self.copy.clients - self.map.clients;
        if each <= 0 {
            return None;
        }
        // n * each > m1 * clients, where `each` is what all clients together save.
        let enough = self.map.m1.max(0) * i64::from(self.clients) / each + 1;
        u32::try_from(enough).ok()
    }
}

/// The run in which every first touch of a page is a message to M1.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct WindowOne {
    /// Faults served through the event channel, as M1 counts.
    pub served: u64,
    /// References that the clients hold: one for each distinct page of each.
    pub references: u64,
    /// Requests as the clients count them.
    pub asked: u64,
    /// Pages that the client that touches pages one by one was told to touch, and for which M1 served it.
    pub told: u64,
    /// Faults for which M1 served that one.
    pub told_served: u64,
}

/// Everything.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// What the files were made from.
    pub seed: u64,
    /// Packages of the volume.
    pub packages: Vec<String>,
    /// Bytes of the volume.
    pub volume_bytes: u64,
    /// Bytes of M1's image and of the client kernel's.
    pub images: Vec<(String, u64)>,
    /// Version of Xen.
    pub xen: String,
    /// M1's `memory=` in MiB.
    pub m1_memory_mib: u32,
    /// How its memory is used at the end, by state.
    pub m1_memory_bytes: BTreeMap<String, u64>,
    /// References in use, and how many there can be.
    pub grant_entries: (u64, u64),
    /// The clients.
    pub clients: Vec<ClientReport>,
    /// What it saves.
    pub saving: Saving,
    /// [`Saving::net_bytes`].
    pub net_saving_bytes: i64,
    /// [`Saving::break_even`].
    pub break_even_clients: Option<u32>,
    /// The run with `window=1`.
    pub window_one: WindowOne,
    /// A fault for which M1 was asked.
    pub fault: Option<Fault>,
    /// Digest of the volume as a client sees it when all have written, and of the image on the host.
    pub digests: (String, String),
    /// What has to hold.
    pub checks: Vec<Check>,
    /// Seconds from the start of the machine to the end.
    pub seconds: f64,
    /// Where M1 answers.
    pub url: String,
}

impl Report {
    /// Whether everything holds.
    #[must_use]
    pub fn good(&self) -> bool {
        self.checks.iter().all(|check| check.good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_saving_charges_m1_and_the_break_even_is_the_first_number_that_pays() {
        let breakdown = |m1, clients| Breakdown { m1, clients };
        let saving = Saving { clients: 3, copy: breakdown(9999, 3000), map: breakdown(900, 600) };
        assert_eq!(saving.net(), 1500);
        // 800 saved with each: one client does not pay for 900, two do.
        assert_eq!(saving.break_even(), Some(2));
        let even = Saving { map: breakdown(1600, 600), ..saving };
        assert_eq!(even.break_even(), Some(3), "nothing gained is not yet a gain");
        assert_eq!(Saving { map: breakdown(900, 3000), ..saving }.break_even(), None);
    }
}
