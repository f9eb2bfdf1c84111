//! Who may read and write a node: `xen/include/public/io/xs_wire.h`, "PERMISSIONS" of docs/misc/xenstore.txt.

use crate::number;

/// One entry of a node's permissions, such as `r5`. The first entry of a node names its owner, who may do everything, and what everybody
/// may do who has no entry of their own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Permission {
    /// The domain.
    pub domain: u16,
    /// `r` or `b`.
    pub read: bool,
    /// `w` or `b`.
    pub write: bool,
}

impl Permission {
    /// From text such as `n5`; `None` for anything else.
    #[must_use]
    pub fn parse(entry: &[u8]) -> Option<Self> {
        let (letter, domain) = entry.split_first()?;
        let (read, write) = match letter {
            b'n' => (false, false),
            b'r' => (true, false),
            b'w' => (false, true),
            b'b' => (true, true),
            _ => return None,
        };
        Some(Self { domain: number(domain)?, read, write })
    }
}

/// Whether nobody but `domain` can write a node, from the reply to [`Client::get_perms`](crate::Client::get_perms). What makes no sense
/// is a no. (Domain 0 can always write everything.)
#[must_use]
pub fn only_domain_writes(reply: &[u8], domain: u16) -> bool {
    let mut entries = reply.split(|byte| *byte == 0).filter(|entry| !entry.is_empty());
    let Some(owner) = entries.next().and_then(Permission::parse) else { return false };
    owner.domain == domain
        && !owner.write
        && entries
            .all(|entry| Permission::parse(entry).is_some_and(|other| !other.write || other.domain == domain))
}
