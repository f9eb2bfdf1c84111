//! Event channels (`xen/common/event_channel.c`), 2-level ABI.

use xen_sys::event::PORTS;
use xen_sys::{DomId, Errno, Port, PortState, Virq};

use super::world::{Domain, World};
use crate::Events;

/// Ports that a domain may have: libxl's default for `max_event_channels`.
const MAX_PORTS: usize = 1023;

/// One end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Channel {
    /// Port 0.
    Reserved,
    Free,
    Unbound(DomId),
    Interdomain(DomId, Port),
    Virq(Virq),
}

impl Domain {
    fn free_port(&mut self) -> Result<Port, Errno> {
        let index = match self.ports.iter().position(|channel| *channel == Channel::Free) {
            Some(index) => index,
            None if self.ports.len() <= MAX_PORTS => {
                self.ports.push(Channel::Free);
                self.ports.len() - 1
            }
            None => return Err(Errno::NOSPC),
        };
        Ok(Port(u32::try_from(index).map_err(|_| Errno::NOSPC)?))
    }

    fn channel(&mut self, port: Port) -> Option<&mut Channel> {
        self.ports.get_mut(port.0 as usize)
    }

    pub(super) fn open_ports(&self) -> usize {
        self.ports.iter().filter(|channel| !matches!(channel, Channel::Free | Channel::Reserved)).count()
    }
}

impl World {
    pub(super) fn alloc_unbound(&mut self, id: DomId, remote: DomId) -> Result<Port, Errno> {
        let remote = if remote == DomId::SELF { id } else { remote };
        let domain = self.caller(id)?;
        let port = domain.free_port()?;
        domain.ports[port.0 as usize] = Channel::Unbound(remote);
        Ok(port)
    }

    pub(super) fn bind_interdomain(&mut self, id: DomId, remote: DomId, port: Port) -> Result<Port, Errno> {
        let remote = if remote == DomId::SELF { id } else { remote };
        if !self.domains.contains_key(&remote) {
            return Err(Errno::SRCH);
        }
        let ours = self.caller(id)?.free_port()?;
        let theirs = self.domains.get_mut(&remote).and_then(|domain| domain.channel(port));
        match theirs {
            Some(channel) if *channel == Channel::Unbound(id) => *channel = Channel::Interdomain(id, ours),
            _ => return Err(Errno::INVAL),
        }
        let domain = self.caller(id)?;
        domain.ports[ours.0 as usize] = Channel::Interdomain(remote, port);
        // Xen makes up for notifications that came while the port was unbound.
        Events::new(domain.shared_info).set_pending(ours);
        Ok(ours)
    }

    pub(super) fn bind_virq(&mut self, id: DomId, virq: Virq) -> Result<Port, Errno> {
        let domain = self.caller(id)?;
        if domain.ports.contains(&Channel::Virq(virq)) {
            return Err(Errno::EXIST);
        }
        let port = domain.free_port()?;
        domain.ports[port.0 as usize] = Channel::Virq(virq);
        Ok(port)
    }

    pub(super) fn close(&mut self, id: DomId, port: Port) -> Result<(), Errno> {
        let domain = self.domains.get_mut(&id).ok_or(Errno::SRCH)?;
        let channel = domain.channel(port).ok_or(Errno::INVAL)?;
        let was = *channel;
        if matches!(was, Channel::Free | Channel::Reserved) {
            return Err(Errno::INVAL);
        }
        *channel = Channel::Free;
        Events::new(domain.shared_info).clear(port);
        if let Channel::Interdomain(remote, theirs) = was
            && let Some(peer) = self.domains.get_mut(&remote).and_then(|domain| domain.channel(theirs))
        {
            // Without a signal.
            *peer = Channel::Unbound(id);
        }
        Ok(())
    }

    pub(super) fn close_all(&mut self, id: DomId) {
        let ports = self.domains.get(&id).map_or(0, |domain| domain.ports.len());
        for port in 1..ports {
            // Those that are free say so.
            let _ = self.close(id, Port(u32::try_from(port).unwrap_or(0)));
        }
    }

    pub(super) fn send(&mut self, id: DomId, port: Port) -> Result<(), Errno> {
        match self.caller(id)?.channel(port).copied() {
            Some(Channel::Interdomain(remote, theirs)) => {
                if let Some(domain) = self.domains.get(&remote) {
                    Events::new(domain.shared_info).set_pending(theirs);
                }
                Ok(())
            }
            // Silently dropped.
            Some(Channel::Unbound(_)) => Ok(()),
            _ => Err(Errno::INVAL),
        }
    }

    pub(super) fn status(&mut self, id: DomId, port: Port) -> Result<PortState, Errno> {
        if port.0 >= PORTS {
            return Err(Errno::INVAL);
        }
        Ok(match self.caller(id)?.channel(port).copied() {
            None | Some(Channel::Free | Channel::Reserved) => PortState::Closed,
            Some(Channel::Unbound(remote)) => PortState::Unbound(remote),
            Some(Channel::Interdomain(remote, port)) => PortState::Interdomain(remote, port),
            Some(Channel::Virq(virq)) => PortState::Virq(virq.number()),
        })
    }

    pub(super) fn unmask(&mut self, id: DomId, port: Port) -> Result<(), Errno> {
        if port.0 >= PORTS {
            return Err(Errno::INVAL);
        }
        Events::new(self.caller(id)?.shared_info).unmask(port);
        Ok(())
    }

    pub(super) fn raise_virq(&mut self, id: DomId, virq: Virq) {
        let Some(domain) = self.domains.get(&id) else { return };
        let bound = domain.ports.iter().position(|channel| *channel == Channel::Virq(virq));
        if let Some(port) = bound.and_then(|index| u32::try_from(index).ok()) {
            Events::new(domain.shared_info).set_pending(Port(port));
        }
    }
}
