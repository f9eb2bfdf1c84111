//! Xenstore, one call at a time, each with a limit.

use xen_drivers::blkfront::BlkFront;
use xen_rt::Boot;
use xenstore::{Blocking, CallError, Connection, Pause, Transaction};

/// Patience with xenstored, and with M1's handshake through it.
const PATIENCE_NS: u64 = 20_000_000_000;
/// Longest sleep between two looks.
const LOOK_NS: u64 = 100_000_000;

/// Where the toolstack says how the domain is to end (`xl shutdown`).
const SHUTDOWN: &str = "control/shutdown";

/// The connection.
pub(crate) struct Store {
    /// In a place of its own: it is too large to be moved about on the stack.
    connection: &'static mut Connection,
    port: xen::Port,
    events: xen::Events,
    clock: xen::Clock,
    hypervisor: &'static (dyn xen::Hypervisor + Sync),
}

impl Store {
    /// Opens it; `None` in a domain that has none, or no memory.
    pub(crate) fn new(boot: &mut Boot) -> Option<Self> {
        let page = boot.xenstore?;
        boot.events.unmask(page.port);
        Some(Self {
            connection: boot.memory.place(Connection::new(page.page))?,
            port: page.port,
            events: boot.events,
            clock: boot.clock,
            hypervisor: boot.hypervisor,
        })
    }

    /// Makes calls.
    pub(crate) fn with<R>(&mut self, work: impl FnOnce(&mut Blocking<'_>) -> R) -> R {
        let Self { connection, port, events, clock, hypervisor } = self;
        let deadline = clock.now_ns() + PATIENCE_NS;
        let mut wait = |pause| match pause {
            Pause::Notify => hypervisor.evtchn_send(*port).is_ok(),
            Pause::Sleep => {
                let soon = clock.now_ns() + LOOK_NS;
                let _ = hypervisor.sched_poll(&[*port], Some(soon));
                events.clear(*port);
                clock.now_ns() < deadline
            }
        };
        work(&mut Blocking::new(connection, &mut wait))
    }

    /// Sets a node below the domain's own directory.
    pub(crate) fn write(&mut self, node: &str, value: &[u8]) -> Result<(), CallError> {
        self.with(|calls| calls.write(Transaction::NONE, node, value))
    }

    /// A node's text below the domain's own directory; `None` where there is none.
    pub(crate) fn read(&mut self, node: &str) -> Option<heapless::String<80>> {
        self.with(|calls| {
            let value = calls.read(Transaction::NONE, node).ok()?;
            heapless::String::try_from(core::str::from_utf8(value).ok()?).ok()
        })
    }

    /// Waits until dom0 has attached `xvda`: what a domain of a warm pool does, for as long as it takes. `data/pool` says `waiting`
    /// meanwhile, and `taken` afterwards.
    /// Where the toolstack wants the domain to end before it was used, it does.
    pub(crate) fn wait_for_device(&mut self) {
        const DEVICES: &str = "device/vbd";
        const DEVICE: &str = "device/vbd/51712/backend";
        const SAYS: &str = "data/pool";
        for node in [DEVICES, SHUTDOWN] {
            if let Err(error) = self.with(|calls| calls.watch(node, "pool")) {
                log::warn!("{node}: {error}");
            }
        }
        let _ = self.write(SAYS, b"waiting");
        while self.read(DEVICE).is_none() {
            if self.take_shutdown() {
                xen_rt::shutdown(xen::ShutdownReason::Poweroff);
            }
            // Where a watch could not be set, a look now and then is left.
            let later = self.clock.now_ns() + PATIENCE_NS;
            let _ = self.hypervisor.sched_poll(&[self.port], Some(later));
            self.events.clear(self.port);
        }
        let _ = self.write(SAYS, b"taken");
        for node in [DEVICES, SHUTDOWN] {
            let _ = self.with(|calls| calls.unwatch(node, "pool"));
        }
    }

    /// Hands a disk what came for it, and sends what it asks. Tells whether something came that is not the disk's.
    pub(crate) fn turn(&mut self, front: &mut BlkFront, now: u64) -> bool {
        let mut others = false;
        while let Ok(Some(incoming)) = self.connection.poll() {
            others |= !front.on_message(&incoming.message);
        }
        front.advance(&mut self.connection.client, now);
        let _ = self.connection.flush();
        if self.connection.take_notify() {
            let _ = self.hypervisor.evtchn_send(self.port);
        }
        others
    }

    /// Whether there is something that nobody has taken.
    pub(crate) fn look_again(&self) -> bool {
        self.connection.look_again()
    }

    /// Asks for events about the toolstack's wish.
    pub(crate) fn watch_shutdown(&mut self) {
        if let Err(error) = self.with(|calls| calls.watch(SHUTDOWN, "shutdown")) {
            log::warn!("{SHUTDOWN}: {error}");
        }
    }

    /// Whether the toolstack wants the domain to end, and takes note, as Linux does, by an empty value.
    pub(crate) fn take_shutdown(&mut self) -> bool {
        let asked = self.read(SHUTDOWN).is_some_and(|wish| matches!(&*wish, "poweroff" | "halt" | "reboot"));
        if asked {
            let _ = self.write(SHUTDOWN, b"");
        }
        asked
    }

    /// The event channel, for those who sleep on it.
    pub(crate) fn port(&self) -> xen::Port {
        self.port
    }
}
