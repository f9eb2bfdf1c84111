//! What dom0 and this domain tell each other in xenstore.

use xen::{DomId, Port};
use xen_rt::Boot;
use xenstore::{Blocking, Connection, Pause, Transaction};

/// Patience with xenstored, and with dom0's role.
const CALL_NS: u64 = 20_000_000_000;
const ROLE_NS: u64 = 120_000_000_000;
const LOOK_NS: u64 = 50_000_000;

/// What this domain is to do.
pub(crate) enum Role {
    Lend { to: DomId },
    Measure { owner: DomId, port: Port },
}

/// The home of this domain.
pub(crate) struct Store {
    connection: Connection,
}

impl Store {
    pub(crate) fn new(boot: &Boot) -> Option<Self> {
        let page = boot.xenstore?;
        boot.events.unmask(page.port);
        Some(Self { connection: Connection::new(page.page) })
    }

    /// Waits until dom0 has said what to do.
    pub(crate) fn wait_role(&mut self, boot: &Boot) -> Option<Role> {
        let end = boot.clock.now_ns() + ROLE_NS;
        while boot.clock.now_ns() < end {
            let said: Option<heapless::String<32>> =
                self.call(boot, |calls| calls.read_text("data/role").ok());
            if let Some(said) = said.filter(|said| !said.is_empty()) {
                let mut words = said.split(' ');
                let kind = words.next()?;
                let domain = DomId(words.next()?.parse().ok()?);
                return match (kind, words.next()) {
                    ("lend", None) => Some(Role::Lend { to: domain }),
                    ("measure", Some(port)) => {
                        Some(Role::Measure { owner: domain, port: Port(port.parse().ok()?) })
                    }
                    _ => None,
                };
            }
            let _ = boot.hypervisor.sched_poll(&[], Some(boot.clock.now_ns() + LOOK_NS));
        }
        None
    }

    /// Says which port waits for the peer.
    pub(crate) fn write_port(&mut self, boot: &Boot, port: Port) -> Result<(), &'static str> {
        let mut text = heapless::String::<16>::new();
        core::fmt::Write::write_fmt(&mut text, format_args!("{}", port.0)).map_err(|_| "too long")?;
        self.call(boot, |calls| {
            calls.write(Transaction::NONE, "data/port", text.as_bytes()).map_err(|_| "data/port")
        })
    }

    /// Nothing comes from xenstored any more.
    pub(crate) fn finish(self, boot: &Boot) {
        if let Some(page) = boot.xenstore {
            boot.events.mask(page.port);
        }
        let _ = boot.events.take_pending().count();
    }

    fn call<R>(&mut self, boot: &Boot, work: impl FnOnce(&mut Blocking<'_>) -> R) -> R {
        let deadline = boot.clock.now_ns() + CALL_NS;
        let port = boot.xenstore.map(|page| page.port);
        let mut wait = |pause| match (pause, port) {
            (_, None) => false,
            (Pause::Notify, Some(port)) => boot.hypervisor.evtchn_send(port).is_ok(),
            (Pause::Sleep, Some(port)) => {
                let _ = boot.hypervisor.sched_poll(&[port], Some(boot.clock.now_ns() + LOOK_NS));
                boot.events.clear(port);
                boot.clock.now_ns() < deadline
            }
        };
        work(&mut Blocking::new(&mut self.connection, &mut wait))
    }
}
