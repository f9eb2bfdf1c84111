use super::*;

#[test]
fn every_request_survives_the_ring_and_has_its_golden_words() {
    let bodies = [
        (RequestBody::Hello { version: 1, window: 512 }, [1, 0, 0, 1, 512]),
        (RequestBody::Grant { page: 0x1_0000_0002, wanted: 16 }, [2, 2, 1, 0, 16]),
        (RequestBody::Copy { page: 7, reference: 99 }, [3, 7, 0, 99, 0]),
        (RequestBody::Release { reference: 64, count: 16 }, [4, 0, 0, 64, 16]),
        (RequestBody::Listen, [5, 0, 0, 0, 0]),
        (RequestBody::RevokeAck { reference: 64, count: 512 }, [6, 0, 0, 64, 512]),
        (
            RequestBody::Report {
                written: 1,
                kernel: 2,
                mapped: 3,
                local_faults: 4,
                cow_breaks: 5,
                ahead: 6,
                ahead_used: 7,
                reserve: 8,
                populate_failed: 1 << 40,
            },
            [7, 0, 0, 0, 0],
        ),
        (RequestBody::Freeze { pages: 0x1_0000_0002 }, [8, 2, 1, 0, 0]),
        (
            RequestBody::Capture { count: 16, references: core::array::from_fn(|i| i as u32 + 9) },
            [9, 0, 0, 0, 16],
        ),
        (
            RequestBody::Keep { page: FROZEN_FIRST + 512, bitmap: Bitmap([1, 2, 3, 4, 5, 6, 7, 1 << 63]) },
            [10, 0x8000_0200, 0, 0, 0],
        ),
        (RequestBody::Commit { page: FROZEN_FIRST + 3, standstill: 1 << 35 }, [11, 0x8000_0003, 0, 0, 0]),
        (RequestBody::Abort { reason: AbortReason::Secret }, [12, 0, 0, 0, 2]),
        (RequestBody::Hot { page: 1024, bitmap: Bitmap::first(7) }, [13, 1024, 0, 0, 0]),
        (RequestBody::Thawed { duration: 1 << 33, connected: 5 }, [14, 0, 0, 0, 0]),
    ];
    for (index, (body, golden)) in bodies.into_iter().enumerate() {
        let request = Request { id: 1000 + index as u32, body };
        let words = request.encode();
        assert_eq!(words[0], 1000 + index as u32);
        assert_eq!(words[1..6], golden, "{body:?}");
        assert_eq!(Request::decode(&words), Ok(request));
    }
}

#[test]
fn responses_survive_the_ring() {
    for status in [
        Status::Ok,
        Status::CopyInstead,
        Status::ReadError,
        Status::OutOfRange,
        Status::BadReference,
        Status::Freeze,
        Status::NoRoom,
    ] {
        let response = Response {
            id: 3,
            status,
            page: 1 << 40,
            reference: 8,
            count: 512,
            timing: Timing { received: u64::MAX, replied: 5 },
            bitmap: Bitmap([1, 2, 3, 4, 5, 6, 7, 1 << 63]),
        };
        assert_eq!(Response::decode(&response.encode()), Ok(response));
    }
}

#[test]
fn what_is_no_message_is_refused_by_name() {
    let words = |operation, reference, count| {
        let mut words = [0; SLOT_WORDS];
        (words[1], words[4], words[5]) = (operation, reference, count);
        words
    };
    assert_eq!(Request::decode(&words(0, 0, 0)), Err(DecodeError::UnknownOperation(0)));
    assert_eq!(Request::decode(&words(15, 0, 0)), Err(DecodeError::UnknownOperation(15)));
    assert_eq!(Request::decode(&words(1, 1, 3)), Err(DecodeError::BadWindow));
    assert_eq!(Request::decode(&words(1, 1, 1024)), Err(DecodeError::BadWindow));
    assert_eq!(Request::decode(&words(2, 0, 0)), Err(DecodeError::BadRun));
    assert_eq!(Request::decode(&words(4, 1, 513)), Err(DecodeError::BadRun));
    assert_eq!(Request::decode(&words(6, u32::MAX, 1)), Err(DecodeError::BadRun));
    assert_eq!(Request::decode(&words(9, 0, 0)), Err(DecodeError::BadRun));
    assert_eq!(Request::decode(&words(9, 0, 17)), Err(DecodeError::BadRun));
    assert_eq!(Request::decode(&words(10, 0, 0)), Err(DecodeError::BadPage), "of the volume");
    assert_eq!(Request::decode(&words(11, 0, 0)), Err(DecodeError::BadPage));
    assert_eq!(Request::decode(&words(12, 0, 9)), Err(DecodeError::UnknownReason(9)));
    let mut unaligned = words(13, 0, 0);
    unaligned[2] = 3;
    assert_eq!(Request::decode(&unaligned), Err(DecodeError::BadPage));
    assert_eq!(Response::decode(&words(10 << 16, 0, 0)), Err(DecodeError::UnknownStatus(10)));
    assert_eq!(Response::decode(&words(0, u32::MAX, 2)), Err(DecodeError::BadRun));
}

#[test]
fn the_info_page_survives_and_refuses_what_it_does_not_know() {
    let info = InfoPage {
        version_min: 1,
        version_max: 3,
        copy_only: true,
        epoch: u64::MAX - 1,
        heartbeat: 1 << 33,
        pages: 12345,
        window: 512,
        identity: core::array::from_fn(|i| i as u8),
        snapshot: Some(SnapshotInfo { head: 0x8000_0001, hot: 0, identity: [7; 16] }),
    };
    let words = info.encode();
    assert_eq!(words[0].to_le_bytes(), *b"M1mm");
    assert_eq!(InfoPage::decode(&words), Ok(info));
    assert_eq!(info.version(), 2);
    let mut older = words;
    older[2] = 1;
    assert_eq!(InfoPage::decode(&older).unwrap().snapshot, None, "version 1 had no such words");
    assert_eq!(InfoPage::decode(&older).unwrap().version(), 1);
    assert_eq!(InfoPage::decode(&[0; InfoPage::WORDS]), Err(InfoError::BadMagic));
    let mut newer = words;
    (newer[1], newer[2]) = (3, 3);
    assert_eq!(InfoPage::decode(&newer), Err(InfoError::NoCommonVersion { min: 3, max: 3 }));
}

#[test]
fn a_bitmap_ignores_what_lies_beyond_its_window() {
    let mut bits = Bitmap::first(3);
    bits.set(511);
    bits.set(512);
    bits.clear(600);
    assert!(!bits.get(512));
    assert_eq!(bits.iter().collect::<Vec<_>>(), [0, 1, 2, 511]);
    assert_eq!(bits.count(), 4);
    assert_eq!(Bitmap::first(9999).count(), 512);
}

#[test]
fn the_answer_to_a_capture_names_its_pages() {
    let pages = core::array::from_fn(|i| 0x8000_0000 + i as u32);
    let response = Response::bare(1, Status::Ok).with_captured(&pages);
    assert_eq!(Response::decode(&response.encode()).unwrap().captured(), pages);
}

#[test]
fn the_hot_page_survives_and_merges() {
    let mut hot = HotPage::new();
    assert!(hot.add(512, &Bitmap::first(3)));
    assert!(!hot.add(512, &Bitmap::first(2)), "nothing new");
    assert!(hot.add(512, &Bitmap::first(4)));
    assert!(!hot.add(7, &Bitmap::first(1)), "no multiple of 512");
    assert!(!hot.add(1024, &Bitmap::EMPTY));
    for run in 1..60 {
        assert!(hot.add(0x8000_0000 + run * 512, &Bitmap([0, 0, 0, 0, 0, 0, 0, 1 << 63])));
    }
    assert!(!hot.add(0, &Bitmap::first(1)), "no room");
    assert_eq!((hot.pages(), hot.iter().count()), (4 + 59, 60));
    let words: Vec<u32> = (0..HotPage::WORDS).map(|index| hot.word(index)).collect();
    assert_eq!(words[..4], [60, 512, 0xf, 0]);
    assert_eq!((words[18], words[34], words[1020], words[1021]), (0x8000_0200, 1 << 31, 1 << 31, 0));
    assert_eq!(HotPage::decode(|index| words[index]), hot);
}

#[test]
fn a_hot_page_of_anything_is_read_without_harm() {
    assert_eq!(HotPage::decode(|_| 0), HotPage::new());
    assert_eq!(HotPage::decode(|_| u32::MAX), HotPage::new(), "no page there is a multiple of 512");
    let many = HotPage::decode(|index| index as u32 * 512);
    assert_eq!(many.iter().count(), 0, "no entry is counted in word 0");
    let many = HotPage::decode(|index| if index == 0 { 1000 } else { index as u32 * 512 });
    assert_eq!(many.iter().count(), 60);
}
