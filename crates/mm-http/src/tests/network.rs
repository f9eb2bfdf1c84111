use proptest::prelude::*;
use smoltcp::iface::SocketStorage;
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress, EthernetFrame, EthernetProtocol, IpAddress,
    IpProtocol, Ipv4Address, Ipv4Packet, Ipv4Repr, TcpPacket, UdpPacket, UdpRepr,
};

use super::link::{Port, SERVER, SERVER_MAC, Setup, World, leak, response};
use crate::config::{Addressing, AllowList};
use crate::{Connection, Limits, NetConfig, NetError, NetMemory, NetService};

const GET: &[u8] = b"GET /metrics HTTP/1.1\r\nHost: m1\r\n\r\n";
const ROUTER: Ipv4Address = Ipv4Address::new(10, 0, 0, 1);

/// The answer of a DHCP server to a frame, if it is a DHCP client's.
fn dhcp_answer(frame: &[u8], lease_s: u32) -> Option<Vec<u8>> {
    let ethernet = EthernetFrame::new_checked(frame).ok()?;
    let ip = Ipv4Packet::new_checked(ethernet.payload()).ok()?;
    let udp = UdpPacket::new_checked(ip.payload()).ok()?;
    if udp.dst_port() != 67 {
        return None;
    }
    let packet = DhcpPacket::new_checked(udp.payload()).ok()?;
    let asked = DhcpRepr::parse(&packet).ok()?;
    let message_type = match asked.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request => DhcpMessageType::Ack,
        _ => return None,
    };
    let answer = DhcpRepr {
        message_type,
        your_ip: Ipv4Address::from(SERVER),
        server_ip: ROUTER,
        server_identifier: Some(ROUTER),
        router: Some(ROUTER),
        subnet_mask: Some(Ipv4Address::new(255, 255, 255, 0)),
        lease_duration: Some(lease_s),
        requested_ip: None,
        client_identifier: None,
        parameter_request_list: None,
        ..asked
    };
    let udp = UdpRepr { src_port: 67, dst_port: 68 };
    let ip = Ipv4Repr {
        src_addr: ROUTER,
        dst_addr: Ipv4Address::BROADCAST,
        next_header: IpProtocol::Udp,
        payload_len: udp.header_len() + answer.buffer_len(),
        hop_limit: 64,
    };
    let mut frame = vec![0; 14 + ip.buffer_len() + ip.payload_len];
    let mut ethernet = EthernetFrame::new_unchecked(&mut frame[..]);
    ethernet.set_src_addr(EthernetAddress([2, 0, 0, 0, 0, 1]));
    ethernet.set_dst_addr(EthernetAddress(SERVER_MAC));
    ethernet.set_ethertype(EthernetProtocol::Ipv4);
    let mut packet = Ipv4Packet::new_unchecked(ethernet.payload_mut());
    ip.emit(&mut packet, &ChecksumCapabilities::default());
    let mut datagram = UdpPacket::new_unchecked(packet.payload_mut());
    let (from, to) = (IpAddress::Ipv4(ROUTER), IpAddress::Ipv4(Ipv4Address::BROADCAST));
    udp.emit(
        &mut datagram,
        &from,
        &to,
        answer.buffer_len(),
        |bytes| answer.emit(&mut DhcpPacket::new_unchecked(bytes)).unwrap(),
        &ChecksumCapabilities::default(),
    );
    Some(frame)
}

#[test]
fn an_address_comes_from_dhcp_and_goes_with_its_lease() {
    let mut world = World::with(Setup { addressing: Addressing::Dhcp, ..Setup::default() });
    let hub = world.hosts[0].port.incoming.clone();
    let serve = |world: &mut World, ms: u64, answering: bool| {
        let end = world.now_ns + ms * 1_000_000;
        while world.now_ns < end {
            let seen: Vec<_> = hub.borrow().iter().cloned().collect();
            let mut next = world.now_ns + 50_000_000;
            if answering {
                for answer in seen.iter().filter_map(|frame| dhcp_answer(frame, 60)) {
                    world.cable.incoming.borrow_mut().push_back(answer);
                    next = world.now_ns;
                }
            }
            hub.borrow_mut().clear();
            // One turn of the service alone: the host would take the frames before they are looked at.
            let _next = world.service.poll(&mut world.device, world.now_ns, None, &mut world.pages);
            hub.borrow_mut().extend(world.cable.outgoing.borrow_mut().drain(..));
            world.now_ns = next.max(world.now_ns + 1_000);
        }
    };
    serve(&mut world, 500, false);
    assert_eq!(world.service.address(), None);
    serve(&mut world, 20_000, true);
    assert_eq!(world.service.address().unwrap().to_string(), "10.0.0.2/24");
    let peer = world.connect();
    world.send(peer, GET);
    world.until(1_000, |world| response(&world.text(peer), false).is_some());
    // Renewed while the server answers; gone some time after it does not.
    serve(&mut world, 300_000, true);
    assert!(world.service.address().is_some());
    serve(&mut world, 70_000, false);
    assert_eq!(world.service.address(), None);
    serve(&mut world, 70_000, true);
    assert!(world.service.address().is_some());
}

fn setup(world: impl FnOnce(&mut NetConfig, &mut NetMemory<'static>)) -> Option<NetError> {
    let sockets: Vec<_> = (0..9).map(|_| SocketStorage::EMPTY).collect();
    let mut memory = NetMemory {
        sockets: Box::leak(sockets.into_boxed_slice()),
        connections: leak(8, Connection::EMPTY),
        receive: leak(8 * 512, 0),
        transmit: leak(8 * 512, 0),
        snapshots: leak(0, 0),
    };
    let mut config = NetConfig {
        mac: SERVER_MAC,
        addressing: Addressing::Dhcp,
        port: 80,
        allow: AllowList::any(),
        reserve: 2,
        limits: Limits::default(),
        seed: 0,
    };
    world(&mut config, &mut memory);
    NetService::new(&config, memory, &mut Port::new(), 0).err()
}

#[test]
fn a_setup_that_cannot_work_is_refused() {
    assert_eq!(setup(|_, _| {}), None);
    assert_eq!(setup(|config, _| config.mac = [0xff; 6]), Some(NetError::BadMac));
    assert_eq!(setup(|config, _| config.mac = [0; 6]), Some(NetError::BadMac));
    assert_eq!(setup(|config, _| config.port = 0), Some(NetError::Port));
    assert_eq!(setup(|config, _| config.reserve = 8), Some(NetError::Memory));
    assert_eq!(setup(|_, memory| memory.receive = leak(8 * 512 - 1, 0)), Some(NetError::Memory));
    assert_eq!(setup(|_, memory| memory.transmit = leak(10, 0)), Some(NetError::Memory));
    assert_eq!(setup(|_, memory| memory.connections = leak(9, Connection::EMPTY)), Some(NetError::Memory));
    assert_eq!(setup(|_, memory| memory.connections = leak(0, Connection::EMPTY)), Some(NetError::Memory));
}

#[test]
fn an_idle_service_sleeps() {
    let mut world = World::new();
    let peer = world.connect();
    world.send(peer, GET);
    world.run(2_000);
    world.read(peer);
    world.run(2_000);
    let next = world.service.poll(&mut world.device, world.now_ns, None, &mut world.pages).unwrap();
    assert!(next > world.now_ns + 60_000_000_000, "a kept connection wakes nobody before its time-out");
    world.socket(peer).abort();
    world.run(1_000);
    assert_eq!(world.service.poll(&mut world.device, world.now_ns, None, &mut world.pages), None);
    assert_eq!(world.idle_turns, 0, "no deadline had passed when it was given");
}

#[test]
fn a_device_that_takes_nothing_is_not_asked_without_end() {
    let mut world = World::new();
    world.pages.lines = 1_000;
    let peer = world.connect();
    world.send(peer, GET);
    let port = world.cable.clone();
    world.device = smoltcp::phy::FaultInjector::new(Port { room: 0, ..port.clone() }, 1);
    let now = smoltcp::time::Instant::from_micros(i64::try_from(world.now_ns / 1000).unwrap());
    let host = &mut world.hosts[0];
    let _changed = host.interface.poll(now, &mut host.port, &mut host.sockets);
    port.incoming.borrow_mut().extend(host.port.outgoing.borrow_mut().drain(..));
    // The request gets in, and then nothing gets out.
    world.device = smoltcp::phy::FaultInjector::new(Port { room: 1, ..port.clone() }, 1);
    let next = world.service.poll(&mut world.device, world.now_ns, None, &mut world.pages).unwrap();
    assert_eq!(port.outgoing.borrow().len(), 1);
    assert!(next > world.now_ns, "it sleeps until the device has an event");
    assert!(next <= world.now_ns + 1_000_000_000);
}

#[test]
fn a_repeated_syn_does_not_break_its_connection() {
    let mut world = World::new();
    let peer = world.connect_from(0);
    // Take the SYN on its way, and repeat it wherever the handshake is.
    let mut syn = None;
    for _ in 0..40 {
        world.turn(world.now_ns + 1_000_000);
        let frames: Vec<_> = world.cable.incoming.borrow().iter().cloned().collect();
        syn = syn.or_else(|| frames.iter().find(|frame| is_syn(frame)).cloned());
        if let Some(frame) = &syn {
            world.cable.incoming.borrow_mut().push_back(frame.clone());
        }
        if world.socket(peer).may_send() {
            break;
        }
    }
    let syn = syn.expect("a SYN went by");
    // Connections before it end: sockets that come first in the table listen again.
    for _ in 0..3 {
        let other = world.connect();
        world.socket(other).abort();
        world.run(1);
        world.cable.incoming.borrow_mut().push_back(syn.clone());
        world.run(1);
    }
    world.send(peer, GET);
    world.until(1_000, |world| response(&world.text(peer), false).is_some());
    assert_eq!(world.service.http().open, 1);
}

fn is_syn(frame: &[u8]) -> bool {
    let ethernet = EthernetFrame::new_unchecked(frame);
    if ethernet.ethertype() != EthernetProtocol::Ipv4 {
        return false;
    }
    let ip = Ipv4Packet::new_unchecked(ethernet.payload());
    ip.next_header() == IpProtocol::Tcp && TcpPacket::new_unchecked(ip.payload()).syn()
}

/// What happens to a frame on its way.
#[derive(Clone, Debug)]
enum Mischief {
    Flip { byte: prop::sample::Index, bit: u8 },
    Cut(prop::sample::Index),
    Twice,
    Drop,
    Flags(u8),
    Numbers { seq: i32, ack: i32, window: u16 },
}

fn mischief() -> impl Strategy<Value = Mischief> {
    prop_oneof![
        (any::<prop::sample::Index>(), 0..8u8).prop_map(|(byte, bit)| Mischief::Flip { byte, bit }),
        any::<prop::sample::Index>().prop_map(Mischief::Cut),
        Just(Mischief::Twice),
        Just(Mischief::Drop),
        any::<u8>().prop_map(Mischief::Flags),
        (-5000..5000i32, -5000..5000i32, any::<u16>()).prop_map(|(seq, ack, window)| Mischief::Numbers {
            seq,
            ack,
            window
        }),
        (any::<i32>(), any::<i32>(), any::<u16>()).prop_map(|(seq, ack, window)| Mischief::Numbers {
            seq,
            ack,
            window
        }),
    ]
}

fn spoil(frame: &mut Vec<u8>, mischief: &Mischief) {
    const TCP: usize = 14 + 20;
    match mischief {
        Mischief::Flip { byte, bit } => {
            let at = byte.index(frame.len());
            frame[at] ^= 1 << bit;
        }
        Mischief::Cut(at) => frame.truncate(at.index(frame.len())),
        Mischief::Twice | Mischief::Drop => {}
        Mischief::Flags(flags) if frame.len() > TCP + 13 => frame[TCP + 13] = *flags,
        Mischief::Numbers { seq, ack, window } if frame.len() > TCP + 16 => {
            for (at, change) in [(TCP + 4, seq), (TCP + 8, ack)] {
                let old = i32::from_be_bytes(frame[at..at + 4].try_into().unwrap());
                frame[at..at + 4].copy_from_slice(&old.wrapping_add(*change).to_be_bytes());
            }
            frame[TCP + 14..TCP + 16].copy_from_slice(&window.to_be_bytes());
        }
        Mischief::Flags(_) | Mischief::Numbers { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// Frames of a client, changed in ways that a correct TCP does not, with checksums out of the way: the service
    /// does not panic, and answers the next client.
    #[test]
    fn hostile_segments_harm_nobody_else(plan in proptest::collection::vec((0..4u8, mischief()), 1..60)) {
        let few = Setup { places: 8, reserve: 2, snapshots: 32 * 1024, checksums: false, ..Setup::default() };
        let mut world = World::with(few);
        world.pages.lines = 500;
        let mut plan = plan.into_iter();
        let mut peers = Vec::new();
        for turn in 0..120u64 {
            if turn % 20 == 0 {
                peers.push(world.connect_from(0));
            }
            for &peer in &peers {
                if world.socket(peer).may_send() && turn % 3 == 0 {
                    let _sent = world.socket(peer).send_slice(GET);
                }
                world.read(peer);
            }
            world.turn(world.now_ns + 50_000_000);
            let mut frames: Vec<_> = world.cable.incoming.borrow_mut().drain(..).collect();
            if let Some((which, mischief)) = plan.next() {
                let which = usize::from(which);
                if let Some(frame) = frames.get_mut(which) {
                    spoil(frame, &mischief);
                    match mischief {
                        Mischief::Twice => frames.push(frames[which].clone()),
                        Mischief::Drop => drop(frames.remove(which)),
                        _ => {}
                    }
                }
            }
            world.cable.incoming.borrow_mut().extend(frames);
        }
        for peer in peers {
            world.socket(peer).abort();
        }
        world.run(10);
        let peer = world.connect();
        world.send(peer, GET);
        world.until(10_000, |world| response(&world.text(peer), false).is_some());
    }
}
