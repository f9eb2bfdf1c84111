//! blkfront and netfront on a fake Xen, their backends in C.

use smoltcp::phy::{Device, RxToken, TxToken};
use smoltcp::time::Instant;
use xen::fake::{FakeDomain, FakeXen};
use xen::grant::RefPool;
use xen_drivers::blkfront::{BlkFront, Failure, Operation};
use xen_drivers::netfront::NetFront;
use xen_drivers::{Frame, Platform};
use xenstore::fake::{FakeXenstored, Flavour, Perm, Right};
use xenstore::{Client, Connection, Message};

use crate::peer::Peer;

/// A frontend's domain, with one device whose backend connects at once.
struct Bed {
    domain: FakeDomain,
    platform: Platform,
    server: FakeXenstored,
    connection: Connection,
    back: String,
}

impl Bed {
    fn new(class: &str) -> Self {
        let xen = FakeXen::new();
        let (domain, backend) = (xen.domain(64, 5), xen.domain(1, 1));
        domain.grants().grow_to(5).expect("it has as many");
        let platform = Platform {
            hypervisor: Box::leak(Box::new(domain.clone())),
            events: domain.events(),
            grants: domain.grants(),
            refs: Box::leak(Box::new(RefPool::new())),
        };
        let (store, _) = domain.page();
        let mut server = FakeXenstored::new(Flavour::Ocaml);
        server.introduce(domain.id().0, store);
        let (ours, theirs) = (domain.id().0, backend.id().0);
        let front = format!("/local/domain/{ours}/device/{class}/0");
        let back = format!("/local/domain/{theirs}/backend/{class}/{ours}/0");
        let none = |domain| Perm { domain, right: Right::None };
        let read = |domain| Perm { domain, right: Right::Read };
        server.set_with(&front, "", &[none(ours), read(theirs)]);
        server.set_with(&back, "", &[none(theirs), read(ours)]);
        for (key, value) in
            [("backend", back.as_str()), ("backend-id", &theirs.to_string()), ("mac", "00:16:3e:01:02:03")]
        {
            server.set(&format!("{front}/{key}"), value);
        }
        for (key, value) in [("sectors", "1000"), ("info", "0"), ("feature-flush-cache", "1"), ("state", "2")]
        {
            server.set(&format!("{back}/{key}"), value);
        }
        Self { domain, platform, server, connection: Connection::new(store), back }
    }

    fn frame(&self) -> Frame {
        let (words, mfn) = self.domain.page();
        Frame { words, mfn }
    }

    /// Until the driver is connected.
    fn connect<D>(
        &mut self,
        driver: &mut D,
        hear: impl Fn(&mut D, &Message<'_>) -> bool,
        advance: impl Fn(&mut D, &mut Client, u64),
    ) {
        for turn in 0..100 {
            while let Some(incoming) = self.connection.poll().expect("xenstored is honest") {
                hear(driver, &incoming.message);
            }
            advance(driver, &mut self.connection.client, 1);
            self.connection.flush().expect("xenstored is honest");
            self.server.run();
            if turn == 50 {
                self.server.set(&format!("{}/state", self.back), "4");
            }
        }
    }
}

#[test]
fn blkback_reads_what_blkfront_asks_and_is_understood() {
    let mut bed = Bed::new("vbd");
    let ring = bed.frame();
    let mut disk = BlkFront::new(bed.platform, 0, ring, &mut []);
    bed.connect(
        &mut disk,
        |disk, message| disk.on_message(message),
        |disk, client, now| disk.advance(client, now),
    );
    let pages: Vec<Frame> = (0..3).map(|_| bed.frame()).collect();
    disk.submit(Operation::Read, 8, &pages, 70).expect("connected");
    disk.submit(Operation::Write, 0x198, &pages[..1], 71).expect("connected");
    disk.submit(Operation::Flush, 0, &[], 72).expect("connected");
    disk.publish_requests();
    // The ring is the first thing that is lent, so the pages' references follow its.
    let first = 9;
    assert_eq!(
        Peer::get().meets("blk", ring.words),
        format!(
            "slots 32\nop 0 sector 8 [{} 0-7] [{} 0-7] [{} 0-7]\nop 1 sector 408 [{} 0-7]\nop 3 sector 0\nnotify 1 more 0\n",
            first,
            first + 1,
            first + 2,
            first + 3
        )
    );
    for (token, outcome) in [(70, Ok(())), (71, Err(Failure::Disk)), (72, Err(Failure::Unsupported))] {
        let completion = disk.next_completion().expect("it was answered");
        assert_eq!((completion.token, completion.outcome), (token, outcome));
    }
    assert_eq!(disk.next_completion(), None);
    assert_eq!(disk.faults(), 0);
    assert_eq!(bed.platform.refs.taken(), 1, "only the ring is lent now");
}

#[test]
fn netback_sends_and_receives_what_netfront_says() {
    let mut bed = Bed::new("vif");
    let rings = [bed.frame(), bed.frame()];
    let (tx, rx): (Vec<Frame>, Vec<Frame>) =
        ((0..3).map(|_| bed.frame()).collect(), (0..6).map(|_| bed.frame()).collect());
    let mut card = NetFront::new(bed.platform, 0, rings, &tx, &rx);
    bed.connect(
        &mut card,
        |card, message| card.on_message(message),
        |card, client, now| card.advance(client, now),
    );
    for len in [60_u8, 200] {
        let token = card.transmit(Instant::ZERO).expect("a free page");
        token.consume(usize::from(len), |bytes| bytes.fill(len));
    }
    card.flush();
    // tx pages are lent first, then their ring, then rx pages.
    assert_eq!(
        Peer::get().meets("tx", rings[0].words),
        "slots 256\ngref 8 offset 0 flags 0 id 0 size 60\ngref 9 offset 0 flags 0 id 1 size 200\nnotify 1\n"
    );
    let mut sent = [0; 200];
    assert!(tx[1].words.read(0, &mut sent));
    assert_eq!(sent, [200; 200]);
    for (number, frame) in (1..).zip(&rx) {
        let filled = [number; 100];
        assert!(frame.words.write(2, &filled));
    }
    let said: String = (0..6).map(|id| format!("id {id} gref {}\n", 12 + id)).collect();
    assert_eq!(Peer::get().meets("rx", rings[1].words), format!("slots 256\n{said}notify 1\n"));
    let mut frames = Vec::new();
    while let Some((frame, _)) = card.receive(Instant::ZERO) {
        frames.push(frame.consume(|bytes| (bytes.len(), bytes[0])));
    }
    assert_eq!(frames, [(60, 1), (61, 2), (65, 6)], "frames in two pieces or with an error are dropped");
    assert_eq!((card.counters().rx_dropped, card.counters().faults), (3, 0));
}

#[test]
fn a_grant_entry_is_what_xen_reads() {
    use xen::{Access, DomId, GrantRef, GrantTable, Mfn, PageWords};

    struct Anything;
    impl xen::grant::GrantArea for Anything {
        fn grow(&self, _: u32) -> Result<(), xen::Errno> {
            Ok(())
        }
        fn may_share(&self, _: Mfn) -> bool {
            true
        }
    }
    let area: &'static [PageWords] = Box::leak(Box::new([PageWords::new()]));
    let table = GrantTable::new(area, &Anything);
    table.grow_to(1).expect("one frame");
    table.permit(GrantRef(8), DomId(7), Mfn(0x12345), Access::ReadOnly).expect("free");
    table.permit(GrantRef(511), DomId(0x7fef), Mfn(0xffff_fffe), Access::ReadWrite).expect("free");
    table.permit(GrantRef(9), DomId(3), Mfn(1), Access::ReadWrite).expect("free");
    table.try_revoke(GrantRef(9)).expect("not in use");
    assert_eq!(
        Peer::get().meets("grant", &area[0]),
        "8: flags 5 domid 7 frame 74565\n511: flags 1 domid 32751 frame 4294967294\n"
    );
}
