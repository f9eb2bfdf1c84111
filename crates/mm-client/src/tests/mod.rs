//! What the state machine promises, by itself. With the engine on the other end it is tested in `mm-engine`.

mod hostile;
mod plain;
mod table;

use mm_proto::{Bitmap, Request, RequestBody, Response, Status};

use crate::{Event, MapClient, Settings, Window};

const SETTINGS: Settings = Settings { version: 1, window: 512, pages: 10_000, frozen: false, patience: 1000 };

fn rows(count: usize) -> &'static mut [Window] {
    Box::leak(vec![Window::default(); count].into_boxed_slice())
}

/// A client that M1 has greeted, with its Listen posted; and that request's number.
fn ready(count: usize) -> (MapClient<'static>, u32) {
    let mut client = MapClient::new(rows(count), SETTINGS);
    let hello = client.next_request(0).unwrap();
    assert_eq!(hello.body, RequestBody::Hello { version: 1, window: 512 });
    assert_eq!(client.next_request(0), None);
    let answer = Response { page: 512, ..Response::bare(hello.id, Status::Ok) };
    assert_eq!(client.on_response(&answer), Ok(Event::Ready { window: 512 }));
    let listen = client.next_request(0).unwrap();
    assert_eq!(listen.body, RequestBody::Listen);
    assert_eq!(client.next_request(0), None);
    (client, listen.id)
}

fn run(request: &Request, status: Status, page: u64, reference: u32, count: u32, bits: &[u32]) -> Response {
    let mut bitmap = Bitmap::EMPTY;
    bits.iter().for_each(|bit| bitmap.set(*bit));
    Response { page, reference, count, bitmap, ..Response::bare(request.id, status) }
}

/// Asks for the page and is given all of a window of 16 around it.
fn granted(client: &mut MapClient<'_>, page: u64, reference: u32) {
    let request = client.ask(page, 1, 0).unwrap();
    let all: Vec<u32> = (0..16).collect();
    let answer = run(&request, Status::Ok, page & !15, reference, 16, &all);
    assert_eq!(client.on_response(&answer), Ok(Event::Granted { page }));
}
