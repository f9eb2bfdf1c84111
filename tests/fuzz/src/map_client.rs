//! The client's side of the map protocol, with an M1 that says anything.

use mm_client::{Event, Lookup, MapClient, Settings, Window};
use mm_proto::{Bitmap, RING_SLOTS, Request, Response, SLOT_WORDS};

use super::input::Input;

const PAGES: u64 = 600;

/// Nothing panics, there is always room on the ring, and no page beyond the volume is ever taken for held.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(order) = input.below(10) else { return };
    let mut rows = [Window::default(); 20];
    let settings = Settings {
        version: mm_proto::VERSION,
        window: 1 << order,
        pages: PAGES,
        frozen: false,
        patience: 1_000_000,
    };
    let mut client = MapClient::new(&mut rows, settings);
    // Requests without an answer, in the order in which they were sent.
    let mut sent: Vec<Request> = Vec::new();
    let mut now = 0;
    while step(&mut input, &mut client, &mut sent, now).is_some() {
        now += 1000;
        while let Some(request) = client.next_request(now) {
            sent.push(request);
        }
        assert!(sent.len() <= RING_SLOTS as usize, "more requests than the ring has slots");
    }
}

fn step(input: &mut Input<'_>, client: &mut MapClient<'_>, sent: &mut Vec<Request>, now: u64) -> Option<()> {
    match input.below(8)? {
        0 => {
            let page = u64::from(input.half()?) % (PAGES + 2);
            let wanted = input.word()?;
            sent.extend(client.ask(page, wanted, now));
        }
        1 => {
            let page = u64::from(input.half()?) % (PAGES + 2);
            sent.extend(client.copy(page, input.word()?, now));
        }
        2 => {
            let page = u64::from(input.half()?) % (PAGES + 2);
            if let Lookup::Have(_) = client.lookup(page) {
                assert!(page < PAGES + 512, "a reference for a page far beyond the volume");
                client.mapped(page);
            }
            for (neighbour, _) in client.neighbours(page, input.word()?) {
                assert!(neighbour < PAGES && neighbour != page);
            }
        }
        3 => client.unmapped(u64::from(input.half()?)),
        4 => _ = client.map_failed(u64::from(input.half()?)),
        5 => client.give_back(input.word()?),
        6 => _ = client.judge(now, input.wide()?),
        _ => {
            let response = answer(input, sent)?;
            match client.on_response(&response) {
                Ok(Event::Revoke { .. }) => client.revoked(),
                Ok(_) => {}
                // The ring is given up: whatever is asked of the client afterwards must be harmless, so the story goes on.
                Err(_) => _ = client.windows(),
            }
        }
    }
    Some(())
}

/// Words of any kind, with the id of something that was asked more often than not.
fn answer(input: &mut Input<'_>, sent: &mut Vec<Request>) -> Option<Response> {
    let mut words = [0; SLOT_WORDS];
    let which = usize::from(input.byte()?);
    words[0] = if which < sent.len() { sent.remove(which).id } else { input.word()? };
    words[1] = u32::from(input.below(9)?) << 16;
    words[2] = input.word()?;
    words[4] = input.word()?;
    words[5] = if input.byte()? < 200 { 1 << input.below(10)? } else { input.word()? };
    let bits = if input.byte()? < 128 { Bitmap::first(u32::MAX) } else { Bitmap([input.wide()?; 8]) };
    for (pair, bits) in words[16..].chunks_exact_mut(2).zip(bits.0) {
        let [low, high] = [bits & 0xffff_ffff, bits >> 32].map(|half| u32::try_from(half).unwrap_or(0));
        pair.copy_from_slice(&[low, high]);
    }
    Response::decode(&words).ok()
}
