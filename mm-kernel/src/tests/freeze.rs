//! A client that is frozen: what a client kernel does when M1 orders it.

use std::vec::Vec;

use mm_proto::{Bitmap, CAPTURE_MAX, FROZEN_FIRST, RequestBody, Status};
use xen::{Access, GrantRef};

use super::world::World;

/// References under which a client lends the frames of a capture.
const FIRST: u32 = 16;

/// The word at this place of a private page with this content.
pub(crate) fn frozen_word(content: u32, index: usize) -> u32 {
    content.wrapping_mul(0x9e37_79b9) ^ u32::try_from(index).expect("of a page") << 20 | 1
}

impl World {
    /// One step of a freeze of this client's. Gives the answer.
    pub(crate) fn step(&mut self, client: usize, body: RequestBody) -> (Status, [u32; CAPTURE_MAX]) {
        self.send_step(client, body);
        self.run();
        self.clients[client].steps.pop().expect("M1 answers")
    }

    pub(crate) fn send_step(&mut self, client: usize, body: RequestBody) {
        let client = &mut self.clients[client];
        let request = client.mm.freeze_step(body, client.now()).expect("nothing else is under way");
        client.send(&request);
    }

    /// M1 copies private pages with this content.
    pub(crate) fn capture(&mut self, client: usize, contents: &[u32]) -> (Status, [u32; CAPTURE_MAX]) {
        let body = self.lend_to_capture(client, contents);
        let answer = self.step(client, body);
        self.end_capture(client, contents.len());
        answer
    }

    pub(crate) fn lend_to_capture(&mut self, client: usize, contents: &[u32]) -> RequestBody {
        let client = &self.clients[client];
        let mut references = [0; CAPTURE_MAX];
        for (at, content) in contents.iter().enumerate() {
            let (words, mfn) = client.domain.page();
            (0..1024).for_each(|index| words.store(index, frozen_word(*content, index)));
            references[at] = FIRST + u32::try_from(at).expect("few");
            let reference = GrantRef(references[at]);
            client.domain.grants().permit(reference, self.domain.id(), mfn, Access::ReadOnly).expect("free");
        }
        RequestBody::Capture { count: u32::try_from(contents.len()).expect("few"), references }
    }

    pub(crate) fn end_capture(&mut self, client: usize, count: usize) {
        for at in 0..count {
            let reference = GrantRef(FIRST + u32::try_from(at).expect("few"));
            self.clients[client].domain.grants().try_revoke(reference).expect("M1 copies and does not map");
        }
    }

    /// dom0 orders it, and the client has heard.
    pub(crate) fn order(&mut self, client: usize, name: &str) {
        self.order_as(client, name, false);
    }

    fn order_as(&mut self, client: usize, name: &str, persist: bool) {
        let domain = self.clients[client].domain.id();
        self.m1.freeze(domain, name, persist).expect("it can be frozen");
        self.run();
        assert!(core::mem::take(&mut self.clients[client].ordered), "it was not told");
    }

    /// A whole freeze of a client with these private pages. Gives the pages of the frozen part.
    pub(crate) fn freeze(&mut self, client: usize, name: &str, contents: &[u32]) -> Vec<u64> {
        self.freeze_as(client, name, contents, false)
    }

    /// The same, to be kept on the store's disk or not.
    pub(crate) fn freeze_as(
        &mut self,
        client: usize,
        name: &str,
        contents: &[u32],
        persist: bool,
    ) -> Vec<u64> {
        self.order_as(client, name, persist);
        let pages = contents.len() as u64;
        assert_eq!(self.step(client, RequestBody::Freeze { pages }).0, Status::Ok);
        let mut numbers = Vec::new();
        for some in contents.chunks(CAPTURE_MAX) {
            let (status, pages) = self.capture(client, some);
            assert_eq!(status, Status::Ok);
            numbers.extend(pages[..some.len()].iter().map(|page| u64::from(*page)));
        }
        self.commit(client, numbers[0]);
        numbers
    }

    pub(crate) fn keep(&mut self, client: usize, pages: &[u64]) {
        let mut bitmap = Bitmap::EMPTY;
        for page in pages {
            bitmap.set(u32::try_from(page - FROZEN_FIRST).expect("among the first"));
        }
        let answer = self.step(client, RequestBody::Keep { page: FROZEN_FIRST, bitmap });
        assert_eq!(answer.0, Status::Ok);
    }

    pub(crate) fn commit(&mut self, client: usize, head: u64) {
        let answer = self.step(client, RequestBody::Commit { page: head, standstill: 3_000_000 });
        assert_eq!(answer.0, Status::Ok);
        self.run();
    }
}
