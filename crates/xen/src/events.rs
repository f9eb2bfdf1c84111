//! Event channels' bits in shared_info: which ports are pending, and the masks (2-level ABI, `xen/include/public/xen.h`).

use core::sync::atomic::Ordering;

use xen_ring::PageWords;
use xen_sys::Port;
use xen_sys::event::PORTS;
use xen_sys::start::shared_info as at;

use crate::Hypervisor;

/// Word indices in the page.
const FLAGS: usize = at::UPCALL_PENDING / 4;
const SEL: usize = at::PENDING_SEL / 4;
const PENDING: usize = at::EVTCHN_PENDING / 4;
const MASK: usize = at::EVTCHN_MASK / 4;
/// `evtchn_upcall_pending` and `evtchn_upcall_mask` within their word.
const UPCALL_PENDING: u32 = 0x0000_00ff;
const UPCALL_PENDING_SET: u32 = 0x0000_0001;

/// The pending and mask words of this domain's one virtual CPU. A handle: copies look at the same page.
///
/// Upcalls stay masked while the kernel runs, so nothing happens asynchronously: a loop takes what is pending, works, and calls
/// [`Self::wait`].
#[derive(Clone, Copy, Debug)]
pub struct Events {
    page: &'static PageWords,
}

impl Events {
    /// Over the domain's shared_info page.
    #[must_use]
    pub const fn new(shared_info: &'static PageWords) -> Self {
        Self { page: shared_info }
    }

    /// Takes the ports that are pending and not masked, each once: its bit is cleared as it is yielded. What is not taken
    /// when the iterator is dropped stays pending.
    #[must_use]
    pub fn take_pending(&self) -> Pending {
        self.page.word(FLAGS).fetch_and(!UPCALL_PENDING, Ordering::SeqCst);
        let low = self.page.word(SEL).swap(0, Ordering::SeqCst);
        let high = self.page.word(SEL + 1).swap(0, Ordering::SeqCst);
        Pending { page: self.page, groups: u64::from(low) | u64::from(high) << 32, group: 0, half: [0; 2] }
    }

    /// Whether [`Self::take_pending`] may yield something.
    #[must_use]
    pub fn any_pending(&self) -> bool {
        self.page.word(SEL).load(Ordering::SeqCst) != 0 || self.page.word(SEL + 1).load(Ordering::SeqCst) != 0
    }

    /// Sleeps until something is pending. It returns at once if something is, so no event that came since the last look at
    /// the ports is slept over. May also return without a reason: look again.
    pub fn wait(&self, hypervisor: &dyn Hypervisor) {
        if !self.any_pending() {
            // Between the look and the block nothing is lost: an event that comes there sets upcall_pending, and Xen
            // does not put a virtual CPU to sleep that has an upcall to take.
            hypervisor.sched_block();
        }
    }

    /// Events of `port` set its pending bit and nothing else from now on.
    pub fn mask(&self, port: Port) {
        if let Some((word, bit)) = place(port) {
            self.page.word(MASK + word).fetch_or(bit, Ordering::SeqCst);
        }
    }

    /// Undoes [`Self::mask`]; what came meanwhile is pending at once.
    pub fn unmask(&self, port: Port) {
        let Some((word, bit)) = place(port) else { return };
        self.page.word(MASK + word).fetch_and(!bit, Ordering::SeqCst);
        if self.page.word(PENDING + word).load(Ordering::SeqCst) & bit != 0 {
            self.raise(word);
        }
    }

    /// Makes `port` pending, as an event from outside would: for loops that must not forget something.
    pub fn set_pending(&self, port: Port) {
        let Some((word, bit)) = place(port) else { return };
        let before = self.page.word(PENDING + word).fetch_or(bit, Ordering::SeqCst);
        if before & bit == 0 && self.page.word(MASK + word).load(Ordering::SeqCst) & bit == 0 {
            self.raise(word);
        }
    }

    /// Forgets an event of `port` that nobody took.
    pub fn clear(&self, port: Port) {
        if let Some((word, bit)) = place(port) {
            self.page.word(PENDING + word).fetch_and(!bit, Ordering::SeqCst);
        }
    }

    /// What `evtchn_set_pending` in Xen does behind the pending bit.
    fn raise(&self, word: usize) {
        let group = word / 2;
        self.page.word(SEL + group / 32).fetch_or(1 << (group % 32), Ordering::SeqCst);
        self.page.word(FLAGS).fetch_or(UPCALL_PENDING_SET, Ordering::SeqCst);
    }
}

/// The 32-bit word (from the start of the bitmap) and the bit of a port.
fn place(port: Port) -> Option<(usize, u32)> {
    (port.0 < PORTS).then_some(((port.0 / 32) as usize, 1 << (port.0 % 32)))
}

/// Iterator of [`Events::take_pending`].
#[derive(Debug)]
pub struct Pending {
    page: &'static PageWords,
    /// Groups of 64 ports that are still to be looked at.
    groups: u64,
    /// The group that `half` belongs to.
    group: u32,
    /// Pending ports of that group, low and high 32.
    half: [u32; 2],
}

impl Iterator for Pending {
    type Item = Port;

    fn next(&mut self) -> Option<Port> {
        loop {
            for (i, bits) in [0_u32, 1].into_iter().zip(&mut self.half) {
                if *bits != 0 {
                    let bit = bits.trailing_zeros();
                    *bits &= *bits - 1;
                    let word = (self.group * 2 + i) as usize;
                    self.page.word(PENDING + word).fetch_and(!(1 << bit), Ordering::SeqCst);
                    return Some(Port(self.group * 64 + i * 32 + bit));
                }
            }
            if self.groups == 0 {
                return None;
            }
            self.group = self.groups.trailing_zeros();
            self.groups &= self.groups - 1;
            for (i, bits) in self.half.iter_mut().enumerate() {
                let word = self.group as usize * 2 + i;
                let mask = self.page.word(MASK + word).load(Ordering::SeqCst);
                *bits = self.page.word(PENDING + word).load(Ordering::SeqCst) & !mask;
            }
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.half != [0; 2] {
            self.groups |= 1 << self.group;
        }
        for (i, half) in [self.groups & 0xffff_ffff, self.groups >> 32].into_iter().enumerate() {
            if half != 0 {
                self.page.word(SEL + i).fetch_or(u32::try_from(half).unwrap_or(0), Ordering::SeqCst);
                self.page.word(FLAGS).fetch_or(UPCALL_PENDING_SET, Ordering::SeqCst);
            }
        }
    }
}
