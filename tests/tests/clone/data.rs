//! A program that writes record after record to `/data` is frozen between any two of its instructions: each clone has memory and disk of that
//! instant, goes on without a gap or a double, and nobody finds what another has written since. So does one in the next M1, where the snapshot goes
//! in a file.

use std::collections::BTreeSet;
use std::path::Path;

use m1_tests::m1::{M1, disk};
use m1_tests::mm_guest::{self, End, Log};
use m1_tests::volume::{check_data, e2fsprogs_command};
use m1_tests::{Guest, m1};

use crate::bed::{Bed, LIMIT, OWN, line};

/// Where the program is.
pub(crate) const RECORDS: &str = "/srv/records.py";

/// Writes records with a running hash, each flushed before the next, and keeps in memory what it has written. Before each it looks at the size
/// of the file, and where it finds itself in another domain it reads all of it: the disk has what memory has, to the byte. At the end it
/// reads everything once more, and writes one name of its own.
pub(crate) const PROGRAM: &str = r#"
import hashlib, os, sys, time
def generation():
    return open("/proc/m1/generation").read().strip()
def content():
    return open("/data/records", "rb").read()
file = os.open("/data/records", os.O_RDWR | os.O_CREAT | os.O_APPEND)
mine = os.open("/data/mine", os.O_RDWR | os.O_CREAT)
was, home = generation(), generation()
h = hashlib.sha256()
written = bytearray()
for number in range(160):
    now = generation()
    if now != was:
        found = content()
        assert found == written, (len(found), len(written))
        assert os.pread(mine, 100, 0).decode().split() == [was, "%08d" % (number - 1)], os.pread(mine, 100, 0)
        print("went on at", number, flush=True)
        was = now
    assert os.fstat(file).st_size == len(written), (os.fstat(file).st_size, len(written))
    for _ in range(200):
        h.update(b"%d" % number)
    record = b"%08d %s %s\n" % (number, h.hexdigest().encode(), b"x" * (number * 37 % 200))
    os.write(file, record)
    os.fsync(file)
    written += record
    os.pwrite(mine, b"%s %08d" % (now.encode(), number), 0)
    os.fsync(mine)
    if number == 40:
        print("warm", flush=True)
    if number > 40:
        time.sleep(0.01)
sys.stdin.readline()
assert content() == written, (len(content()), len(written))
assert os.pread(mine, 100, 0).decode().split() == [generation(), "00000159"], os.pread(mine, 100, 0)
open("/data/of-" + generation(), "w").close()
names = sorted(os.listdir("/data"))
assert names == sorted(["lost+found", "mine", "records", "of-" + generation()]), names
print("result", number, hashlib.sha256(written).hexdigest(), flush=True)
print("random", os.urandom(12).hex())
print("generation", generation(), flush=True)
"#;

/// A client with these two disks, and a program for the first of them.
fn client<'b>(bed: &'b Bed, name: &str, base: &str, data: &str) -> Guest<'b> {
    let config = if base.contains('@') {
        m1::client("mm-guest", "m1", base, "")
    } else {
        mm_guest::client("m1", base, "", "/usr/bin/python3", &["-B", RECORDS]).expect("a command line")
    };
    let data = disk("xvdb", "m1", data).replace("access=r,", "access=rw,");
    let config = config.with_list("disk", [disk("xvda", "m1", base), data]);
    bed.create(name, &config.to_string()).expect("the client starts")
}

/// What debugfs says.
fn debugfs(image: &Path, command: &str) -> String {
    let mut debugfs = e2fsprogs_command("/usr/sbin/debugfs").expect("e2fsprogs");
    let output = debugfs.args(["-R", command]).arg(image).output().expect("debugfs runs");
    String::from_utf8(output.stdout).expect("text")
}

/// The number of the record that it was at when it found itself elsewhere.
fn went_on(log: &Log) -> u32 {
    let words = line(log, "went on at ");
    words.rsplit(' ').next().and_then(|number| number.parse().ok()).expect("a number")
}

#[test]
fn clones_have_memory_and_data_of_one_instant_and_go_on_writing_without_a_gap_a_double_or_a_foreign_byte() {
    let bed = Bed::get();
    let m1 = bed.m1_with_data(128);
    let source = client(&bed, "records", "base", "data+records");
    source
        .wait_log("warm", LIMIT)
        .unwrap_or_else(|error| panic!("{error:#}\n{}", source.log().unwrap_or_default()));
    println!("{}", bed.does("freeze records middle"));
    // What they write lasts for one, and goes with their devices for the others.
    let mut clones = vec![
        client(&bed, "kept", "base@middle", "data@middle+kept"),
        client(&bed, "fleeting", "base@middle", "data@middle"),
    ];
    // A clone that is frozen in its turn, while it writes.
    clones[1].wait_log("went on at", LIMIT).expect("it goes on");
    println!("{}", bed.does("freeze fleeting later"));
    clones.push(client(&bed, "second", "base@later", "data@later"));
    clones.push(source);

    clones.iter().for_each(|guest| bed.go(guest));
    let logs: Vec<_> = clones.iter().map(|guest| bed.ended(guest)).collect();
    for log in &logs {
        let m1 = m1.log().unwrap_or_default();
        assert_eq!(log.end, Some(End::Exited(0)), "{}\n{}\n{m1}", log.output, log.kernel.join("\n"));
    }
    let said = |word| logs.iter().map(|log| line(log, word)).collect::<BTreeSet<_>>();
    assert_eq!(said("result ").len(), 1, "{:?}", said("result "));
    for word in OWN {
        assert_eq!(said(word).len(), logs.len(), "{:?}", said(word));
    }
    // All in the middle; the source, which never was elsewhere, has noticed nothing.
    let [kept, fleeting, second] = [0, 1, 2].map(|number| went_on(&logs[number]));
    println!("they went on at {kept}, {fleeting} and {second} of 160");
    assert!(kept == fleeting && (40..160).contains(&kept), "{kept} {fleeting}");
    assert!(!logs[3].output.contains("went on"), "{}", logs[3].output);
    for guest in &clones {
        guest.wait_end(LIMIT).expect("the domain is gone");
    }

    // On the two disks that lasted e2fsck has nothing to say, and stock tools find the same records, and one name of its own.
    let mut contents = BTreeSet::new();
    for (target, log) in [("data+records", &logs[3]), ("data@middle+kept", &logs[0])] {
        let image = bed.image_of(target);
        check_data(image.path()).expect("e2fsck has nothing to say");
        let names = debugfs(image.path(), "ls -p /");
        let own = line(log, "generation ").replace("generation ", "of-");
        assert!(names.contains(&own) && names.matches("of-").count() == 1, "{own} in {names}");
        contents.insert(debugfs(image.path(), "cat /records"));
    }
    let records = contents.first().map_or(0, |text| text.lines().count());
    assert_eq!((contents.len(), records), (1, 160), "{contents:?}");
    println!("{}", bed.does("export middle /tmp/middle"));
    for snapshot in ["middle", "later"] {
        println!("{}", bed.does(&format!("rm base@{snapshot}")));
    }
    ends(m1);

    let m1 = bed.m1_with_data(128);
    println!("{}", bed.does("import /tmp/middle base@brought"));
    let clone = client(&bed, "brought", "base@brought", "data@brought");
    bed.go(&clone);
    let log = bed.ended(&clone);
    assert_eq!(log.end, Some(End::Exited(0)), "{}\n{}", log.output, m1.log().unwrap_or_default());
    assert!(said("result ").contains(line(&log, "result ")), "{}", log.output);
    assert_eq!(went_on(&log), kept, "its disk is of the same instant");
    clone.wait_end(LIMIT).expect("the domain is gone");
    bed.does("rm base@brought");
    ends(m1);
}

/// It has noticed no bug of its own.
fn ends(m1: M1<'_>) {
    let metrics = m1.metrics().expect("/metrics");
    for bugs in ["m1_engine_bugs", "m1_store_bugs"] {
        assert_eq!(metrics.get(bugs), 0.0, "{bugs}: {}", m1.log().unwrap_or_default());
    }
    m1.destroy().expect("it ends");
}
