//! `enum xenbus_state` (`xen/include/public/io/xenbus.h`).

/// Where one side of a device stands, as it says in its `state` node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum XenbusState {
    /// Named by the protocol, and what an unreadable value is taken for.
    Unknown = 0,
    /// The toolstack made the device, nobody has looked at it yet.
    Initialising = 1,
    /// A backend has published what it offers and waits for the frontend's details.
    InitWait = 2,
    /// A frontend has published its details and waits for the backend.
    Initialised = 3,
    /// In use.
    Connected = 4,
    /// Ends, or is asked to.
    Closing = 5,
    /// Over.
    Closed = 6,
    /// Changes its configuration.
    Reconfiguring = 7,
    /// Has changed it.
    Reconfigured = 8,
}

impl XenbusState {
    /// From a `state` node, which the peer may have filled with anything.
    #[must_use]
    pub fn from_value(value: &[u8]) -> Self {
        match value {
            b"1" => Self::Initialising,
            b"2" => Self::InitWait,
            b"3" => Self::Initialised,
            b"4" => Self::Connected,
            b"5" => Self::Closing,
            b"6" => Self::Closed,
            b"7" => Self::Reconfiguring,
            b"8" => Self::Reconfigured,
            _ => Self::Unknown,
        }
    }

    /// As it is written into a `state` node.
    #[must_use]
    pub const fn value(self) -> &'static str {
        match self {
            Self::Unknown => "0",
            Self::Initialising => "1",
            Self::InitWait => "2",
            Self::Initialised => "3",
            Self::Connected => "4",
            Self::Closing => "5",
            Self::Closed => "6",
            Self::Reconfiguring => "7",
            Self::Reconfigured => "8",
        }
    }
}
