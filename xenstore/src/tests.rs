mod blocking;
mod codec;
mod handshake;
mod store;

use std::boxed::Box;

use xen_ring::PageWords;

use crate::fake::{ConnectionId, FakeXenstored, Flavour};
use crate::{Connection, Message};

/// A xenstored and one domain on it whose ring indices do not start at 0.
pub(crate) fn store(flavour: Flavour, domain: u16) -> (FakeXenstored, ConnectionId, Connection) {
    let page: &'static PageWords = Box::leak(Box::new(PageWords::new()));
    for (word, start) in [(512, 1000), (513, 1000), (514, u32::MAX - 9), (515, u32::MAX - 9)] {
        page.store(word, start);
    }
    let mut server = FakeXenstored::new(flavour);
    let id = server.introduce(domain, page);
    (server, id, Connection::new(page))
}

/// Lets both sides run until nothing moves; collects what the client hears.
pub(crate) fn hear(server: &mut FakeXenstored, connection: &mut Connection) -> Vec<String> {
    let mut heard = Vec::new();
    loop {
        connection.flush().expect("an honest xenstored");
        server.run();
        let told = connection.poll().expect("an honest xenstored").map(|incoming| match incoming.message {
            Message::Reply(reply) => match reply.outcome {
                Ok(payload) => format!("ok {}", String::from_utf8_lossy(payload).trim_end_matches('\0')),
                Err(refusal) => format!("no {refusal:?}"),
            },
            Message::Watch(event) => format!("watch {} {}", event.token, event.path),
            Message::WatchesLost => "lost".to_owned(),
        });
        let quiet = told.is_none();
        heard.extend(told);
        if quiet && !connection.take_notify() {
            return heard;
        }
    }
}
