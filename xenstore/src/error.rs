//! Why xenstored said no.

/// The name in an error reply (`xsd_errors` in `xs_wire.h`, and those that it lacks).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// `EINVAL`: a bad path, or an unknown request.
    Invalid,
    /// `EACCES`: no permission; also for a node that could not be made because its parent is another's.
    Access,
    /// `EPERM`: not for this domain.
    Permission,
    /// `EEXIST`: the watch is set already.
    Exists,
    /// `ENOENT`: no such node, or watch, or transaction.
    NotFound,
    /// `EAGAIN`: somebody else changed what the transaction saw. Start it again.
    Again,
    /// `EBUSY`: somebody else's doing; try later.
    Busy,
    /// `EQUOTA` (oxenstored, in no header), `ENOSPC`, `E2BIG` (C xenstored): this domain has too many nodes, watches or
    /// transactions, or the value is too long.
    Quota,
    /// `ENOMEM`, `EIO`, `EROFS`: xenstored itself is in trouble.
    Broken,
    /// Another name.
    Other(Name),
}

/// The first bytes of a name that no header lists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Name([u8; 14]);

impl Refusal {
    /// From the payload of an error reply, with or without its NUL.
    #[must_use]
    pub fn from_wire(payload: &[u8]) -> Self {
        let name = payload.split(|b| *b == 0).next().unwrap_or_default();
        match name {
            b"EINVAL" => Self::Invalid,
            b"EACCES" => Self::Access,
            b"EPERM" => Self::Permission,
            b"EEXIST" => Self::Exists,
            b"ENOENT" => Self::NotFound,
            b"EAGAIN" => Self::Again,
            b"EBUSY" => Self::Busy,
            b"EQUOTA" | b"ENOSPC" | b"E2BIG" => Self::Quota,
            b"ENOMEM" | b"EIO" | b"EROFS" => Self::Broken,
            other => {
                let mut bytes = [0; 14];
                for (to, from) in bytes.iter_mut().zip(other) {
                    *to = if from.is_ascii_graphic() { *from } else { b'?' };
                }
                Self::Other(Name(bytes))
            }
        }
    }
}

impl core::fmt::Display for Refusal {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Invalid => "xenstored calls the request invalid",
            Self::Access => "xenstored denies access",
            Self::Permission => "xenstored says that this is not for this domain",
            Self::Exists => "it is there already",
            Self::NotFound => "there is no such node",
            Self::Again => "the transaction met another",
            Self::Busy => "xenstored is busy",
            Self::Quota => "xenstored's quota for this domain is reached",
            Self::Broken => "xenstored is in trouble",
            Self::Other(name) => {
                let len = name.0.iter().position(|b| *b == 0).unwrap_or(name.0.len());
                let text = core::str::from_utf8(&name.0[..len]).unwrap_or("?");
                return write!(f, "xenstored says {text}");
            }
        })
    }
}

impl core::error::Error for Refusal {}
