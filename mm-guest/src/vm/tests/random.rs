//! Random sequences of calls against the model: every byte that the program could read is compared.

use proptest::prelude::*;

use super::model::{Kind, Model};
use super::*;

/// Pages that the calls work on, from here on.
const FIRST: u64 = BASE / PAGE_SIZE;
const AREA: u64 = 48;
/// Most pages of the file in memory.
const FILE: u64 = 8;

#[derive(Clone, Debug)]
enum Call {
    Map { page: u64, count: u64, kind: Kind, rights: u8 },
    MapIfFree { page: u64, count: u64, rights: u8 },
    Unmap { page: u64, count: u64 },
    Protect { page: u64, count: u64, rights: u8 },
    Move { page: u64, old: u64, to: u64, new: u64 },
    Resize { page: u64, old: u64, new: u64 },
    Write { at: u64, data: Vec<u8> },
    Read { at: u64, length: u64 },
    Forget { page: u64, count: u64 },
    WriteFile { at: u64, data: Vec<u8> },
    Truncate { pages: u64 },
    Revoke { page: u64, count: u64 },
}

fn kind() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Anonymous),
        (0..VOLUME - 16).prop_map(Kind::Volume),
        (0..FILE, any::<bool>()).prop_map(|(page, shared)| Kind::Stored(page, shared)),
    ]
}

fn rights() -> impl Strategy<Value = u8> {
    prop_oneof![3 => Just(3), 1 => Just(1), 1 => Just(0), 1 => Just(5), 1 => Just(7), 1 => Just(2)]
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => proptest::collection::vec(any::<u8>(), 1..40), 1 => proptest::collection::vec(any::<u8>(), 5000)]
}

fn call() -> impl Strategy<Value = Call> {
    let page = || FIRST..FIRST + AREA;
    let count = || 1..12_u64;
    let byte = || FIRST * PAGE_SIZE..(FIRST + AREA) * PAGE_SIZE;
    prop_oneof![
        4 => (page(), count(), kind(), rights())
            .prop_map(|(page, count, kind, rights)| Call::Map { page, count, kind, rights }),
        1 => (page(), count(), rights()).prop_map(|(page, count, rights)| Call::MapIfFree { page, count, rights }),
        2 => (page(), count()).prop_map(|(page, count)| Call::Unmap { page, count }),
        2 => (page(), count(), rights()).prop_map(|(page, count, rights)| Call::Protect { page, count, rights }),
        2 => (page(), count(), page(), count()).prop_map(|(page, old, to, new)| Call::Move { page, old, to, new }),
        1 => (page(), count(), count()).prop_map(|(page, old, new)| Call::Resize { page, old, new }),
        6 => (byte(), data()).prop_map(|(at, data)| Call::Write { at, data }),
        4 => (byte(), 1..9000_u64).prop_map(|(at, length)| Call::Read { at, length }),
        1 => (page(), count()).prop_map(|(page, count)| Call::Forget { page, count }),
        2 => (0..FILE * PAGE_SIZE - 5000, data()).prop_map(|(at, data)| Call::WriteFile { at, data }),
        1 => (0..FILE).prop_map(|pages| Call::Truncate { pages }),
        1 => (0..VOLUME, count()).prop_map(|(page, count)| Call::Revoke { page, count }),
    ]
}

struct World {
    memory: Memory<Fake>,
    model: Model,
    file: StoreId,
}

impl World {
    fn new() -> Self {
        let mut memory = memory(4096);
        let file = memory.store.create().unwrap();
        Self { memory, model: Model::default(), file }
    }

    fn request(&self, count: u64, kind: Kind, rights: u8) -> MapRequest {
        let name = NameId(0);
        let (backing, shared) = match kind {
            Kind::Anonymous => (Backing::Anonymous, false),
            Kind::Volume(page) => {
                (Backing::Volume { volume: page, valid: VOLUME - page, file_page: page, name }, false)
            }
            Kind::Stored(file_page, shared) => {
                (Backing::Stored { file: self.file, file_page, shared, name }, shared)
            }
        };
        let rights = Rights::from_argument(u64::from(rights));
        MapRequest { backing, shared, ..MapRequest::anonymous(count * PAGE_SIZE, rights) }
    }

    fn do_both(&mut self, call: &Call) {
        let Self { memory, model, .. } = self;
        match *call {
            Call::Map { page, count, kind, rights } => {
                let request = self.request(count, kind, rights).at(page * PAGE_SIZE);
                self.memory.map(&request).unwrap();
                self.model.map(page, count, kind, rights);
            }
            Call::MapIfFree { page, count, rights } => {
                let request = MapRequest {
                    address: page * PAGE_SIZE,
                    place: Place::IfFree,
                    ..self.request(count, Kind::Anonymous, rights)
                };
                let mapped = self.memory.map(&request);
                if self.model.is_free(page, count) {
                    assert_eq!(mapped, Ok(page * PAGE_SIZE));
                    self.model.map(page, count, Kind::Anonymous, rights);
                } else {
                    assert_eq!(mapped, Err(Errno::EXIST));
                }
            }
            Call::Unmap { page, count } => {
                memory.unmap(page * PAGE_SIZE, count * PAGE_SIZE).unwrap();
                model.unmap(page, count);
            }
            Call::Protect { page, count, rights } => {
                let done = memory.protect(
                    page * PAGE_SIZE,
                    count * PAGE_SIZE,
                    Rights::from_argument(u64::from(rights)),
                );
                assert_eq!(done.is_ok(), model.protect(page, count, rights), "{done:?}");
            }
            Call::Move { page, old, to, new } => {
                let overlap = to < page + old && page < to + new;
                let moved =
                    memory.remap(page * PAGE_SIZE, old * PAGE_SIZE, new * PAGE_SIZE, 3, to * PAGE_SIZE);
                match (model.is_one(page, old), overlap) {
                    (true, false) => {
                        assert_eq!(moved, Ok(to * PAGE_SIZE));
                        model.remap(page, old, to, new);
                    }
                    (false, _) => assert_eq!(moved, Err(Errno::FAULT)),
                    (_, true) => assert_eq!(moved, Err(Errno::INVAL)),
                }
            }
            Call::Resize { page, old, new } => {
                let resized = memory.remap(page * PAGE_SIZE, old * PAGE_SIZE, new * PAGE_SIZE, 0, 0);
                if !model.is_one(page, old) {
                    assert_eq!(resized, Err(Errno::FAULT));
                } else if new <= old {
                    assert_eq!(resized, Ok(page * PAGE_SIZE));
                    model.unmap(page + new, old - new);
                } else if model.is_free(page + old, new - old) {
                    assert_eq!(resized, Ok(page * PAGE_SIZE));
                    model.remap(page, old, page, new);
                } else {
                    assert_eq!(resized, Err(Errno::NOMEM));
                }
            }
            Call::Write { at, ref data } => {
                let written = memory.write_bytes(at, data);
                assert_eq!(written.is_ok(), model.write(at, data), "{written:?}");
            }
            Call::Read { at, length } => {
                let mut bytes = vec![0; length as usize];
                let read = memory.read_bytes(at, &mut bytes).ok().map(|()| bytes);
                assert!(read == model.read(at, length), "{read:?}");
            }
            Call::Forget { page, count } => {
                let done = memory.advise(page * PAGE_SIZE, count * PAGE_SIZE, 4);
                assert_eq!(done.is_ok(), model.covers(page, count));
                model.forget(page, count);
            }
            Call::WriteFile { at, ref data } => {
                assert_eq!(memory.write_store(self.file, at, data), Ok(data.len()));
                model.write_file(at, data);
            }
            Call::Truncate { pages } => {
                memory.truncate_store(self.file, pages * PAGE_SIZE).unwrap();
                model.truncate((pages * PAGE_SIZE) as usize);
            }
            Call::Revoke { page, count } => {
                memory.drop_volume_run(VolumePage(page), count);
                memory.machine.revoke_done(VolumePage(page), count);
            }
        }
    }

    /// Every byte, the counts, and the machine's own table.
    fn compare(&mut self) {
        for (page, expected) in self.model.all() {
            let mut bytes = vec![0; 4096];
            let found = self.memory.read_bytes(page * PAGE_SIZE, &mut bytes).ok().map(|()| bytes);
            assert!(found == expected, "page {page:#x}");
        }
        let mut file = vec![0; self.model.file().len() + 1];
        let length = self.memory.store.read(&mut self.memory.machine, self.file, 0, &mut file);
        assert!(file[..length] == *self.model.file(), "the file");
        let (private, shared) = self.memory.resident();
        assert_eq!(self.memory.machine.shared_places(), shared);
        assert_eq!(self.memory.machine.used, private);
        for (page, mapped) in &self.memory.machine.mapped {
            let vma = self.memory.vmas.find(*page).expect("what is present is mapped");
            match mapped {
                Mapped::Private(_, prot) => assert_eq!(*prot, vma.rights.prot()),
                Mapped::Shared(_, exec) => assert_eq!(*exec, vma.rights.exec()),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn memory_is_what_a_naive_model_says(calls in proptest::collection::vec(call(), 1..60)) {
        let mut world = World::new();
        for call in &calls {
            world.do_both(call);
        }
        world.compare();
        world.memory.clear();
        world.memory.delete_store(world.file);
        prop_assert_eq!(world.memory.machine.used, 0);
        prop_assert_eq!(world.memory.machine.mapped.len(), 0);
    }
}
