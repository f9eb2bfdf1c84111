//! Our side of every shared page against a C program that knows nothing but Xen's headers, of Debian's libxen-dev, unpacked and
//! not installed: rings, blkif, netif, console, xenstore and grant entries.

mod drivers;
mod peer;

use mm_proto::{RING_SLOTS, SLOT_WORDS};
use peer::{Peer, page};
use xen_ring::{Back, ByteRing};
use xenstore::wire::{HEADER, Kind, PAYLOAD_MAX};
use xenstore::{Connection, Message, Refusal, Transaction, XenbusState};

#[test]
fn the_map_ring_is_a_ring_of_xens_with_sixteen_slots() {
    let peer = Peer::get();
    let page = page();
    let mut back: Back<SLOT_WORDS, SLOT_WORDS> = Back::init(page);
    assert_eq!(peer.meets("map", page), format!("slots {RING_SLOTS}\nnotify 1 more 0\n"));
    for index in 0..RING_SLOTS {
        let words = back.pop_request().expect("an honest client").expect("it filled the ring");
        let expected: Vec<u32> = (0..32).map(|word| index * 100 + word).collect();
        assert_eq!(words.as_slice(), expected);
        let mut answer = [0; SLOT_WORDS];
        (answer[0], answer[31]) = (index, 7 * index);
        back.push_response(&answer).expect("one was taken");
    }
    assert_eq!(back.pop_request(), Ok(None));
    assert!(back.publish(), "the client asked for an event before it slept");
    let answers: String = (0..RING_SLOTS).map(|index| format!("{index} {}\n", 7 * index)).collect();
    assert_eq!(peer.meets("map-answers", page), answers);
}

#[test]
fn the_console_is_where_xen_looks_for_it() {
    let peer = Peer::get();
    let page = page();
    let mut out = ByteRing::CONSOLE_OUT.producer(page);
    assert_eq!(out.write(b"M1 says\n"), Ok(8));
    assert_eq!(peer.meets("console", page), "M1 says\n");
    // The ring is used again and again: it wraps.
    for round in 0..5 {
        let line = format!("{round}{}\n", "x".repeat(900));
        assert_eq!(out.write(line.as_bytes()), Ok(line.len()));
        assert_eq!(peer.meets("console", page), line);
    }
    // Each time somebody has typed something.
    let mut typed = [0; 64];
    assert_eq!(ByteRing::CONSOLE_IN.consumer(page).read(&mut typed), Ok(30));
    assert!(typed.starts_with(b"typedtypedtyped"));
}

#[test]
fn xenstore_requests_and_replies_are_xs_wires() {
    let peer = Peer::get();
    let page = page();
    let mut connection = Connection::new(page);
    // So many that both rings wrap.
    for round in 0..60 {
        let read = connection.client.read(Transaction(round), "device/vbd/51712/state").expect("room");
        let write = connection.client.write(Transaction::NONE, "error", b"none").expect("room");
        connection.flush().expect("possible indices");
        assert_eq!(
            peer.meets("xenstore", page),
            format!("type 2 tx {round}:device/vbd/51712/state|\ntype 11 tx 0:error|none\n")
        );
        for (id, outcome) in [(read, Ok(&b"value"[..])), (write, Err(Refusal::Access))] {
            let incoming = connection.poll().expect("xenstored is honest").expect("an answer");
            let Message::Reply(reply) = incoming.message else { panic!("{:?}", incoming.message) };
            assert_eq!((reply.id, reply.outcome), (id, outcome));
        }
    }
}

#[test]
fn names_have_xens_numbers() {
    let kind = |kind: Kind| kind as usize;
    let state = |state: XenbusState| state as usize;
    let ours = [
        ("XS_DIRECTORY", kind(Kind::Directory)),
        ("XS_READ", kind(Kind::Read)),
        ("XS_WATCH", kind(Kind::Watch)),
        ("XS_UNWATCH", kind(Kind::Unwatch)),
        ("XS_TRANSACTION_START", kind(Kind::TransactionStart)),
        ("XS_TRANSACTION_END", kind(Kind::TransactionEnd)),
        ("XS_WRITE", kind(Kind::Write)),
        ("XS_MKDIR", kind(Kind::Mkdir)),
        ("XS_RM", kind(Kind::Rm)),
        ("XS_SET_PERMS", kind(Kind::SetPerms)),
        ("XS_WATCH_EVENT", kind(Kind::WatchEvent)),
        ("XS_ERROR", kind(Kind::Error)),
        ("XS_RESET_WATCHES", kind(Kind::ResetWatches)),
        ("XS_DIRECTORY_PART", kind(Kind::DirectoryPart)),
        ("XENSTORE_PAYLOAD_MAX", PAYLOAD_MAX),
        ("sizeof(struct xsd_sockmsg)", HEADER),
        ("XenbusStateInitialising", state(XenbusState::Initialising)),
        ("XenbusStateInitWait", state(XenbusState::InitWait)),
        ("XenbusStateInitialised", state(XenbusState::Initialised)),
        ("XenbusStateConnected", state(XenbusState::Connected)),
        ("XenbusStateClosing", state(XenbusState::Closing)),
        ("XenbusStateClosed", state(XenbusState::Closed)),
        ("XenbusStateReconfiguring", state(XenbusState::Reconfiguring)),
        ("XenbusStateReconfigured", state(XenbusState::Reconfigured)),
    ];
    let ours: String = ours.iter().map(|(name, number)| format!("{name} {number}\n")).collect();
    assert_eq!(Peer::get().meets("numbers", page()), ours);
}
