//! Words that claim to be requests, responses and info pages.

use mm_proto::{InfoPage, Request, Response, SLOT_WORDS};

/// What decodes is the same after it was encoded again.
pub fn run(data: &[u8]) {
    let mut words = [0; SLOT_WORDS];
    for (word, bytes) in words.iter_mut().zip(data.chunks(4)) {
        let mut whole = [0; 4];
        whole[..bytes.len()].copy_from_slice(bytes);
        *word = u32::from_le_bytes(whole);
    }
    if let Ok(request) = Request::decode(&words) {
        assert_eq!(Request::decode(&request.encode()), Ok(request));
    }
    if let Ok(response) = Response::decode(&words) {
        assert_eq!(Response::decode(&response.encode()), Ok(response));
        assert!(response.bitmap.iter().count() == response.bitmap.count() as usize);
    }
    let page: &[u32; InfoPage::WORDS] = words.first_chunk().expect("a slot is longer");
    for page in [page, &with_magic(page)] {
        if let Ok(info) = InfoPage::decode(page) {
            assert_eq!(InfoPage::decode(&info.encode()), Ok(info));
            assert!(info.version() >= mm_proto::VERSION_MIN && info.version() <= mm_proto::VERSION);
        }
    }
}

/// So that the rest of an info page is reached.
fn with_magic(page: &[u32; InfoPage::WORDS]) -> [u32; InfoPage::WORDS] {
    let mut page = *page;
    page[0] = u32::from_le_bytes(*b"M1mm");
    page[1] %= 4;
    page
}
