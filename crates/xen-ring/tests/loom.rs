//! No event is lost: all interleavings of one side that publishes and one that is about to sleep.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p xen-ring --release --test loom`
#![cfg(loom)]

use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;
use xen_ring::{Back, Front, PageWords};

/// A ring of four one-word slots: what fits in the short pages under loom.
type F = Front<1, 1>;
type B = Back<1, 1>;

/// An event channel: sending sets it pending, waiting takes that. A lost event is a deadlock, which loom reports.
#[derive(Default)]
struct Channel {
    pending: Mutex<bool>,
    rings: Condvar,
}

impl Channel {
    fn send(&self) {
        *self.pending.lock().expect("no panic elsewhere") = true;
        self.rings.notify_one();
    }

    fn wait(&self) {
        let mut pending = self.pending.lock().expect("no panic elsewhere");
        while !*pending {
            pending = self.rings.wait(pending).expect("no panic elsewhere");
        }
        *pending = false;
    }
}

fn ring() -> (F, B) {
    let page: &'static PageWords = Box::leak(Box::new(PageWords::new()));
    (F::init(page), B::attach(page))
}

#[test]
fn the_backend_wakes_for_every_request() {
    loom::model(|| {
        let (mut front, mut back) = ring();
        let channel = Arc::new(Channel::default());
        let bell = channel.clone();
        let sender = thread::spawn(move || {
            for value in 1..=2 {
                front.push_request(&[value]).expect("the ring has four slots");
                if front.publish() {
                    bell.send();
                }
            }
        });
        let mut expected = 1;
        while expected <= 2 {
            match back.pop_request().expect("an honest peer") {
                Some(words) => {
                    assert_eq!(words, [expected], "what was published is seen whole");
                    expected += 1;
                }
                None if back.final_check() => {}
                None => channel.wait(),
            }
        }
        sender.join().expect("no panic");
    });
}

#[test]
fn the_frontend_wakes_for_every_response() {
    loom::model(|| {
        let (mut front, mut back) = ring();
        front.push_request(&[1]).expect("free");
        front.push_request(&[2]).expect("free");
        let _ = front.publish();
        let channel = Arc::new(Channel::default());
        let bell = channel.clone();
        let answerer = thread::spawn(move || {
            while let Some([value]) = back.pop_request().expect("an honest peer") {
                back.push_response(&[value + 10]).expect("one was taken");
                if back.publish() {
                    bell.send();
                }
            }
        });
        let mut expected = 11;
        while expected <= 12 {
            match front.pop_response().expect("an honest peer") {
                Some(words) => {
                    assert_eq!(words, [expected]);
                    expected += 1;
                }
                None if front.final_check() => {}
                None => channel.wait(),
            }
        }
        answerer.join().expect("no panic");
    });
}
