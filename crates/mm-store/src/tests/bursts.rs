//! Journal blocks that are written before the flush which needs them is asked for.

use super::machine::BASE;
use super::model::Value;
use super::power::SMALL;
use super::{formatted, recover};
use crate::host::Tables;
use crate::*;

const BASE_70: Base = Base { pages: 70, ..BASE };

/// A store; what it wants is told by a letter for each command, and `!` for each answer to a flush.
struct Bed<'t> {
    store: Store<'t>,
    overlay: OverlayId,
}

/// Does what the store wants.
fn work(store: &mut Store<'_>) -> String {
    let (mut page, mut wanted) = ([0; BLOCK], String::new());
    while let Some(command) = store.poll(&mut page) {
        let (letter, ticket) = match command {
            Command::Write { ticket, .. } => ('w', ticket),
            Command::Flush { ticket } => ('f', ticket),
        };
        wanted.push(letter);
        store.completed(ticket, Ok(()));
    }
    while store.flushed().is_some() {
        wanted.push('!');
    }
    wanted
}

impl Bed<'_> {
    fn write(&mut self, block: u32) -> String {
        let place = self.store.begin_write(self.overlay, block).expect("room");
        self.store.written(place, crc32c(&Value::page(1)), Ok(())).expect("well");
        work(&mut self.store)
    }

    fn flush(&mut self) -> String {
        self.store.flush(7).expect("few wait");
        work(&mut self.store)
    }
}

fn bed(tables: &mut Tables) -> Bed<'_> {
    let disk = formatted(SMALL.geometry);
    let mut store = recover(&disk, tables, 4).expect("a store");
    work(&mut store);
    let overlay = store.create("web", BASE_70, None, Lifetime::Persistent).expect("room");
    let mut bed = Bed { store, overlay };
    assert_eq!(bed.flush(), "wf!", "the overlay itself");
    bed
}

#[test]
fn who_writes_and_flushes_in_turn_waits_for_the_flush_alone() {
    let mut tables = Tables::new(&SMALL.geometry);
    let mut bed = bed(&mut tables);
    assert_eq!((bed.write(1), bed.flush()), (String::new(), "wf!".into()), "nothing is known of it yet");
    // Few: a checkpoint would be seen, too.
    for block in 2..6 {
        assert_eq!((bed.write(block), bed.flush()), ("w".into(), "f!".into()));
    }
}

#[test]
fn as_many_writes_as_last_time_are_waited_for() {
    let mut tables = Tables::new(&SMALL.geometry);
    let mut bed = bed(&mut tables);
    for round in 0..6 {
        let (first, rest) = if round == 0 { ("", "wf!") } else { ("w", "f!") };
        assert_eq!((bed.write(1), bed.write(2)), (String::new(), String::new()));
        assert_eq!(bed.write(3), first, "round {round}");
        assert_eq!(bed.flush(), rest);
    }
}

#[test]
fn a_wrong_guess_costs_one_journal_block_between_two_flushes() {
    let mut tables = Tables::new(&SMALL.geometry);
    let mut bed = bed(&mut tables);
    bed.write(1);
    bed.flush();
    // Ten this time: after the first it is thought that a flush comes.
    let early: String = (1..11).map(|block| bed.write(block)).collect();
    assert_eq!((early.as_str(), bed.flush().as_str()), ("w", "wf!"));
    // Three, after which none comes for long.
    let early: String = (1..4).map(|block| bed.write(block)).collect();
    assert_eq!((early.as_str(), bed.flush().as_str()), ("", "wf!"));
    // Flushes of nothing are not bursts.
    assert_eq!((bed.flush().as_str(), bed.flush().as_str()), ("!", "!"));
    let early: String = (1..4).map(|block| bed.write(block)).collect();
    assert_eq!((early.as_str(), bed.flush().as_str()), ("w", "f!"));
}

#[test]
fn a_write_that_is_under_way_is_waited_for() {
    let mut tables = Tables::new(&SMALL.geometry);
    let mut bed = bed(&mut tables);
    bed.write(1);
    bed.flush();
    let other = bed.store.begin_write(bed.overlay, 5).expect("room");
    assert_eq!(bed.write(1), "", "it would go into another block");
    bed.store.written(other, 0, Ok(())).expect("well");
    assert_eq!(work(&mut bed.store), "", "two are not as many as last time");
    assert_eq!(bed.flush(), "wf!");
}
