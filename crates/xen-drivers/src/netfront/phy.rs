//! The card as smoltcp's device.

use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use super::rx::Slot;
use super::tx::Tx;
use super::{Counters, FRAME_MAX, Health, NetFront, RING_SLOTS};

/// A received frame, already copied.
#[derive(Debug)]
pub struct RxToken<'a>(&'a [u8]);

/// Room for one frame.
#[derive(Debug)]
pub struct TxToken<'a> {
    tx: &'a mut Tx,
    counters: &'a mut Counters,
}

impl smoltcp::phy::RxToken for RxToken<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(self.0)
    }
}

impl smoltcp::phy::TxToken for TxToken<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        // smoltcp keeps to the capabilities; a longer frame would be a mistake of ours.
        let result = f(&mut self.tx.scratch[..len]);
        if self.tx.send(len) {
            self.counters.tx_frames += 1;
        } else {
            self.counters.tx_dropped += 1;
        }
        result
    }
}

impl Device for NetFront {
    type RxToken<'a> = RxToken<'a>;
    type TxToken<'a> = TxToken<'a>;

    fn receive(&mut self, _: Instant) -> Option<(RxToken<'_>, TxToken<'_>)> {
        if self.health != Health::Connected {
            return None;
        }
        if let Err(fault) = self.tx.reap() {
            self.fault(fault);
            return None;
        }
        // At most what can be in the ring: pages are posted again, but not shown, while this runs.
        for _ in 0..=RING_SLOTS {
            match self.rx.take() {
                Ok(Slot::Frame(len)) => {
                    self.counters.rx_frames += 1;
                    // An answer for which there is no page then is dropped, as a switch would: reception goes on.
                    let tx = TxToken { tx: &mut self.tx, counters: &mut self.counters };
                    return Some((RxToken(&self.rx.scratch[..len]), tx));
                }
                Ok(Slot::Dropped) => self.counters.rx_dropped += 1,
                Ok(Slot::Empty) => break,
                Err(fault) => {
                    self.fault(fault);
                    break;
                }
            }
        }
        None
    }

    fn transmit(&mut self, _: Instant) -> Option<TxToken<'_>> {
        if self.health != Health::Connected {
            return None;
        }
        if let Err(fault) = self.tx.reap() {
            self.fault(fault);
            return None;
        }
        self.tx.free().then_some(TxToken { tx: &mut self.tx, counters: &mut self.counters })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = (self.mtu + 14).min(FRAME_MAX);
        // Checksums are made and checked in software: netback was told that we offload none.
        let mut checksum = ChecksumCapabilities::default();
        checksum.ipv4 = Checksum::Both;
        checksum.tcp = Checksum::Both;
        checksum.udp = Checksum::Both;
        capabilities.checksum = checksum;
        capabilities
    }
}
