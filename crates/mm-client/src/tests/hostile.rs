//! An M1 that says anything: the client finds fault, or goes on; it never panics and never forgets its own limits.

use mm_proto::{RING_SLOTS, Response};
use proptest::prelude::*;

use super::{SETTINGS, rows};
use crate::{Event, Lookup, MapClient};

#[derive(Clone, Debug)]
enum Deed {
    Ask { page: u64 },
    Copy { page: u64 },
    Next,
    Answer { which: u8, status: u32, page: u64, reference: u32, order: u32, bits: u64 },
    Words { words: Vec<u32> },
    Mapped { page: u64 },
    Unmapped { page: u64 },
    Failed { page: u64 },
    Revoked,
    GiveBack { windows: u32 },
    Judge { now: u64, heartbeat: u64 },
}

fn deed() -> impl Strategy<Value = Deed> {
    let page = || prop_oneof![20 => 0u64..600, 1 => any::<u64>()];
    let answer = (any::<u8>(), 0u32..9, page(), 0u32..5000, 0u32..10, any::<u64>());
    prop_oneof![
        6 => page().prop_map(|page| Deed::Ask { page }),
        1 => page().prop_map(|page| Deed::Copy { page }),
        4 => Just(Deed::Next),
        12 => answer.prop_map(|(which, status, page, reference, order, bits)| {
            Deed::Answer { which, status, page, reference, order, bits }
        }),
        1 => proptest::collection::vec(any::<u32>(), 32).prop_map(|words| Deed::Words { words }),
        2 => page().prop_map(|page| Deed::Mapped { page }),
        2 => page().prop_map(|page| Deed::Unmapped { page }),
        1 => page().prop_map(|page| Deed::Failed { page }),
        1 => Just(Deed::Revoked),
        1 => any::<u32>().prop_map(|windows| Deed::GiveBack { windows }),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(now, heartbeat)| Deed::Judge { now, heartbeat }),
    ]
}

fn halves(value: u64) -> [u32; 2] {
    [value, value >> 32].map(|half| u32::try_from(half & 0xffff_ffff).unwrap())
}

proptest! {
    #[test]
    fn whatever_m1_says_the_client_keeps_its_limits(
        size in 0usize..40,
        deeds in proptest::collection::vec(deed(), 1..300),
    ) {
        let mut client = MapClient::new(rows(size), SETTINGS);
        let mut outstanding = Vec::new();
        if let Some(hello) = client.next_request(0) {
            let answer = Response { page: 512, ..Response::bare(hello.id, mm_proto::Status::Ok) };
            prop_assert_eq!(client.on_response(&answer), Ok(Event::Ready { window: 512 }));
        }
        for deed in deeds {
            match deed {
                Deed::Ask { page } => outstanding.extend(client.ask(page, 1, 5)),
                Deed::Copy { page } => outstanding.extend(client.copy(page, 1, 5)),
                Deed::Next => outstanding.extend(client.next_request(5)),
                Deed::Answer { which, status, page, reference, order, bits } => {
                    if outstanding.is_empty() {
                        continue;
                    }
                    let id = outstanding.swap_remove(usize::from(which) % outstanding.len()).id;
                    let mut words = [0; 32];
                    let page = page >> order << order;
                    (words[0], words[1]) = (id, status << 16);
                    [words[2], words[3]] = halves(page);
                    (words[4], words[5]) = (reference, 1 << order);
                    let [low, high] = halves(bits);
                    words[16..].fill(low | high);
                    if let Ok(response) = Response::decode(&words)
                        && let Ok(Event::Granted { page }) = client.on_response(&response)
                    {
                        prop_assert!(matches!(client.lookup(page), Lookup::Have(_)));
                    }
                }
                Deed::Words { words } => {
                    if let Ok(response) = Response::decode(&words.try_into().unwrap()) {
                        let _ = client.on_response(&response);
                        outstanding.retain(|request| request.id != response.id);
                    }
                }
                Deed::Mapped { page } => client.mapped(page),
                Deed::Unmapped { page } => client.unmapped(page),
                Deed::Failed { page } => {
                    client.map_failed(page);
                    prop_assert_eq!(client.lookup(page), Lookup::Missing);
                }
                Deed::Revoked => client.revoked(),
                Deed::GiveBack { windows } => client.give_back(windows),
                Deed::Judge { now, heartbeat } => {
                    client.judge(now, heartbeat);
                }
            }
            prop_assert!(outstanding.len() <= RING_SLOTS as usize);
            prop_assert!(client.windows() as usize <= size);
            let mut ids: Vec<_> = outstanding.iter().map(|request| request.id).collect();
            ids.sort_unstable();
            ids.dedup();
            prop_assert_eq!(ids.len(), outstanding.len());
        }
    }
}
