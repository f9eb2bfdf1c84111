//! The EROFS reader against images that mkfs.erofs makes: everything in the source tree comes out, byte by byte.
#![expect(clippy::cast_possible_truncation, reason = "positions in images that are in memory")]

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use erofs::{Erofs, FileType, Inode, LastLink, Layout, PAGE_SIZE, PATH_MAX, PathError, SlicePages};
use tempfile::TempDir;

type Volume<'a> = Erofs<SlicePages<'a>>;

const FIXED: [&str; 2] = ["-T1700000000", "-U6d312d6d-656d-6f72-792d-6d616e616765"];

/// A source tree and the images made of it; gone when dropped.
struct Made {
    dir: TempDir,
}

impl Made {
    /// Makes the tree.
    fn new() -> Self {
        let made = Self { dir: TempDir::new().expect("a directory for the test") };
        let tree = made.tree();
        fs::create_dir_all(tree.join("a/b/c")).expect("directories");
        fs::create_dir(tree.join("empty")).expect("directory");
        for size in [0, 1, 6, 1000, 4000, 4095, 4096, 4097, 8192, 12_289, 300_000] {
            fs::write(tree.join(format!("a/size-{size}")), noise(size, size)).expect("file");
        }
        // A hole in the middle, for chunks that point nowhere, and equal chunks, which chunked images store once.
        let sparse = File::create(tree.join("a/b/sparse")).expect("file");
        for (page, bytes) in [(0, noise(77, 4096)), (6, noise(78, 5000)), (8, noise(77, 4096))] {
            sparse.write_all_at(&bytes, page * 4096).expect("file");
        }
        // A directory of many blocks, with names of all lengths but 255, which mkfs.erofs 1.5 cannot do.
        fs::create_dir(tree.join("many")).expect("directory");
        for index in 0..700_usize {
            let name = format!("{:0>width$}", index * 7919, width = 6 + index % 249);
            fs::write(tree.join("many").join(name), noise(index, index % 50)).expect("file");
        }
        for (target, link) in [
            ("/a/b", "absolute"),
            ("b/c", "a/relative"),
            ("../../size-6", "a/b/c/up"),
            ("absolute/c/../c/up", "through"),
            ("loop", "loop"),
            ("nowhere", "dangling"),
            ("a/size-6/", "slashed"),
            (&"x".repeat(3000), "long"),
        ] {
            symlink(target, tree.join(link)).expect("link");
        }
        symlink("a/size-1000", tree.join("chain-0")).expect("link");
        for index in 1..=40 {
            symlink(format!("chain-{}", index - 1), tree.join(format!("chain-{index}"))).expect("link");
        }
        made
    }

    /// The source tree.
    fn tree(&self) -> PathBuf {
        self.dir.path().join("tree")
    }

    /// Makes an image of the tree.
    fn image(&self, options: &[&str]) -> Vec<u8> {
        let image = self.dir.path().join("image.erofs");
        let _ = fs::remove_file(&image);
        let mut command = m1_tests::volume::mkfs_erofs().expect("mkfs.erofs");
        let done = command.args(options).arg(&image).arg(self.tree()).output().expect("mkfs.erofs runs");
        assert!(done.status.success(), "mkfs.erofs: {}", String::from_utf8_lossy(&done.stderr));
        let mut bytes = fs::read(&image).expect("the image");
        bytes.resize(bytes.len().next_multiple_of(4096), 0);
        bytes
    }
}

/// Bytes that look random, the same ones for the same seed.
fn noise(seed: usize, length: usize) -> Vec<u8> {
    let mut state = seed as u64 ^ 0x9e37_79b9_7f4a_7c15;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// How many files of each layout were met.
#[derive(Default, Debug)]
struct Seen {
    plain: usize,
    inline: usize,
    chunked: usize,
    holes: usize,
}

fn names(volume: &Volume<'_>, dir: &Inode) -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    let each = &mut |entry: erofs::Entry<'_>| {
        assert!(names.insert(entry.name.to_vec()), "a name comes once");
        assert_eq!(volume.lookup(dir, entry.name).unwrap(), Some(entry.nid));
        let inode = volume.inode(entry.nid).unwrap();
        assert_eq!(entry.file_type, Some(inode.file_type()));
        ControlFlow::Continue(())
    };
    volume.read_dir(dir, 0, each).unwrap();
    assert!(names.remove(b".".as_slice()) && names.remove(b"..".as_slice()));
    names
}

fn compare_file(volume: &Volume<'_>, inode: &Inode, expected: &[u8], seen: &mut Seen) {
    match inode.layout {
        Layout::Plain { .. } => seen.plain += 1,
        Layout::Inline { .. } => seen.inline += 1,
        Layout::Chunked { .. } => seen.chunked += 1,
        Layout::Nothing => panic!("a file without a layout"),
    }
    assert_eq!(inode.size, expected.len() as u64);
    let mut all = vec![0xaa; expected.len() + 10];
    assert_eq!(volume.read(inode, 0, &mut all).unwrap(), expected.len());
    assert!(all.starts_with(expected) && all[expected.len()..] == [0xaa; 10]);
    let middle = expected.len() / 3;
    let mut part = vec![0; 5000];
    let length = volume.read(inode, middle as u64, &mut part).unwrap();
    assert_eq!(part[..length], expected[middle..expected.len().min(middle + 5000)]);
    assert_eq!(volume.read(inode, inode.size, &mut part).unwrap(), 0);
    assert_eq!(volume.read(inode, u64::MAX, &mut part).unwrap(), 0);
    for (index, page) in expected.chunks(PAGE_SIZE).enumerate() {
        let Some(extent) = volume.extent_run(inode, index as u64).unwrap() else {
            let tail = matches!(inode.layout, Layout::Inline { .. }) && index as u64 + 1 == inode.pages();
            assert!(tail || page.iter().all(|byte| *byte == 0), "only tails and holes have no page");
            seen.holes += usize::from(!tail);
            continue;
        };
        let start = extent.page as usize * PAGE_SIZE;
        let mut whole = page.to_vec();
        whole.resize(PAGE_SIZE, 0);
        assert_eq!(volume.source().0[start..start + PAGE_SIZE], whole, "behind the end are zeros");
        assert!(extent.pages >= 1 && index as u64 + extent.pages <= inode.pages());
        let last = volume.extent(inode, index as u64 + extent.pages - 1).unwrap();
        assert_eq!(last, Some(extent.page + extent.pages - 1), "a run is consecutive");
    }
    assert_eq!(volume.extent(inode, inode.pages()).unwrap(), None);
}

fn compare(volume: &Volume<'_>, dir: &Inode, host: &Path, seen: &mut Seen) {
    let there: BTreeSet<_> =
        fs::read_dir(host).unwrap().map(|entry| entry.unwrap().file_name().into_encoded_bytes()).collect();
    assert_eq!(names(volume, dir), there);
    for name in there {
        let path = host.join(std::str::from_utf8(&name).unwrap());
        let meta = fs::symlink_metadata(&path).unwrap();
        let inode = volume.inode(volume.lookup(dir, &name).unwrap().expect("a listed name")).unwrap();
        assert_eq!((u32::from(inode.mode), inode.uid, inode.gid), (meta.mode(), 0, 0), "{}", path.display());
        assert_eq!(inode.mtime, 1_700_000_000);
        match inode.file_type() {
            FileType::Directory => compare(volume, &inode, &path, seen),
            FileType::Link => {
                let mut buffer = [0; PATH_MAX];
                let target = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
                assert_eq!(volume.read_link(&inode, &mut buffer).unwrap(), target);
            }
            FileType::Regular => compare_file(volume, &inode, &fs::read(&path).unwrap(), seen),
            other => panic!("{other:?}"),
        }
    }
    for absent in ["", "!", "a/b", "size-", "zzzzzzzzz", &"9".repeat(255), &"9".repeat(300)] {
        assert_eq!(volume.lookup(dir, absent.as_bytes()).unwrap(), None, "{absent}");
    }
}

fn check(options: &[&str]) -> Seen {
    let made = Made::new();
    let image = made.image(&[&FIXED[..], &["--all-root"], options].concat());
    let volume = Erofs::open(SlicePages(&image)).unwrap();
    assert_eq!(volume.superblock().uuid, *b"m1-memory-manage");
    assert!(volume.superblock().blocks as usize * PAGE_SIZE <= image.len());
    let mut seen = Seen::default();
    compare(&volume, &volume.inode(volume.root()).unwrap(), &made.tree(), &mut seen);
    println!("{options:?}: {seen:?}");
    seen
}

#[test]
fn an_image_without_inline_data_gives_a_page_for_every_page() {
    let seen = check(&["-Enoinline_data"]);
    assert!(seen.plain > 700 && seen.inline == 0 && seen.chunked == 0 && seen.holes == 0, "{seen:?}");
}

#[test]
fn an_image_with_inline_tails_comes_out_byte_by_byte() {
    let seen = check(&[]);
    assert!(seen.plain >= 2 && seen.inline > 600, "{seen:?}");
}

#[test]
fn chunked_images_come_out_byte_by_byte() {
    let seen = check(&["--chunksize=4096"]);
    assert!(seen.chunked > 600, "{seen:?}");
    let seen = check(&["--chunksize=16384", "-Eforce-chunk-indexes"]);
    assert!(seen.chunked > 600, "{seen:?}");
}

/// mkfs.erofs 1.5 writes no holes, so they are put in here; newer ones do.
#[test]
fn a_hole_reads_as_zeros_and_a_chunk_on_an_absent_device_is_damage() {
    let made = Made::new();
    for (options, unit) in
        [(&["--chunksize=4096", "-Enosbcrc"], 4), (&["--chunksize=4096", "-Eforce-chunk-indexes,nosbcrc"], 8)]
    {
        let mut image = made.image(&[&FIXED[..], options].concat());
        let path = b"/a/size-12289";
        let Layout::Chunked { table, .. } =
            Erofs::open(SlicePages(&image)).unwrap().resolve(path).unwrap().layout
        else {
            panic!("not chunked")
        };
        let entry = table as usize + unit;
        image[entry + unit - 4..entry + unit].fill(0xff);
        let volume = Erofs::open(SlicePages(&image)).unwrap();
        let inode = volume.resolve(path).unwrap();
        assert_eq!(volume.extent(&inode, 1), Ok(None));
        let mut expected = fs::read(made.tree().join("a/size-12289")).unwrap();
        expected[4096..8192].fill(0);
        compare_file(&volume, &inode, &expected, &mut Seen::default());
        if unit == 8 {
            image[table as usize + 2] = 1;
            let volume = Erofs::open(SlicePages(&image)).unwrap();
            let damage = Err(erofs::Error::Damaged(erofs::Damage::Chunk));
            assert_eq!(volume.extent(&inode, 0), damage);
            assert_eq!(volume.read(&inode, 0, &mut [0]).map(|_| None), damage);
        }
    }
}

#[test]
fn extended_inodes_come_out_byte_by_byte() {
    check(&["-Eforce-inode-extended,noinline_data"]);
    let made = Made::new();
    let image = made.image(&["-Eforce-inode-extended", "--preserve-mtime", "--force-uid=100000"]);
    let volume = Erofs::open(SlicePages(&image)).unwrap();
    let inode = volume.resolve(b"/a/size-6").unwrap();
    let meta = fs::metadata(made.tree().join("a/size-6")).unwrap();
    assert_eq!(
        (inode.uid, inode.mtime as i64, i64::from(inode.mtime_nsec)),
        (100_000, meta.mtime(), meta.mtime_nsec())
    );
}

#[test]
fn a_compressed_image_is_refused_and_an_equal_tree_gives_an_equal_image() {
    let made = Made::new();
    let image = made.image(&["-zlz4hc"]);
    let refused = match Erofs::open(SlicePages(&image)) {
        Err(erofs::Error::Unsupported(erofs::Feature::Compression)) => true,
        // Compression without further features shows in the inodes alone.
        Ok(volume) => matches!(
            volume.resolve(b"/a/b/sparse"),
            Err(PathError::Volume(erofs::Error::Unsupported(erofs::Feature::Compression)))
        ),
        Err(_) => false,
    };
    assert!(refused);
    let options = [&FIXED[..], &["--all-root", "-Enoinline_data"]].concat();
    assert_eq!(made.image(&options), made.image(&options));
}

#[test]
fn paths_lead_where_linux_leads() {
    let made = Made::new();
    let image = made.image(&[]);
    let volume = Erofs::open(SlicePages(&image)).unwrap();
    let nid = |path: &str| volume.resolve(path.as_bytes()).map(|inode| inode.nid);
    let six = nid("/a/size-6");
    assert!(six.is_ok());
    for same in
        ["a/size-6", "//a/./b/..//size-6", "/through", "/absolute/c/up", "/a/relative/up", "/../a/size-6"]
    {
        assert_eq!(nid(same), six, "{same}");
    }
    assert_eq!(nid("/chain-39"), nid("/a/size-1000"));
    assert_eq!(nid("/chain-40"), Err(PathError::TooManyLinks));
    assert_eq!(nid("/loop"), Err(PathError::TooManyLinks));
    assert_eq!(nid("/dangling"), Err(PathError::NotFound));
    assert_eq!(nid("/a/nothing/more"), Err(PathError::NotFound));
    assert_eq!(nid("/a/size-6/more"), Err(PathError::NotDirectory));
    assert_eq!(nid("/a/size-6/"), Err(PathError::NotDirectory));
    assert_eq!(nid("/a/size-6/."), Err(PathError::NotDirectory));
    assert_eq!(nid("/slashed"), Err(PathError::NotDirectory));
    assert_eq!(nid("/long"), Err(PathError::TooLong));
    assert_eq!(nid("/absolute/"), nid("/a/b"));
    let mut scratch = [0; PATH_MAX];
    let a = nid("/a").unwrap();
    let mut keep = |path: &str| volume.walk(a, path.as_bytes(), LastLink::Keep, &mut scratch).unwrap();
    assert_eq!(keep("relative").file_type(), FileType::Link);
    assert_eq!(keep("relative/").file_type(), FileType::Directory);
    assert_eq!(keep("size-6").nid, six.unwrap());
    assert_eq!(keep("/a").nid, a);
}

#[test]
fn a_directory_can_be_listed_in_pieces() {
    let made = Made::new();
    let image = made.image(&[]);
    let volume = Erofs::open(SlicePages(&image)).unwrap();
    let dir = volume.resolve(b"/many").unwrap();
    let whole = names(&volume, &dir);
    let (mut pieces, mut by_next) = (BTreeSet::new(), 0);
    let mut position = 0;
    loop {
        let mut left = 3;
        let stopped = volume
            .read_dir(&dir, position, &mut |entry| {
                if left == 0 {
                    return ControlFlow::Break(());
                }
                left -= 1;
                pieces.insert(entry.name.to_vec());
                by_next = entry.next;
                ControlFlow::Continue(())
            })
            .unwrap();
        assert!(left == 3 || stopped == by_next, "both ways to go on are the same");
        if left == 3 {
            break;
        }
        position = stopped;
    }
    assert_eq!(pieces.len(), whole.len() + 2);
    assert!(pieces.is_superset(&whole));
}
