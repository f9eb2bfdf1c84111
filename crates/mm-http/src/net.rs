//! The network service: smoltcp's interface, its address, and the HTTP server on it.
//!
//! The owner calls [`NetService::poll`] when the device has an event, when the returned deadline has come, and when
//! it likes. Everything below is done inside that call, in bounded pieces.

use core::fmt;

use smoltcp::iface::{
    Config, Interface, PollIngressSingleResult, PollResult, SocketHandle, SocketSet, SocketStorage,
};
use smoltcp::phy::{Device, Medium, TxToken};
use smoltcp::socket::{dhcpv4, tcp};
use smoltcp::time::{Duration, Instant};
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, EthernetRepr,
    HardwareAddress, IpCidr, Ipv4Address, Ipv4Cidr,
};

use crate::config::{Addressing, AllowList};
use crate::connection::Connection;
use crate::server::{Limits, Pages, Server, earliest};
use crate::stats::HttpStats;

/// Frames taken in before something is sent; fewer than the sockets that are kept listening.
const INGRESS_MAX: usize = 8;
/// Passes over all sockets that have something to send.
const EGRESS_MAX: usize = 8;
/// Rounds of both in one call.
const ROUNDS_MAX: usize = 16;
/// When to try again where the device takes no more frames; its event comes sooner.
const DEVICE_FULL: Duration = Duration::from_millis(20);
/// When to say that no DHCP server answers.
const DHCP_SILENT: Duration = Duration::from_secs(10);

/// What the service uses as its memory, for as long as it runs. Usual lengths are constants of the crate.
pub struct NetMemory<'a> {
    /// One more than `connections`.
    pub sockets: &'a mut [SocketStorage<'a>],
    /// Connections, listening ones included.
    pub connections: &'a mut [Connection],
    /// Shared out evenly: received bytes that were not looked at yet.
    pub receive: &'a mut [u8],
    /// Shared out evenly: bytes that were sent and not acknowledged yet. The largest window that a client can use.
    pub transmit: &'a mut [u8],
    /// Pages while they are sent; a page cannot be larger.
    pub snapshots: &'a mut [u8],
}

/// How the service is set up.
#[derive(Clone, Copy, Debug)]
pub struct NetConfig {
    /// The device's own Ethernet address.
    pub mac: [u8; 6],
    /// Where the IP address comes from.
    pub addressing: Addressing,
    /// TCP port.
    pub port: u16,
    /// Who gets answers.
    pub allow: AllowList,
    /// Sockets to keep listening; the other places are for connections.
    pub reserve: usize,
    /// Patience.
    pub limits: Limits,
    /// Random: first sequence numbers come from it.
    pub seed: u64,
}

/// Why there can be no service.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NetError {
    /// The device is not an Ethernet device.
    NotEthernet,
    /// The Ethernet address is not one device's.
    BadMac,
    /// The slices handed in do not fit each other: one socket more than connections, at least 512 bytes of `receive`
    /// and of `transmit` for each connection, and more connections than the reserve.
    Memory,
    /// Port 0.
    Port,
}

impl fmt::Display for NetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotEthernet => "the network device is not Ethernet",
            Self::BadMac => "the network device's address is not one device's own",
            Self::Memory => "the memory for the network service is too small",
            Self::Port => "port 0 cannot be listened on",
        })
    }
}

impl core::error::Error for NetError {}

/// Smallest buffer of a socket in bytes.
const BUFFER_MIN: usize = 512;

/// The service.
pub struct NetService<'a> {
    interface: Interface,
    sockets: SocketSet<'a>,
    dhcp: Option<SocketHandle>,
    /// When to complain that DHCP is silent.
    complain_at: Option<Instant>,
    /// The address is new, and its neighbours were not told yet.
    announce: bool,
    server: Server<'a>,
}

impl<'a> NetService<'a> {
    /// Sets everything up; nothing is sent before the first poll. `now_ns` is a time that never goes back.
    pub fn new<D: Device + ?Sized>(
        config: &NetConfig,
        memory: NetMemory<'a>,
        device: &mut D,
        now_ns: u64,
    ) -> Result<Self, NetError> {
        if device.capabilities().medium != Medium::Ethernet {
            return Err(NetError::NotEthernet);
        }
        let mac = EthernetAddress(config.mac);
        if !mac.is_unicast() || config.mac == [0; 6] {
            return Err(NetError::BadMac);
        }
        if config.port == 0 {
            return Err(NetError::Port);
        }
        let places = memory.connections.len();
        let (receive, transmit) =
            (memory.receive.len() / places.max(1), memory.transmit.len() / places.max(1));
        let fits = places > config.reserve && memory.sockets.len() > places;
        if !fits || receive < BUFFER_MIN || transmit < BUFFER_MIN {
            return Err(NetError::Memory);
        }

        let now = instant(now_ns);
        let mut setup = Config::new(HardwareAddress::Ethernet(mac));
        setup.random_seed = config.seed;
        let mut sockets = SocketSet::new(memory.sockets);
        let mut server = Server::new(
            memory.connections,
            memory.snapshots,
            config.reserve,
            config.port,
            config.allow,
            config.limits,
        );
        let buffers =
            memory.receive.chunks_exact_mut(receive).zip(memory.transmit.chunks_exact_mut(transmit));
        for (receive, transmit) in buffers.take(places) {
            let (receive, transmit) = (tcp::SocketBuffer::new(receive), tcp::SocketBuffer::new(transmit));
            let handle = sockets.add(tcp::Socket::new(receive, transmit));
            let attached = server.attach(handle, &mut sockets);
            debug_assert!(attached, "there is a place for each socket");
        }

        let interface = Interface::new(setup, device, now);
        let mut service = Self { interface, sockets, dhcp: None, complain_at: None, announce: false, server };
        match config.addressing {
            Addressing::Static { address, gateway } => {
                service.set_address(Some((address, gateway)), "configuration")
            }
            Addressing::Dhcp => {
                service.dhcp = Some(service.sockets.add(dhcpv4::Socket::new()));
                service.complain_at = Some(now + DHCP_SILENT);
            }
        }
        Ok(service)
    }

    /// The address now.
    pub fn address(&self) -> Option<Ipv4Cidr> {
        self.interface.ip_addrs().first().map(|IpCidr::Ipv4(address)| *address)
    }

    /// Counters of the HTTP server.
    pub fn http(&self) -> &HttpStats {
        self.server.stats()
    }

    /// Takes in frames, serves, and sends, in a bounded number of steps. Returns when to call again at the latest, in
    /// nanoseconds of the same clock; `now_ns` or earlier means at once, after other work. `wall_clock` is in seconds
    /// since 1970.
    pub fn poll<D: Device + ?Sized>(
        &mut self,
        device: &mut D,
        now_ns: u64,
        wall_clock: Option<u64>,
        pages: &mut dyn Pages,
    ) -> Option<u64> {
        let now = instant(now_ns);
        for _ in 0..ROUNDS_MAX {
            let received = self.receive(device, now);
            self.follow_dhcp(now);
            self.announce(device, now);
            let next = self.server.poll(now, wall_clock, &mut self.sockets, pages);
            let sent = self.send(device, now);
            let ended = self.server.rearm(&mut self.sockets);
            if received || sent || ended || next.is_some_and(|next| next <= now) {
                continue;
            }
            // All is done that can be done now. What smoltcp wants to do at once all the same, the device does not
            // take: asking again without end would keep M1 awake.
            let network = self.interface.poll_at(now, &self.sockets);
            let network = network.map(|at| if at <= now { now + DEVICE_FULL } else { at });
            let next = earliest(earliest(next, network), self.complain_at);
            return next.map(nanoseconds);
        }
        Some(now_ns)
    }

    fn receive<D: Device + ?Sized>(&mut self, device: &mut D, now: Instant) -> bool {
        for count in 0..INGRESS_MAX {
            match self.interface.poll_ingress_single(now, device, &mut self.sockets) {
                PollIngressSingleResult::None => return count > 0,
                PollIngressSingleResult::PacketProcessed | PollIngressSingleResult::SocketStateChanged => {
                    self.server.accept(now, &mut self.sockets);
                }
            }
        }
        true
    }

    fn send<D: Device + ?Sized>(&mut self, device: &mut D, now: Instant) -> bool {
        for count in 0..EGRESS_MAX {
            if self.interface.poll_egress(now, device, &mut self.sockets) == PollResult::None {
                return count > 0;
            }
        }
        true
    }

    /// Tells the neighbours whose address this is now (RFC 5227, section 3): an M1 that was started again has another card, and
    /// they would go on sending to the old one.
    fn announce<D: Device + ?Sized>(&mut self, device: &mut D, now: Instant) {
        let (true, Some(address)) = (self.announce, self.address()) else { return };
        let HardwareAddress::Ethernet(mac) = self.interface.hardware_addr();
        // Where the device takes nothing now, the next poll tries again.
        let Some(token) = device.transmit(now) else { return };
        let arp = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: mac,
            source_protocol_addr: address.address(),
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: address.address(),
        };
        let header = EthernetRepr {
            src_addr: mac,
            dst_addr: EthernetAddress::BROADCAST,
            ethertype: EthernetProtocol::Arp,
        };
        token.consume(EthernetFrame::<&[u8]>::buffer_len(arp.buffer_len()), |bytes| {
            let mut frame = EthernetFrame::new_unchecked(bytes);
            header.emit(&mut frame);
            arp.emit(&mut ArpPacket::new_unchecked(frame.payload_mut()));
        });
        self.announce = false;
    }

    fn follow_dhcp(&mut self, now: Instant) {
        let Some(handle) = self.dhcp else {
            return;
        };
        if self.complain_at.is_some_and(|at| at <= now) {
            self.complain_at = None;
            log::warn!("network: no DHCP server answers; still asking (ip=ADDRESS/PREFIX sets an address)");
        }
        let lease = match self.sockets.get_mut::<dhcpv4::Socket<'_>>(handle).poll() {
            None => return,
            Some(dhcpv4::Event::Configured(lease)) => Some((lease.address, lease.router)),
            Some(dhcpv4::Event::Deconfigured) => None,
        };
        if lease.is_some() {
            self.complain_at = None;
        } else if self.address().is_none() {
            return; // smoltcp begins with this event
        }
        self.set_address(lease, "DHCP");
    }

    fn set_address(&mut self, lease: Option<(Ipv4Cidr, Option<Ipv4Address>)>, source: &str) {
        let before = self.address();
        self.interface.update_ip_addrs(|addresses| {
            addresses.clear();
            if let Some((address, _)) = lease {
                let pushed = addresses.push(IpCidr::Ipv4(address));
                debug_assert!(pushed.is_ok(), "there is room for one address");
            }
        });
        let routes = self.interface.routes_mut();
        let _old = routes.remove_default_ipv4_route();
        if let Some(gateway) = lease.and_then(|(_, gateway)| gateway) {
            let added = routes.add_default_ipv4_route(gateway);
            debug_assert!(added.is_ok(), "there is room for one route");
        }
        self.announce |= self.address().is_some() && self.address() != before;
        match lease {
            Some((address, _)) if before == Some(address) => {}
            Some((address, Some(gateway))) => {
                log::info!("network: address {address} from {source}, gateway {gateway}")
            }
            Some((address, None)) => log::info!("network: address {address} from {source}, no gateway"),
            None => log::warn!("network: the address's lease has ended"),
        }
    }
}

fn instant(nanoseconds: u64) -> Instant {
    Instant::from_micros(i64::try_from(nanoseconds / 1000).unwrap_or(i64::MAX))
}

/// Rounded up, so that the time has come when it is reached.
fn nanoseconds(at: Instant) -> u64 {
    u64::try_from(at.total_micros()).unwrap_or(0).saturating_mul(1000)
}
