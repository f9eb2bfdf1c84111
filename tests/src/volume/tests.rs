use std::os::unix::fs::PermissionsExt;

use super::merge::Root;
use super::settle::installed_alternatives;
use super::*;

fn tree(files: &[(&str, &str)]) -> tempfile::TempDir {
    let tree = tempfile::tempdir().expect("a directory");
    for (path, content) in files {
        let path = tree.path().join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, content).expect("a file");
    }
    tree
}

#[test]
fn packages_with_and_without_usr_meet_in_the_merged_root() {
    let (one, two) = (tree(&[("bin/a", "a"), ("lib64/l", "l")]), tree(&[("usr/bin/b", "b"), ("bin/a", "a")]));
    let at = tempfile::tempdir().expect("a directory");
    let root = Root::create(at.path(), true).expect("a root");
    for tree in [&one, &two] {
        root.merge(tree.path(), "", &[]).expect("they go together");
    }
    for path in ["usr/bin/a", "usr/bin/b", "usr/lib64/l"] {
        assert!(at.path().join(path).symlink_metadata().expect("there").is_file(), "{path}");
    }
    let other = tree(&[("usr/bin/a", "not a")]);
    assert!(root.merge(other.path(), "", &[]).is_err(), "another file of the same name");
    root.merge(other.path(), "", &["usr/bin"]).expect("left out");
    root.write("/bin/a", b"mine").expect("a single file replaces");
    assert_eq!(fs::read(at.path().join("usr/bin/a")).expect("there"), b"mine");
    assert_eq!(
        fs::read(one.path().join("bin/a")).expect("there"),
        b"a",
        "the package's file stays as it was"
    );
}

#[test]
fn no_link_of_a_package_leads_out_of_the_root() {
    let outside = tempfile::tempdir().expect("a directory");
    let evil = tempfile::tempdir().expect("a directory");
    std::os::unix::fs::symlink(outside.path(), evil.path().join("etc")).expect("a link");
    std::os::unix::fs::symlink("../../../../../../tmp", evil.path().join("up")).expect("a link");
    let at = tempfile::tempdir().expect("a directory");
    let root = Root::create(at.path(), true).expect("a root");
    root.merge(evil.path(), "", &[]).expect("links themselves are fine");
    let second = tree(&[("etc/x", "x"), ("up/y", "y")]);
    root.merge(second.path(), "", &[]).expect("within the root");
    root.write("/etc/z", b"z").expect("within the root");
    assert_eq!(merge::sorted(outside.path()).expect("a list"), Vec::<std::ffi::OsString>::new());
    let inside = at.path().join(outside.path().strip_prefix("/").expect("absolute"));
    assert_eq!(merge::sorted(&inside).expect("a list"), ["x", "z"]);
    assert!(at.path().join("tmp/y").is_file());
}

#[test]
fn alternatives_are_read_out_of_a_script_that_is_never_run() {
    let script = "case \"$1\" in configure)\n update-alternatives --quiet --install /usr/bin/awk awk /usr/bin/gawk 10 \\\n  \
                  --slave /usr/share/man/man1/awk.1.gz awk.1.gz /usr/share/man/man1/gawk.1.gz\n;;\nesac\n\
                  update-alternatives --install $LINK x /usr/bin/x 5\nupdate-alternatives --remove awk /usr/bin/gawk\n";
    let found = installed_alternatives(script);
    let shown = format!("{found:?}");
    assert_eq!(found.len(), 2, "{shown}");
    assert!(
        shown.contains("priority: 10, name: \"awk\", link: \"/usr/bin/awk\", program: \"/usr/bin/gawk\"")
    );
}

#[test]
fn a_source_is_a_directory_a_package_file_or_a_package() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir_name = dir.path().to_str().expect("a plain name");
    assert_eq!(Volume::new().source(dir_name).expect("a directory").directories.len(), 1);
    assert_eq!(Volume::new().source("python3-minimal").expect("a package").packages, ["python3-minimal"]);
    for wrong in ["./nothing", "nothing.deb", "", "-o", "a b", "A"] {
        assert!(Volume::new().source(wrong).is_err(), "{wrong:?}");
    }
}

#[test]
fn the_same_inputs_give_the_same_image_and_other_inputs_another_identity() {
    let one = tree(&[("a/f", "content"), ("a/g", &"x".repeat(5000)), ("empty", "")]);
    fs::set_permissions(one.path().join("a/f"), fs::Permissions::from_mode(0o600)).expect("a mode");
    let at = |path: &Path| Volume::new().source(path.to_str().expect("plain")).expect("a directory");
    let built = at(one.path()).content("/srv/input", b"1").build().expect("an image");
    assert_eq!(
        (built.summary.files, built.summary.directories, built.summary.links, built.summary.pages),
        (4, 3, 0, 4)
    );
    let first = fs::read(&built.image).expect("an image");
    fs::remove_file(&built.image).expect("a file");
    // Made again, from a copy of the tree, at another time.
    let copy = tree(&[("empty", ""), ("a/g", &"x".repeat(5000)), ("a/f", "content")]);
    fs::set_permissions(copy.path().join("a/f"), fs::Permissions::from_mode(0o600)).expect("a mode");
    let again = at(copy.path()).content("/srv/input", b"1").build().expect("an image");
    assert_eq!(again.image, built.image);
    assert_eq!(fs::read(&again.image).expect("an image"), first);
    let other = at(one.path()).content("/srv/input", b"2").build().expect("an image");
    assert_ne!(other.image, built.image);
    let identity = |image: &Path| {
        let file = fs::File::open(image).expect("an image");
        erofs::Erofs::open(mkfs::FilePages(file))
            .map_err(|error| error.to_string())
            .expect("a volume")
            .identity()
    };
    assert_ne!(identity(&other.image).uuid, identity(&built.image).uuid);
    let sized = at(one.path()).size(1 << 20).build().expect("an image");
    assert_eq!(sized.summary.bytes, 1 << 20);
    assert!(at(one.path()).size(4096).build().is_err(), "too small");
    for image in [built.image, other.image, sized.image] {
        fs::remove_file(image).expect("a file");
    }
}

#[test]
fn an_ext4_volume_belongs_to_root_and_is_the_same_when_it_is_made_again() {
    let one = tree(&[("a/f", "content"), ("a/with blanks", "x")]);
    std::os::unix::fs::chown(one.path().join("a/f"), Some(1000), Some(1000))
        .or_else(not_permitted)
        .expect("chown");
    let volume =
        Volume::new().source(one.path().to_str().expect("plain")).expect("a directory").size(4 << 20);
    let image = volume.build_ext4().expect("an image");
    let first = fs::read(&image).expect("an image");
    let mut debugfs = tools::of("e2fsprogs").expect("tools").command("/usr/sbin/debugfs").expect("a program");
    debugfs.args(["-R", "ls -l /a"]).arg(&image);
    let listed = String::from_utf8(debugfs.output().expect("it runs").stdout).expect("text");
    let owners: Vec<Vec<&str>> = listed
        .lines()
        .map(|line| line.split_whitespace().collect())
        .filter(|words: &Vec<&str>| !words.is_empty())
        .collect();
    assert_eq!(owners.len(), 4, "{listed}");
    for words in owners.iter().filter(|words| words.last() != Some(&"..")) {
        assert_eq!((words[3], words[4]), ("0", "0"), "{listed}");
    }
    fs::remove_file(&image).expect("a file");
    // Times in it are in seconds: none may be of now.
    std::thread::sleep(std::time::Duration::from_millis(1100));
    assert_eq!(volume.build_ext4().expect("an image"), image);
    let second = fs::read(&image).expect("an image");
    let differs: Vec<_> = (0..first.len())
        .filter(|at| first[*at] != second[*at])
        .take(24)
        .map(|at| (at, first[at], second[at]))
        .collect();
    assert!(second == first, "another image: {differs:?}");
    fs::remove_file(&image).expect("a file");
    assert!(Volume::new().build_ext4().is_err(), "no size");
}

/// Who may not give files away has them already as somebody who is not root.
fn not_permitted(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::PermissionDenied { Ok(()) } else { Err(error) }
}

#[test]
fn a_script_runs_by_the_interpreter_that_it_names() {
    let root = Volume::new().packages(["busybox-static"]).root().expect("a root");
    let files = tree(&[
        ("usr/bin/script", "#! /bin/busybox  sh\necho \"$# $1 $PATH\"; exit 3\n"),
        ("usr/bin/no", "no"),
    ]);
    let made = Root::create(&files.path().join("root"), true).expect("a root");
    made.merge(&root, "", &[]).expect("a copy");
    made.merge(&files.path().join("usr"), "usr", &[]).expect("a script");
    let done =
        crate::programs::expected(made.path(), files.path(), "/bin/script", &["a b", "c"]).expect("it runs");
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(said.starts_with("2 a b "), "{said}");
    assert_eq!(done.code, Some(3));
    assert!(Hosted::new(made.path()).command("/bin/no").is_err());
    assert!(Hosted::new(made.path()).command("/bin/nothing").is_err());
}
