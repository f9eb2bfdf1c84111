use crate::{PageWords, WORDS};

#[test]
fn a_page_is_words() {
    let page = PageWords::new();
    page.store(WORDS - 1, 7);
    assert_eq!(page.load(WORDS - 1), 7);
}
