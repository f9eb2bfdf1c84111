use proptest::prelude::*;

use crate::receiver::Raw;
use crate::wire::{HEADER, Header, Kind, PAYLOAD_MAX};
use crate::{
    Client, Permission, Receiver, Refusal, SendError, Transaction, XenbusState, number, only_domain_writes,
};

#[test]
fn kinds_have_their_numbers() {
    assert_eq!(Kind::Directory as u32, 1);
    assert_eq!(Kind::WatchEvent as u32, 15);
    assert_eq!(Kind::from_wire(13), Some(Kind::Rm));
    assert_eq!(Kind::from_wire(20), None);
}

#[test]
fn a_write_is_path_nul_value() {
    let mut client = Client::new();
    client.write(Transaction(9), "data/x", b"v\0w").expect("room");
    let out = client.outgoing();
    let header = Header::decode(out[..HEADER].try_into().expect("a header"));
    assert_eq!(header, Header { kind: 11, id: 1, transaction: 9, len: 10 });
    assert_eq!(&out[HEADER..], b"data/x\0v\0w");
}

#[test]
fn too_much_is_refused_and_nothing_of_it_is_queued() {
    let mut client = Client::new();
    assert_eq!(client.write(Transaction::NONE, "a", &[0; PAYLOAD_MAX]), Err(SendError::TooLong));
    assert!(client.outgoing().is_empty());
    for _ in 0..2 {
        client.write(Transaction::NONE, "a", &[0; PAYLOAD_MAX - 2]).expect("two of the longest fit");
    }
    assert_eq!(client.read(Transaction::NONE, "a"), Err(SendError::Full));
    client.advance(HEADER + PAYLOAD_MAX);
    client.read(Transaction::NONE, "a").expect("what was sent makes room");
    assert_eq!(client.outgoing().len(), HEADER + PAYLOAD_MAX + HEADER + 2);
    assert_eq!(client.outstanding(), 3);
}

#[test]
fn no_more_than_the_bound_are_outstanding() {
    let mut client = Client::new();
    for _ in 0..crate::MAX_OUTSTANDING {
        client.read(Transaction::NONE, "a").expect("room");
    }
    assert_eq!(client.read(Transaction::NONE, "a"), Err(SendError::Full));
}

#[test]
fn refusals_by_name() {
    assert_eq!(Refusal::from_wire(b"EAGAIN\0"), Refusal::Again);
    assert_eq!(Refusal::from_wire(b"EQUOTA\0"), Refusal::Quota, "oxenstored's own");
    assert_eq!(Refusal::from_wire(b"ENOENT"), Refusal::NotFound);
    let strange = Refusal::from_wire(b"EWHATEVER\x01ISTHIS\0");
    assert_eq!(strange.to_string(), "xenstored says EWHATEVER?ISTH");
    assert!(matches!(Refusal::from_wire(b""), Refusal::Other(_)));
}

#[test]
fn numbers_are_only_digits() {
    assert_eq!(number::<u32>(b"51712"), Some(51712));
    assert_eq!(number::<u16>(b"65536"), None);
    for bad in [&b""[..], b"+1", b"-1", b" 1", b"1\0", b"0x1", b"\xff"] {
        assert_eq!(number::<u32>(bad), None, "{bad:?}");
    }
}

#[test]
fn states_go_both_ways() {
    for n in 0..=8 {
        let text = n.to_string();
        assert_eq!(XenbusState::from_value(text.as_bytes()).value(), text);
    }
    for strange in [&b""[..], b"9", b"04", b"4\n", b"\xff"] {
        assert_eq!(XenbusState::from_value(strange), XenbusState::Unknown);
    }
}

fn feed(receiver: &mut Receiver, mut bytes: &[u8], piece: usize) -> bool {
    while !bytes.is_empty() {
        let Ok(space) = receiver.space() else { return false };
        let n = space.len().min(piece).min(bytes.len());
        if n == 0 {
            break;
        }
        space[..n].copy_from_slice(&bytes[..n]);
        receiver.advance(n);
        bytes = &bytes[n..];
    }
    true
}

proptest! {
    #[test]
    fn headers_round_trip(kind: u32, id: u32, transaction: u32, len: u32) {
        let header = Header { kind, id, transaction, len };
        prop_assert_eq!(Header::decode(&header.encode()), header);
    }

    /// Whatever the pieces, the message is the same.
    #[test]
    fn messages_come_together_from_pieces(payload in prop::collection::vec(any::<u8>(), 0..=PAYLOAD_MAX), piece in 1_usize..5000) {
        let len = u32::try_from(payload.len()).expect("bounded");
        let mut bytes = Header { kind: Kind::Read as u32, id: 77, transaction: 0, len }.encode().to_vec();
        bytes.extend(&payload);
        let mut receiver = Receiver::new();
        prop_assert!(feed(&mut receiver, &bytes, piece));
        prop_assert_eq!(receiver.whole(), Ok(true));
        prop_assert_eq!(receiver.message(), Ok(Some(Raw::Reply { id: 77, outcome: Ok(&payload[..]) })));
    }

    /// Garbage gives a message, nothing, or `Malformed`; never a panic.
    #[test]
    fn garbage_is_survived(kind in prop_oneof![0_u32..24, any::<u32>()], len in prop_oneof![0_u32..64, any::<u32>()],
                           bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let mut receiver = Receiver::new();
        let mut all = Header { kind, id: 1, transaction: 0, len }.encode().to_vec();
        all.extend(&bytes);
        let fed = feed(&mut receiver, &all, 7);
        prop_assert_eq!(fed || len as usize > PAYLOAD_MAX, true);
        if receiver.whole() == Ok(true) {
            let _ = receiver.message();
        }
    }
}

#[test]
fn who_may_write_is_read_from_the_permissions() {
    assert_eq!(Permission::parse(b"b12"), Some(Permission { domain: 12, read: true, write: true }));
    for nonsense in [b"".as_slice(), b"n", b"x1", b"n-1", b"n70000", b"1"] {
        assert_eq!(Permission::parse(nonsense), None, "{nonsense:?}");
    }
    // oxenstored leaves the last NUL out.
    for only_dom0 in [b"n0\0".as_slice(), b"r0", b"n0\0r5\0", b"n0\0n5\0r7", b"n0\0b0"] {
        assert!(only_domain_writes(only_dom0, 0), "{}", only_dom0.escape_ascii());
    }
    for others in [b"".as_slice(), b"\0", b"w0", b"b0", b"n5", b"n5\0b0", b"n0\0w5\0", b"n0\0b5", b"n0\0junk"]
    {
        assert!(!only_domain_writes(others, 0), "{}", others.escape_ascii());
    }
}

#[test]
fn permissions_are_told_as_they_were_set() {
    for flavour in [crate::fake::Flavour::Ocaml, crate::fake::Flavour::C] {
        let (mut server, _, mut connection) = super::store(flavour, 5);
        server.set("/local/domain/5/x", "1");
        connection.client.get_perms(Transaction::NONE, "x").expect("room");
        connection.client.write(Transaction::NONE, "data/y", b"1").expect("room");
        connection.client.set_perms(Transaction::NONE, "data/y", &["n5", "b7"]).expect("room");
        connection.client.get_perms(Transaction::NONE, "data/y").expect("room");
        connection.client.get_perms(Transaction::NONE, "data/z").expect("room");
        let heard = super::hear(&mut server, &mut connection);
        assert_eq!(heard[0], "ok n0\0r5");
        assert_eq!(heard[3], "ok n5\0b7");
        assert_eq!(heard[4], "no NotFound");
    }
}
