//! `xen/include/public/io/netif.h`, as ring words.

/// Words of a tx request (12 bytes) and response (4 bytes).
pub(crate) const TX_REQ: usize = 3;
pub(crate) const TX_RSP: usize = 1;
/// Words of an rx request and response (8 bytes each).
pub(crate) const RX_REQ: usize = 2;
pub(crate) const RX_RSP: usize = 2;

const MORE_DATA: u16 = 1 << 2;
const EXTRA_INFO: u16 = 1 << 3;
/// XEN_NETIF_EXTRA_FLAG_MORE
const EXTRA_MORE: u8 = 1;

/// A frame of `size` bytes at the start of the page behind `reference`; checksums are in it.
pub(crate) fn tx_request(reference: u32, id: u16, size: u16) -> [u32; TX_REQ] {
    // gref; offset, flags; id, size
    [reference, 0, pair(id, size)]
}

/// The id of a tx response, and its status: the frame is gone whatever that says.
pub(crate) fn tx_response(words: [u32; TX_RSP]) -> (u16, i16) {
    let [a, b, c, d] = words[0].to_le_bytes();
    (u16::from_le_bytes([a, b]), i16::from_le_bytes([c, d]))
}

/// An empty page for received frames.
pub(crate) fn rx_request(reference: u32, id: u16) -> [u32; RX_REQ] {
    [pair(id, 0), reference]
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct RxResponse {
    pub(crate) id: u16,
    pub(crate) offset: u16,
    flags: u16,
    /// Bytes, or a negative error.
    pub(crate) status: i16,
}

impl RxResponse {
    pub(crate) fn decode(words: [u32; RX_RSP]) -> Self {
        let [a, b, c, d] = words[0].to_le_bytes();
        let [e, f, g, h] = words[1].to_le_bytes();
        Self {
            id: u16::from_le_bytes([a, b]),
            offset: u16::from_le_bytes([c, d]),
            flags: u16::from_le_bytes([e, f]),
            status: i16::from_le_bytes([g, h]),
        }
    }

    /// The next slot goes on with this frame.
    pub(crate) fn more_data(&self) -> bool {
        self.flags & MORE_DATA != 0
    }

    /// The next slot says something about this frame, and has no id.
    pub(crate) fn extra_info(&self) -> bool {
        self.flags & EXTRA_INFO != 0
    }
}

/// Whether another extra slot follows this one (`struct xen_netif_extra_info`: type, flags, data).
pub(crate) fn extra_has_more(words: [u32; RX_RSP]) -> bool {
    words[0].to_le_bytes()[1] & EXTRA_MORE != 0
}

fn pair(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}
