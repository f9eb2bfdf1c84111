//! Bytes from xenstored: messages in pieces of any size, and a ring with indices of any kind.

use std::cell::RefCell;

use ::xenstore::wire::{HEADER, Header};
use ::xenstore::{Blocking, Client, Connection, Message, Pause, Receiver, Transaction, XenbusState};
use xen_ring::PageWords;

use super::input::Input;

/// Requests that replies may be for: their numbers are 1 to 4.
const ASKED: usize = 4;

/// Nothing panics or runs for ever, and the same bytes are the same messages however they are cut.
pub fn run(data: &[u8]) {
    let Some((cut, bytes)) = data.split_first() else { return };
    if let Some(head) = bytes.first_chunk::<HEADER>() {
        assert_eq!(Header::decode(head).encode(), *head);
    }
    let whole = messages(bytes, usize::MAX);
    assert_eq!(messages(bytes, usize::from(*cut % 32) + 1), whole);
    let _ = XenbusState::from_value(bytes);
    ring(data);
}

fn client() -> Client {
    let mut client = Client::new();
    for _ in 0..ASKED {
        client.read(Transaction::NONE, "name").expect("there is room for four");
    }
    client
}

/// What a receiver makes of the bytes, in pieces of at most `piece`; the last line says how it ended.
fn messages(mut bytes: &[u8], piece: usize) -> Vec<String> {
    let (mut receiver, mut client) = (Receiver::new(), client());
    let mut seen = Vec::new();
    loop {
        let space = match receiver.space() {
            Ok(space) => space,
            Err(malformed) => {
                seen.push(format!("{malformed:?}"));
                return seen;
            }
        };
        let count = space.len().min(piece).min(bytes.len());
        space[..count].copy_from_slice(&bytes[..count]);
        bytes = &bytes[count..];
        let lacking = !space.is_empty();
        receiver.advance(count);
        match receiver.take(&mut client) {
            Ok(message) => {
                let taken = message.map(|message| format!("{message:?}"));
                let whole = receiver.space().is_ok_and(|space| space.is_empty());
                seen.extend(taken);
                if whole {
                    receiver.clear();
                } else if lacking && count == 0 {
                    return seen;
                }
            }
            Err(malformed) => {
                seen.push(format!("{malformed:?}"));
                return seen;
            }
        }
    }
}

thread_local! {
    /// The xenstore page; every input starts with a cleared one.
    static PAGE: &'static PageWords = Box::leak(Box::default());
}

/// The page as its other side may leave it: any byte of the reply ring, any index.
fn ring(data: &[u8]) {
    let page = PAGE.with(|page| *page);
    page.zero();
    let connection = RefCell::new(Connection::new(page));
    let mut input = Input(data);
    while let Some(deed) = input.below(8) {
        let mut connection = connection.borrow_mut();
        let end = match deed {
            0 => poke(&mut input, page),
            1 | 2 => deliver(&mut input, page),
            3 => connection.flush().ok(),
            4 => {
                let _ = connection.client.read(Transaction::NONE, "device/vbd/51712/state");
                Some(())
            }
            5 => blocking(&mut connection),
            _ => listen(&mut connection),
        };
        if end.is_none() {
            return;
        }
    }
}

/// `None`: the connection is over.
fn listen(connection: &mut Connection) -> Option<()> {
    for _ in 0..64 {
        match connection.poll().ok()? {
            Some(incoming) => match incoming.message {
                Message::Reply(reply) => drop(reply.outcome.map(<[u8]>::len)),
                Message::Watch(event) => drop((event.path.len(), event.token.len())),
                Message::WatchesLost => {}
            },
            None => return Some(()),
        }
    }
    Some(())
}

fn blocking(connection: &mut Connection) -> Option<()> {
    let mut patience = 4;
    let mut wait = |pause| {
        patience -= u32::from(pause == Pause::Sleep);
        patience > 0
    };
    match Blocking::new(connection, &mut wait).read(Transaction::NONE, "domid") {
        Err(::xenstore::CallError::Broken(_)) => None,
        _ => Some(()),
    }
}

/// Any word of the page.
fn poke(input: &mut Input<'_>, page: &PageWords) -> Option<()> {
    let word = usize::from(input.half()?) % 1024;
    page.store(word, input.word()?);
    Some(())
}

/// Bytes at the producer's place of the reply ring, as xenstored puts them there (`struct xenstore_domain_interface`).
fn deliver(input: &mut Input<'_>, page: &PageWords) -> Option<()> {
    const RING: usize = 1024;
    const PRODUCER: usize = 2 * RING / 4 + 3;
    let count = usize::from(input.byte()?);
    let producer = page.load(PRODUCER);
    let mut at = producer;
    for byte in input.bytes(count) {
        let written = page.write(RING + at as usize % RING, &[*byte]);
        assert!(written, "within the page");
        at = at.wrapping_add(1);
    }
    page.store(PRODUCER, at);
    Some(())
}
