//! A world in memory: the service, hosts with smoltcp's own TCP as clients, a hub between them, and time that jumps to
//! the next deadline.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::rc::Rc;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet, SocketStorage};
use smoltcp::phy::{
    Checksum, ChecksumCapabilities, Device, DeviceCapabilities, FaultInjector, Medium, RxToken, TxToken,
};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr, Ipv4Cidr};

use crate::config::{Addressing, AllowList};
use crate::{Connection, HttpStats, Limits, NetConfig, NetMemory, NetService, Page, Pages};

pub(super) const SERVER: [u8; 4] = [10, 0, 0, 2];
pub(super) const SERVER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// 1994-11-06T08:49:37Z, the RFC's own example.
pub(super) const WALL: u64 = 784_111_777;

pub(super) type Queue = Rc<RefCell<VecDeque<Vec<u8>>>>;

/// One end of a cable.
#[derive(Clone)]
pub(super) struct Port {
    pub(super) incoming: Queue,
    pub(super) outgoing: Queue,
    /// Frames that `outgoing` holds at most.
    pub(super) room: usize,
    /// Whether its owner checks what comes; an interface asks once, when it is made.
    pub(super) checksums: bool,
}

impl Port {
    pub(super) fn new() -> Self {
        Self { incoming: Queue::default(), outgoing: Queue::default(), room: usize::MAX, checksums: true }
    }
}

pub(super) struct Received(Vec<u8>);
pub(super) struct Slot(Queue);

impl RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, f: F) -> R {
        f(&self.0)
    }
}

impl TxToken for Slot {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, f: F) -> R {
        let mut frame = vec![0; len];
        let result = f(&mut frame);
        self.0.borrow_mut().push_back(frame);
        result
    }
}

impl Device for Port {
    type RxToken<'a> = Received;
    type TxToken<'a> = Slot;

    fn receive(&mut self, now: Instant) -> Option<(Received, Slot)> {
        let slot = self.transmit(now)?;
        Some((Received(self.incoming.borrow_mut().pop_front()?), slot))
    }

    fn transmit(&mut self, _: Instant) -> Option<Slot> {
        (self.outgoing.borrow().len() < self.room).then(|| Slot(self.outgoing.clone()))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = 1514;
        if !self.checksums {
            let mut sums = ChecksumCapabilities::default();
            (sums.ipv4, sums.tcp, sums.udp, sums.icmpv4) =
                (Checksum::Tx, Checksum::Tx, Checksum::Tx, Checksum::Tx);
            capabilities.checksum = sums;
        }
        capabilities
    }
}

/// Pages whose every line has the same number, which each rendering raises: a torn page shows two.
pub(super) struct TestPages {
    pub(super) lines: usize,
    pub(super) ready: bool,
    pub(super) renders: u64,
}

impl Pages for TestPages {
    fn ready(&mut self) -> bool {
        self.ready
    }

    fn render(&mut self, page: Page, _: &HttpStats, out: &mut dyn Write) -> std::fmt::Result {
        if page == Page::Ready {
            return out.write_str(if self.ready { "ready\n" } else { "no volume\n" });
        }
        self.renders += 1;
        let renders = self.renders;
        (0..self.lines).try_for_each(|_| writeln!(out, "{} {renders}", page.path()))
    }
}

pub(super) struct Host {
    pub(super) interface: Interface,
    pub(super) sockets: SocketSet<'static>,
    pub(super) port: Port,
    next_port: u16,
}

/// A client's connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Peer {
    pub(super) host: usize,
    pub(super) handle: SocketHandle,
}

pub(super) struct Setup {
    pub(super) addressing: Addressing,
    pub(super) allow: AllowList,
    pub(super) places: usize,
    pub(super) reserve: usize,
    pub(super) snapshots: usize,
    pub(super) hosts: u8,
    pub(super) loss: u8,
    pub(super) corruption: u8,
    pub(super) checksums: bool,
    pub(super) limits: Limits,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            addressing: Addressing::parse("10.0.0.2/24").unwrap(),
            allow: AllowList::any(),
            places: crate::SOCKETS,
            reserve: crate::RESERVE,
            snapshots: 256 * 1024,
            hosts: 1,
            loss: 0,
            corruption: 0,
            checksums: true,
            limits: Limits::default(),
        }
    }
}

pub(super) struct World {
    pub(super) now_ns: u64,
    pub(super) wall: Option<u64>,
    pub(super) service: NetService<'static>,
    pub(super) device: FaultInjector<Port>,
    /// The service's end of its cable, to look into.
    pub(super) cable: Port,
    pub(super) pages: TestPages,
    pub(super) hosts: Vec<Host>,
    pub(super) received: BTreeMap<Peer, Vec<u8>>,
    /// Turns in which neither time nor a frame moved.
    pub(super) idle_turns: u32,
}

pub(super) fn leak<T: Clone>(len: usize, value: T) -> &'static mut [T] {
    Box::leak(vec![value; len].into_boxed_slice())
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(Setup::default())
    }

    pub(super) fn with(setup: Setup) -> Self {
        let cable = Port { checksums: setup.checksums, ..Port::new() };
        let mut device = FaultInjector::new(cable.clone(), 7);
        device.set_drop_chance(setup.loss);
        device.set_corrupt_chance(setup.corruption);
        let sockets: Vec<_> = (0..=setup.places).map(|_| SocketStorage::EMPTY).collect();
        let memory = NetMemory {
            sockets: Box::leak(sockets.into_boxed_slice()),
            connections: leak(setup.places, Connection::EMPTY),
            receive: leak(setup.places * 2048, 0),
            transmit: leak(setup.places * 4096, 0),
            snapshots: leak(setup.snapshots, 0),
        };
        let config = NetConfig {
            mac: SERVER_MAC,
            addressing: setup.addressing,
            port: 80,
            allow: setup.allow,
            reserve: setup.reserve,
            limits: setup.limits,
            seed: 1,
        };
        let service = NetService::new(&config, memory, &mut device, 0).unwrap();
        let hosts = (0..setup.hosts).map(|index| host([10, 0, 0, 10 + index])).collect();
        let pages = TestPages { lines: 40, ready: true, renders: 0 };
        let (now_ns, wall, received) = (0, Some(WALL), BTreeMap::new());
        Self { now_ns, wall, service, device, cable, pages, hosts, received, idle_turns: 0 }
    }

    /// Begins a connection of a host.
    pub(super) fn connect_from(&mut self, host: usize) -> Peer {
        self.connect_with(host, 64 * 1024)
    }

    /// The same with so many bytes of receive window.
    pub(super) fn connect_with(&mut self, host: usize, window: usize) -> Peer {
        let client = &mut self.hosts[host];
        let buffers = [window, 64 * 1024].map(|size| tcp::SocketBuffer::new(vec![0; size]));
        let [receive, transmit] = buffers;
        let mut socket = tcp::Socket::new(receive, transmit);
        socket.set_nagle_enabled(false);
        client.next_port += 1;
        let [a, b, c, d] = SERVER;
        socket
            .connect(client.interface.context(), (IpAddress::v4(a, b, c, d), 80), client.next_port)
            .unwrap();
        let peer = Peer { host, handle: client.sockets.add(socket) };
        self.received.insert(peer, Vec::new());
        peer
    }

    /// A connection whose handshake is done.
    pub(super) fn connect(&mut self) -> Peer {
        let peer = self.connect_from(0);
        self.until(5_000, |world| world.socket(peer).may_send());
        peer
    }

    pub(super) fn socket(&mut self, peer: Peer) -> &mut tcp::Socket<'static> {
        self.hosts[peer.host].sockets.get_mut(peer.handle)
    }

    pub(super) fn send(&mut self, peer: Peer, bytes: &[u8]) {
        let sent = self.socket(peer).send_slice(bytes).unwrap();
        assert_eq!(sent, bytes.len(), "the test sends more than a client's buffer");
    }

    /// Takes what came for a client.
    pub(super) fn read(&mut self, peer: Peer) {
        let mut bytes = Vec::new();
        let socket = self.socket(peer);
        while let Ok(count @ 1..) = socket.recv(|part| {
            bytes.extend_from_slice(part);
            (part.len(), part.len())
        }) {
            let _more = count;
        }
        self.received.get_mut(&peer).unwrap().extend(bytes);
    }

    pub(super) fn text(&mut self, peer: Peer) -> String {
        self.read(peer);
        String::from_utf8(self.received[&peer].clone()).unwrap()
    }

    /// Everybody does what can be done now; then time goes to the next deadline, at most `limit_ns`.
    pub(super) fn turn(&mut self, limit_ns: u64) {
        let now = Instant::from_micros(i64::try_from(self.now_ns / 1000).unwrap());
        let next = self.service.poll(&mut self.device, self.now_ns, self.wall, &mut self.pages);
        let mut moved = false;
        for frame in self.cable.outgoing.borrow_mut().drain(..) {
            moved = true;
            for host in &self.hosts {
                host.port.incoming.borrow_mut().push_back(frame.clone());
            }
        }
        let mut next_ns = next.unwrap_or(u64::MAX);
        for host in &mut self.hosts {
            let _changed = host.interface.poll(now, &mut host.port, &mut host.sockets);
            if let Some(at) = host.interface.poll_at(now, &host.sockets) {
                next_ns = next_ns.min(u64::try_from(at.total_micros()).unwrap_or(0) * 1000);
            }
            for frame in host.port.outgoing.borrow_mut().drain(..) {
                moved = true;
                self.cable.incoming.borrow_mut().push_back(frame);
            }
        }
        if !moved {
            self.idle_turns += u32::from(next_ns <= self.now_ns);
            // A microsecond at least: the clock of smoltcp has no less.
            self.now_ns = next_ns.clamp(self.now_ns + 1_000, limit_ns.max(self.now_ns + 1_000));
        }
    }

    /// Goes on for some time.
    pub(super) fn run(&mut self, ms: u64) {
        let end = self.now_ns + ms * 1_000_000;
        while self.now_ns < end {
            self.turn(end);
        }
    }

    /// Goes on until something is so.
    pub(super) fn until(&mut self, ms: u64, mut done: impl FnMut(&mut Self) -> bool) {
        let end = self.now_ns + ms * 1_000_000;
        while !done(self) {
            assert!(self.now_ns < end, "not so after {ms} ms");
            self.turn(end);
        }
    }

    /// Sends bytes on a new connection and returns all that comes within a moment, and whether the server closed.
    pub(super) fn exchange(&mut self, bytes: &[u8]) -> (String, bool) {
        let peer = self.connect();
        let mut rest = bytes;
        self.until(5_000, |world| {
            let sent = world.socket(peer).send_slice(rest).unwrap_or(rest.len());
            rest = &rest[sent..];
            rest.is_empty()
        });
        for _ in 0..50 {
            self.run(1);
            self.read(peer);
        }
        let closed = !self.socket(peer).may_recv();
        let text = self.text(peer);
        self.socket(peer).abort();
        self.run(1);
        (text, closed)
    }
}

fn host(address: [u8; 4]) -> Host {
    let mut port = Port::new();
    let mac = EthernetAddress([2, 0, 0, 0, 1, address[3]]);
    let mut config = Config::new(HardwareAddress::Ethernet(mac));
    config.random_seed = u64::from(address[3]);
    let mut interface = Interface::new(config, &mut port, Instant::ZERO);
    interface.update_ip_addrs(|list| list.push(IpCidr::Ipv4(Ipv4Cidr::new(address.into(), 24))).unwrap());
    Host { interface, sockets: SocketSet::new(vec![]), port, next_port: 20_000 }
}

/// One response of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response {
    pub(super) code: u16,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: String,
}

impl Response {
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(key, _)| key == name);
        let value = values.next();
        assert!(values.next().is_none(), "{name} twice");
        value.map(|(_, value)| value.as_str())
    }
}

/// The first response of `text`, if all of it is there, and what follows it. A response to HEAD has no body.
pub(super) fn response(text: &str, to_head: bool) -> Option<(Response, &str)> {
    let (head, rest) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let line = lines.next()?;
    let code = line.strip_prefix("HTTP/1.1 ").unwrap_or_else(|| panic!("{line:?}"))[..3].parse().unwrap();
    let field = |line: &str| line.split_once(": ").map(|(name, value)| (name.to_owned(), value.to_owned()));
    let fields: Vec<_> = lines.map(|line| field(line).unwrap()).collect();
    let mut response = Response { code, fields, body: String::new() };
    let length = if code == 100 { 0 } else { response.field("Content-Length").unwrap().parse().unwrap() };
    if to_head {
        return Some((response, rest));
    }
    response.body = rest.get(..length)?.to_owned();
    Some((response, &rest[length..]))
}

/// All responses of `text`, which has nothing else.
pub(super) fn responses(mut text: &str) -> Vec<Response> {
    let mut all = Vec::new();
    while !text.is_empty() {
        let (one, rest) = response(text, false).unwrap_or_else(|| panic!("half a response: {text:?}"));
        all.push(one);
        text = rest;
    }
    all
}
