//! `xen/include/public/io/xs_wire.h`: a header of four 32-bit words, then at most 4096 bytes.

/// Bytes of a header.
pub const HEADER: usize = 16;
/// XENSTORE_PAYLOAD_MAX. Xenstored drops the connection of one who sends more.
pub const PAYLOAD_MAX: usize = 4096;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $number:literal,)*) => {
        /// What a message is (`enum xsd_sockmsg_type`).
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u32)]
        pub enum Kind { $($(#[$doc])* $name = $number,)* }

        impl Kind {
            /// From the wire; `None` for a number that this crate has no name for.
            #[must_use]
            pub fn from_wire(number: u32) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

kinds! {
    /// Commands to xenstored itself; dom0 only.
    Control = 0,
    /// Names of a node's children.
    Directory = 1,
    /// A node's value.
    Read = 2,
    /// A node's permissions.
    GetPerms = 3,
    /// Asks for events about a path and everything below.
    Watch = 4,
    /// Takes that back.
    Unwatch = 5,
    /// Opens a transaction.
    TransactionStart = 6,
    /// Commits or drops one.
    TransactionEnd = 7,
    /// dom0 only.
    Introduce = 8,
    /// dom0 only.
    Release = 9,
    /// `/local/domain/<domid>`.
    GetDomainPath = 10,
    /// Sets a node's value.
    Write = 11,
    /// Makes an empty node.
    Mkdir = 12,
    /// Removes a node and everything below.
    Rm = 13,
    /// Sets a node's permissions.
    SetPerms = 14,
    /// Sent by xenstored at any time.
    WatchEvent = 15,
    /// A reply that says no; the payload is a name such as `ENOENT`.
    Error = 16,
    /// Whether a domain is known.
    IsDomainIntroduced = 17,
    /// dom0 only.
    Resume = 18,
    /// dom0 only.
    SetTarget = 19,
    /// Drops all watches of this connection.
    ResetWatches = 21,
    /// Directory in pieces; C xenstored only.
    DirectoryPart = 22,
}

/// A message's header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// `type`: a [`Kind`], if it is one that we know.
    pub kind: u32,
    /// Chosen by the client, echoed in the reply.
    pub id: u32,
    /// 0, or the transaction that this belongs to.
    pub transaction: u32,
    /// Bytes that follow.
    pub len: u32,
}

impl Header {
    /// Little-endian, as on every machine that Xen's x86 ABI knows.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let words = [self.kind, self.id, self.transaction, self.len];
        for (place, word) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(words) {
            *place = word.to_le_bytes();
        }
        bytes
    }

    /// The inverse of [`Self::encode`]; any bytes are some header.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER]) -> Self {
        let [kind, id, transaction, len] = [0, 1, 2, 3].map(|i| {
            u32::from_le_bytes([bytes[4 * i], bytes[4 * i + 1], bytes[4 * i + 2], bytes[4 * i + 3]])
        });
        Self { kind, id, transaction, len }
    }
}
