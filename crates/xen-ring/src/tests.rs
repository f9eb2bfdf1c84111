use std::boxed::Box;
use std::collections::VecDeque;
use std::vec::Vec;

use proptest::prelude::*;

use crate::{Back, ByteRing, Front, Full, PAGE_SIZE, PageWords, RingFault};

fn page() -> &'static PageWords {
    Box::leak(Box::new(PageWords::new()))
}

type TestFront = Front<3, 2>;
type TestBack = Back<3, 2>;
type WideFront = Front<3, 2, 4>;
type WideBack = Back<3, 2, 4>;

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 1;
const RSP_PROD: usize = 2;

/// Lets indices wrap within a test: a ring whose both sides have run for long.
fn ring_at(start: u32) -> (&'static PageWords, TestFront, TestBack) {
    let page = page();
    let mut front = TestFront::init(page);
    let mut back = TestBack::attach(page);
    front.skip_to(start);
    back.skip_to(start);
    (page, front, back)
}

/// The same in so many pages.
fn wide_ring_at(start: u32, pages: usize) -> (&'static PageWords, WideFront, WideBack) {
    let pages: Vec<&'static PageWords> = (0..pages).map(|_| page()).collect();
    let mut front = WideFront::init_pages(&pages).expect("a power of two");
    front.skip_to(start);
    let back = WideBack::attach_pages(&pages).expect("a power of two");
    (pages[0], front, back)
}

#[test]
fn sizes_are_those_of_io_ring_h() {
    assert_eq!(Front::<3, 1>::SLOTS, 256, "netif tx: 12-byte slots");
    assert_eq!(Front::<2, 2>::SLOTS, 256, "netif rx: 8-byte slots");
    assert_eq!(Front::<28, 4>::SLOTS, 32, "blkif on x86_64: 112-byte slots");
    assert_eq!(Back::<32, 32>::SLOTS, 16, "map ring: 128-byte slots");
}

#[test]
fn rings_of_several_pages_have_the_slots_that_fit_in_all_of_them() {
    for (pages, slots) in [(1, 32), (2, 64), (4, 128), (8, 256), (16, 512)] {
        let pages: Vec<&'static PageWords> = (0..pages).map(|_| page()).collect();
        let front = Front::<28, 4, 16>::init_pages(&pages).expect("a power of two");
        let back = Back::<28, 4, 16>::attach_pages(&pages).expect("a power of two");
        assert_eq!((front.slots(), back.slots(), front.free()), (slots, slots, slots), "Linux's __RING_SIZE");
    }
    for pages in [0, 3, 5, 17, 32] {
        let pages: Vec<&'static PageWords> = (0..pages).map(|_| page()).collect();
        assert!(Back::<28, 4, 16>::attach_pages(&pages).is_none());
        assert!(Front::<28, 4, 16>::init_pages(&pages).is_none());
    }
}

#[test]
fn a_backend_goes_on_where_another_left_off() {
    let page = page();
    for start in [0, 77, u32::MAX] {
        let mut front = TestFront::init(page);
        front.skip_to(start);
        front.push_request(&[1, 2, 3]).expect("free");
        let _ = front.publish();
        let mut back = TestBack::attach_pages(&[page]).expect("one page");
        assert_eq!(back.unanswered(), 0);
        assert_eq!(back.pop_request(), Ok(Some([1, 2, 3])));
        back.push_response(&[8, 9]).expect("one was taken");
        let _ = back.publish();
        assert_eq!(front.pop_response(), Ok(Some([8, 9])));
        assert_eq!(front.pop_response(), Ok(None));
    }
}

#[test]
fn slots_cross_from_page_to_page() {
    let pages = [page(), page(), page(), page()];
    let mut front = Front::<28, 4, 16>::init_pages(&pages).expect("four");
    let mut back = Back::<28, 4, 16>::attach_pages(&pages).expect("four");
    let request = |i: u32| core::array::from_fn(|word| i * 100 + u32::try_from(word).expect("small"));
    for i in 0..128 {
        front.push_request(&request(i)).expect("free");
    }
    let _ = front.publish();
    // 64 + 72 * 112 = 8128: the 73rd request has 16 words in the second page, and the rest in the third.
    assert_eq!((pages[1].load(1023), pages[2].load(0)), (7215, 7216));
    for i in 0..128 {
        assert_eq!(back.pop_request(), Ok(Some(request(i))));
    }
    assert_eq!(back.pop_request(), Ok(None));
}

#[test]
fn init_lays_out_an_empty_ring() {
    let page = page();
    page.store(900, 5);
    let _ = TestFront::init(page);
    assert_eq!([0, 1, 2, 3].map(|i| page.load(i)), [0, 1, 0, 1]);
    assert_eq!(page.load(900), 0, "nothing of the page's past is shown to the peer");
}

#[test]
fn either_side_can_own_the_page() {
    let page = page();
    let mut back = TestBack::init(page);
    let mut front = TestFront::attach(page);
    assert_eq!([0, 1, 2, 3].map(|i| page.load(i)), [0, 1, 0, 1]);
    front.push_request(&[4, 5, 6]).expect("free");
    assert!(front.publish());
    assert_eq!(back.pop_request(), Ok(Some([4, 5, 6])));
}

#[test]
fn a_full_ring_refuses_and_takes_again_after_a_response() {
    let (_, mut front, mut back) = ring_at(u32::MAX - 5);
    for i in 0..TestFront::SLOTS {
        front.push_request(&[i, i, i]).expect("a slot is free");
    }
    assert_eq!(front.push_request(&[0; 3]), Err(Full));
    assert_eq!(back.push_response(&[0; 2]), Err(Full), "nothing was taken yet");
    let _ = front.publish();
    assert_eq!(back.pop_request(), Ok(Some([0; 3])));
    assert_eq!(back.push_response(&[9, 9]), Ok(()));
    assert_eq!(front.pop_response(), Ok(None), "not published");
    let _ = back.publish();
    assert_eq!(front.pop_response(), Ok(Some([9, 9])));
    assert_eq!(front.push_request(&[7; 3]), Ok(()));
}

#[test]
fn notify_only_when_asked() {
    let (page, mut front, mut back) = ring_at(0);
    assert!(!front.publish(), "nothing new");
    front.push_request(&[1; 3]).expect("free");
    assert!(front.publish(), "req_event is 1 at first");
    front.push_request(&[2; 3]).expect("free");
    assert!(!front.publish(), "the backend is still busy with the first");
    assert!(back.final_check(), "two are there already");
    while back.pop_request().expect("sane").is_some() {}
    assert!(!back.final_check());
    assert_eq!(page.load(REQ_EVENT), 3);
    front.push_request(&[3; 3]).expect("free");
    assert!(front.publish());
}

#[test]
fn a_backend_that_answers_too_much_is_a_fault() {
    let (page, mut front, _) = ring_at(10);
    front.push_request(&[1; 3]).expect("free");
    for lie in [11, 12, 10 + TestFront::SLOTS, 9, u32::MAX] {
        page.store(RSP_PROD, lie);
        assert_eq!(front.pop_response(), Err(RingFault { ours: 10, theirs: lie }), "not even published");
    }
    let _ = front.publish();
    page.store(RSP_PROD, 12);
    assert_eq!(front.pop_response(), Err(RingFault { ours: 10, theirs: 12 }));
    page.store(RSP_PROD, 11);
    assert_eq!(
        front.pop_response(),
        Ok(Some([1, 1])),
        "one request, one answer: its slot, whatever it holds"
    );
}

#[test]
fn a_frontend_that_asks_too_much_or_takes_back_is_a_fault() {
    let (page, _, mut back) = ring_at(10);
    for lie in [9, 10 + TestBack::SLOTS + 1, u32::MAX] {
        page.store(REQ_PROD, lie);
        assert_eq!(back.pop_request(), Err(RingFault { ours: 10, theirs: lie }));
    }
    page.store(REQ_PROD, 12);
    assert!(back.pop_request().expect("sane").is_some());
    assert!(back.pop_request().expect("sane").is_some());
    page.store(REQ_PROD, 11);
    assert_eq!(back.pop_request(), Err(RingFault { ours: 12, theirs: 11 }), "took one back");
    page.store(REQ_PROD, 10 + TestBack::SLOTS);
    assert!(back.pop_request().expect("sane").is_some(), "a full ring is no fault");
}

#[test]
fn reading_and_writing_never_leave_the_page() {
    let page = PageWords::new();
    let mut bytes = [1; 8];
    for offset in [PAGE_SIZE - 7, PAGE_SIZE, usize::MAX, usize::MAX - 7] {
        assert!(!page.read(offset, &mut bytes));
        assert!(!page.write(offset, &bytes));
    }
    assert_eq!(bytes, [1; 8]);
    assert!(page.write(PAGE_SIZE - 8, &bytes));
    assert!(page.read(PAGE_SIZE, &mut []), "nothing, at the end");
}

#[test]
fn hostile_byte_ring_indices_are_faults() {
    let page = page();
    for (layout, cons, prod) in [
        (ByteRing::XENSTORE_REPLY, 514, 515),
        (ByteRing::CONSOLE_OUT, 770, 771),
        (ByteRing::CONSOLE_IN, 768, 769),
    ] {
        page.store(cons, 77);
        page.store(prod, 77);
        let mut consumer = layout.consumer(page);
        let mut producer = layout.producer(page);
        for lie in [78 + layout.size(), 76, u32::MAX] {
            page.store(prod, lie);
            assert_eq!(consumer.read(&mut [0; 4]), Err(RingFault { ours: 77, theirs: lie }));
        }
        for lie in [78, 76_u32.wrapping_sub(layout.size()), u32::MAX / 2] {
            page.store(cons, lie);
            assert_eq!(producer.write(&[0; 4]), Err(RingFault { ours: 77, theirs: lie }));
        }
        page.store(cons, 77_u32.wrapping_sub(layout.size()));
        assert_eq!(producer.write(&[0; 4]), Ok(0), "full is no fault");
    }
}

/// What a ring's two sides can do.
#[derive(Clone, Debug)]
enum Step {
    PushRequest(u32),
    PublishRequests,
    PopRequest,
    PushResponse(u32),
    PublishResponses,
    PopResponse,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => any::<u32>().prop_map(Step::PushRequest),
        2 => Just(Step::PublishRequests),
        3 => Just(Step::PopRequest),
        3 => any::<u32>().prop_map(Step::PushResponse),
        2 => Just(Step::PublishResponses),
        3 => Just(Step::PopResponse),
    ]
}

proptest! {
    /// The ring does what two queues would do, wherever its indices stand.
    #[test]
    fn ring_is_two_queues(start in prop_oneof![Just(0), Just(u32::MAX - 3), any::<u32>()],
                          pages in prop_oneof![Just(1_usize), Just(2), Just(4)],
                          steps in prop::collection::vec(step(), 0..600)) {
        let (_, mut front, mut back) = wide_ring_at(start, pages);
        let (mut asked, mut shown, mut taken) = (VecDeque::new(), VecDeque::new(), 0_u32);
        let (mut answered, mut back_shown, mut in_flight) = (VecDeque::new(), VecDeque::new(), 0_u32);
        for step in steps {
            match step {
                Step::PushRequest(v) => {
                    let expected = if in_flight == front.slots() { Err(Full) } else { Ok(()) };
                    prop_assert_eq!(front.push_request(&[v, !v, 1]), expected);
                    if expected.is_ok() {
                        asked.push_back(v);
                        in_flight += 1;
                    }
                }
                Step::PublishRequests => {
                    let _ = front.publish();
                    shown.append(&mut asked);
                }
                Step::PopRequest => {
                    let expected = shown.pop_front().map(|v: u32| [v, !v, 1]);
                    taken += u32::from(expected.is_some());
                    prop_assert_eq!(back.pop_request(), Ok(expected));
                }
                Step::PushResponse(v) => {
                    let expected = if taken == 0 { Err(Full) } else { Ok(()) };
                    prop_assert_eq!(back.push_response(&[v, !v]), expected);
                    if expected.is_ok() {
                        taken -= 1;
                        answered.push_back(v);
                    }
                }
                Step::PublishResponses => {
                    let _ = back.publish();
                    back_shown.append(&mut answered);
                }
                Step::PopResponse => {
                    let expected = back_shown.pop_front().map(|v: u32| [v, !v]);
                    in_flight -= u32::from(expected.is_some());
                    prop_assert_eq!(front.pop_response(), Ok(expected));
                }
            }
            prop_assert_eq!(front.free(), front.slots() - in_flight);
            prop_assert_eq!(back.unanswered(), taken);
        }
    }

    /// Whatever a peer writes into header and slots, each call returns, and never yields more entries than the ring has.
    #[test]
    fn garbage_in_the_page_is_survived(writes in prop::collection::vec((0_usize..32, any::<u32>()), 0..200)) {
        let (page, mut front, mut back) = wide_ring_at(0, 2);
        let mut popped = 0;
        for (word, value) in writes {
            page.store(word, value);
            let _ = front.push_request(&[value; 3]);
            let _ = front.publish();
            let _ = front.final_check();
            let _ = front.pop_response();
            while let Ok(Some(_)) = back.pop_request() {
                popped += 1;
                prop_assert!(popped <= back.slots(), "nothing was answered, so no slot can be reused");
            }
        }
    }

    /// Unaligned copies agree with a plain array of bytes.
    #[test]
    fn page_is_a_byte_array(ops in prop::collection::vec((0_usize..PAGE_SIZE + 8, prop::collection::vec(any::<u8>(), 0..40)), 1..60)) {
        let page = PageWords::new();
        let mut plain = vec![0_u8; PAGE_SIZE];
        for (offset, data) in ops {
            let fits = offset + data.len() <= PAGE_SIZE;
            prop_assert_eq!(page.write(offset, &data), fits);
            if fits {
                plain[offset..offset + data.len()].copy_from_slice(&data);
            }
            let mut back = vec![0xAA; data.len()];
            prop_assert_eq!(page.read(offset, &mut back), fits);
            if fits {
                prop_assert_eq!(&back[..], &plain[offset..offset + data.len()]);
            }
        }
        let mut whole = vec![0; PAGE_SIZE];
        prop_assert!(page.read(0, &mut whole));
        prop_assert_eq!(&whole, &plain);
        let copy = PageWords::new();
        copy.copy_from(&page);
        prop_assert!(copy.read(0, &mut whole));
        prop_assert_eq!(whole, plain);
    }

    /// A byte ring is a queue of bytes with a bound, wherever its indices start.
    #[test]
    fn byte_ring_is_a_queue(start in prop_oneof![Just(0), Just(u32::MAX - 100), any::<u32>()],
                            ops in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..1500), 0_usize..1500), 1..30)) {
        let page = page();
        page.store(512, start);
        page.store(513, start);
        let mut producer = ByteRing::XENSTORE_REQUEST.producer(page);
        let mut consumer = ByteRing::XENSTORE_REQUEST.consumer(page);
        let mut queue: VecDeque<u8> = VecDeque::new();
        for (data, want) in ops {
            let expected = data.len().min(1024 - queue.len());
            prop_assert_eq!(producer.write(&data), Ok(expected));
            queue.extend(&data[..expected]);
            let mut out = vec![0; want];
            let n = consumer.read(&mut out).expect("a sane peer");
            prop_assert_eq!(n, want.min(queue.len()));
            let expected: Vec<u8> = queue.drain(..n).collect();
            prop_assert_eq!(&out[..n], &expected[..]);
        }
    }
}
