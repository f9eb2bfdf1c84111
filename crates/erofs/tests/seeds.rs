//! The reader on four small images of one tree, and on all that can be made of them by mutation. They are the seeds
//! of the fuzz target too. mkfs.erofs 1.5 made them, with `-Enoinline_data` (plain), without options (inline), with
//! `--chunksize=4096` (chunked), and with `--chunksize=8192 -Eforce-chunk-indexes,force-inode-extended` (indexed).
//! The tree: `a/size-N` of [`content`], 60 names of `a/size-6` in `many`, links.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "tests"
)]

use std::ops::ControlFlow;

use erofs::{Erofs, Layout, PathError, SlicePages, fuzz};
use proptest::prelude::*;

static SEEDS: [&[u8]; 4] = [
    include_bytes!("../seeds/plain.erofs"),
    include_bytes!("../seeds/inline.erofs"),
    include_bytes!("../seeds/chunked.erofs"),
    include_bytes!("../seeds/indexed.erofs"),
];

fn content(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from((at * 7 + at / 251) % 256).unwrap()).collect()
}

#[test]
fn all_four_images_hold_the_same_tree() {
    for (which, image) in SEEDS.iter().enumerate() {
        let volume = Erofs::open(SlicePages(image)).unwrap();
        for size in [0, 6, 5000, 9000] {
            let inode = volume.resolve(format!("/a/size-{size}").as_bytes()).unwrap();
            let mut bytes = vec![0; size + 1];
            assert_eq!(volume.read(&inode, 0, &mut bytes).unwrap(), size);
            assert_eq!(bytes[..size], content(size), "image {which}, size {size}");
            match (which, inode.layout) {
                (0, Layout::Plain { .. }) | (1, Layout::Inline { .. }) => {}
                (1..4, Layout::Plain { .. }) if size == 0 => {}
                (2, Layout::Chunked { shift: 0, indexes: false, .. }) => {}
                (3, Layout::Chunked { shift: 1, indexes: true, .. }) => {}
                other => panic!("{other:?} for {size} bytes"),
            }
        }
        let six = volume.resolve(b"/a/size-6").unwrap();
        assert_eq!(six.nlink, 61);
        let many = volume.resolve(b"/a/up").unwrap();
        assert!(many.size > 4096, "names in more than one block");
        let mut names = Vec::new();
        let each = &mut |entry: erofs::Entry<'_>| {
            names.push(entry.name.to_vec());
            ControlFlow::Continue(())
        };
        volume.read_dir(&many, 0, each).unwrap();
        let expected = (0..60).map(|index| format!("{:0>100}", index * 37).into_bytes());
        let dots = [b".".to_vec(), b"..".to_vec()];
        assert_eq!(names, dots.into_iter().chain(expected).collect::<Vec<_>>());
        assert!(names[2..].iter().all(|name| volume.lookup(&many, name).unwrap() == Some(six.nid)));
        assert_eq!(volume.resolve(b"link"), volume.resolve(b"a/size-5000"));
        assert_eq!(volume.resolve(b"loop"), Err(PathError::TooManyLinks));
        assert_eq!(fuzz::exercise(image), 64, "the fuzz entry reaches all that it can");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(1000) })]

    /// Most changes go to the superblock, the inodes and the first directories, at the images' start.
    #[test]
    fn a_mutated_image_never_panics_and_ends_soon(
        which in 0..4_usize,
        changes in prop::collection::vec((0..4_u8, any::<prop::sample::Index>(), any::<u8>()), 1..30),
        cut in prop::option::weighted(0.1, any::<prop::sample::Index>()),
        mend in prop::bool::weighted(0.9),
    ) {
        let mut image = SEEDS[which].to_vec();
        for (place, index, value) in changes {
            let range = match place {
                0 => 1024..1152,
                1 | 2 => 1152..4096,
                _ => 0..image.len(),
            };
            image[range.start + index.index(range.len())] = value;
        }
        if let Some(cut) = cut {
            image.truncate(cut.index(image.len()));
        }
        if mend {
            fuzz::mend_checksum(&mut image);
        }
        fuzz::exercise(&image);
    }
}
