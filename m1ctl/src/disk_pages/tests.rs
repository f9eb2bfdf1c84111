//! Indices of files as M1 writes them, and as somebody may have forged them.

use proptest::prelude::*;

use super::*;

const FIRST: u32 = 1 << 31;

/// A file's pages.
#[derive(Default)]
struct File(BTreeMap<u32, Page>);

impl File {
    fn index(&mut self, number: u32, set: &[(usize, u32)]) -> u32 {
        let mut page = [0; ENTRIES * 4];
        for (place, entry) in set {
            page[place * 4..place * 4 + 4].copy_from_slice(&entry.to_le_bytes());
        }
        self.0.insert(number, page);
        number
    }

    fn block(&mut self, number: u32) -> u32 {
        self.0.insert(number, [u8::try_from(number & 0xff).expect("a byte"); ENTRIES * 4]);
        number
    }

    fn page(&self, number: u32) -> Result<Page> {
        self.0.get(&number).copied().ok_or_else(|| Failure::Refused(format!("it lacks page {number:#x}")))
    }

    /// What a disk with this index shows of a block: `None` is its volume's.
    fn shows(&self, index: &Index, block: u64) -> Option<Page> {
        let mut number = index.root;
        for level in (0..index.levels as usize).rev() {
            let entry = entries(&self.0[&number])[mm_proto::disk_index::place(block, level)];
            match entry {
                0 => return None,
                ZERO => return Some([0; ENTRIES * 4]),
                entry => number = entry,
            }
        }
        Some(self.0[&number])
    }
}

/// Another M1: pages get its numbers as they come, and equal ones have one.
fn import(from: &File, index: &Index) -> Result<(File, Index)> {
    let disk = DiskPages::read(index, |number| from.page(number))?;
    let mut to = File::default();
    let mut next = FIRST + 5000;
    let mut send = |pages: &[Page]| -> Result<Vec<u32>> {
        let mut numbers = Vec::new();
        for page in pages {
            let known = to.0.iter().find(|(_, bytes)| *bytes == page).map(|(number, _)| *number);
            numbers.push(known.unwrap_or_else(|| {
                next -= 7;
                to.0.insert(next, *page);
                next
            }));
        }
        Ok(numbers)
    };
    let blocks: Vec<u32> = disk.pages().into_iter().collect();
    let bytes = blocks.iter().map(|number| from.page(*number)).collect::<Result<Vec<_>>>()?;
    let numbers = blocks.into_iter().zip(send(&bytes)?).collect();
    let root = disk.send(&numbers, &mut send)?;
    Ok((to, Index { root, ..*index }))
}

#[test]
fn a_disk_of_each_height_shows_the_same_in_another_m1() {
    let mut file = File::default();
    for number in [30, 31, 32] {
        file.block(FIRST + number);
    }
    let low = file.index(FIRST + 3, &[(0, FIRST + 30), (7, ZERO), (1023, FIRST + 31)]);
    let other = file.index(FIRST + 2, &[(5, FIRST + 32), (6, FIRST + 30)]);
    let middle = file.index(FIRST + 9, &[(0, low), (3, other), (4, low)]);
    let high = file.index(FIRST + 1, &[(0, middle), (1, middle)]);
    for (root, levels, own) in [(low, 1, 1), (middle, 2, 3), (high, 3, 4)] {
        let index = Index { root, levels, count: 3 };
        let disk = DiskPages::read(&index, |number| file.page(number)).expect("good");
        assert_eq!(disk.own_pages(), own);
        let (there, moved) = import(&file, &index).expect("it is taken");
        let blocks = [0, 1, 7, 1023, 1024, 3 * 1024 + 5, 3 * 1024 + 6, 4 * 1024, (1 << 20) + 3 * 1024 + 5];
        for block in blocks.into_iter().filter(|block| *block < 1 << (10 * levels)) {
            assert_eq!(there.shows(&moved, block), file.shows(&index, block), "block {block} of {levels}");
        }
    }
}

#[test]
fn an_index_names_no_page_that_the_file_lacks() {
    let why = |file: &File, root, levels| {
        let index = Index { root, levels, count: 1 };
        import(file, &index).err().map(|failure| failure.to_string())
    };
    let mut file = File::default();
    let block = file.block(FIRST + 4);
    let low = file.index(FIRST, &[(0, block), (1, FIRST + 77)]);
    assert_eq!(why(&file, low, 1).as_deref(), Some("it lacks page 0x8000004d"));
    // Not even one that is a volume's, or a block of zeroes where there is none.
    for foreign in [2, FIRST - 1, u32::MAX] {
        let low = file.index(FIRST, &[(9, foreign)]);
        assert_eq!(why(&file, low, 1), Some(format!("it lacks page {foreign:#x}")));
    }
    let high = file.index(FIRST + 1, &[(0, ZERO)]);
    assert_eq!(why(&file, high, 2).as_deref(), Some("it lacks page 0x1"));
    assert_eq!(why(&file, FIRST + 99, 2).as_deref(), Some("it lacks page 0x80000063"));
    for levels in [0, 4, u32::MAX] {
        assert!(why(&file, high, levels).is_some_and(|why| why.ends_with("makes no sense")));
    }
}

#[test]
fn an_index_that_names_itself_ends() {
    let mut file = File::default();
    let all: Vec<(usize, u32)> = (0..ENTRIES).map(|place| (place, FIRST)).collect();
    file.index(FIRST, &all);
    for levels in 1..=3 {
        let disk = DiskPages::read(&Index { root: FIRST, levels, count: 1 }, |number| file.page(number));
        assert_eq!(disk.expect("it ends").own_pages(), levels as usize);
    }
}

proptest! {
    #[test]
    fn whatever_an_index_says_what_goes_to_m1_names_pages_of_it(
        pages in prop::collection::vec(prop::collection::vec((0..ENTRIES, 0_u32..12), 0..8), 1..8),
        levels in 1_u32..4,
    ) {
        let mut file = File::default();
        for (number, set) in (0..).zip(&pages) {
            let entry = |entry: u32| if entry < 2 { entry } else { FIRST + entry - 2 };
            let set: Vec<_> = set.iter().map(|(place, value)| (*place, entry(*value))).collect();
            file.index(FIRST + number, &set);
        }
        let index = Index { root: FIRST, levels, count: 0 };
        if let Ok((there, moved)) = import(&file, &index) {
            for (level, pages) in DiskPages::read(&moved, |number| there.page(number)).expect("good").levels.iter().enumerate() {
                for entry in pages.values().flat_map(|entries| entries.iter()) {
                    prop_assert!(is_none(level, *entry) || there.0.contains_key(entry));
                }
            }
        }
    }
}
