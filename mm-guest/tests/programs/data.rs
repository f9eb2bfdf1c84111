//! Programs that keep things on `/data`, on a disk that e2fsprogs makes, and looks at when they have ended.

use std::path::Path;

use mm_guest::End;

use super::{python, run};

fn disk() -> tempfile::NamedTempFile {
    let disk = tempfile::NamedTempFile::new().unwrap();
    m1_tests::volume::make_data(disk.path(), 32 << 20).unwrap();
    disk
}

fn opened(disk: &Path) -> Option<std::fs::File> {
    Some(std::fs::File::options().read(true).write(true).open(disk).unwrap())
}

const WRITES: &str = r"
import os, mmap, shutil, sqlite3, tempfile, json, hashlib
os.makedirs('/data/a/b/c')
os.chdir('/data/a')
with open('b/file', 'wb') as out:
    for n in range(300):
        out.write(bytes([n % 251]) * (n * 13 % 5000))
    out.flush(); os.fsync(out.fileno())
shutil.copytree('/data/a/b', '/data/copy', symlinks=True)
shutil.copy2('/usr/lib/python3.11/os.py', 'os.py')
print(hashlib.sha256(open('b/file', 'rb').read()).hexdigest() == hashlib.sha256(open('/data/copy/file', 'rb').read()).hexdigest())
for n in range(500):
    with open('/data/tmp', 'w') as out: json.dump({'n': n}, out)
    os.replace('/data/tmp', f'/data/{n % 50}.json')
print(len(os.listdir('/data')), os.path.getsize('/data/7.json'))
with open('/data/big', 'wb') as out: out.truncate(3 << 30)
with open('/data/big', 'r+b') as out:
    out.seek(2 << 30); out.write(b'far'); os.posix_fallocate(out.fileno(), 0, 100000)
print(os.stat('/data/big').st_size, os.stat('/data/big').st_blocks < 500, os.lseek(os.open('/data/big', os.O_RDONLY), 200000, os.SEEK_DATA) == 2 << 30)
view = mmap.mmap(os.open('/data/a/os.py', os.O_RDONLY), 0, access=mmap.ACCESS_READ)
print(view[:] == open('/usr/lib/python3.11/os.py', 'rb').read())
with tempfile.TemporaryFile(dir='/data') as out:
    out.write(b'x' * 100000); out.seek(0); print(len(out.read()))
db = sqlite3.connect('/data/db')
db.execute('CREATE TABLE t(n INTEGER PRIMARY KEY, s TEXT)')
for n in range(20):
    with db: db.executemany('INSERT INTO t(s) VALUES(?)', [(str(k),) for k in range(50)])
try:
    with db:
        db.execute('DELETE FROM t'); raise KeyError
except KeyError: pass
print(db.execute('SELECT count(*), sum(length(s)) FROM t').fetchone(), db.execute('PRAGMA integrity_check').fetchone())
import runpy
open('/data/program.py', 'w').write('print(6 * 7)')
runpy.run_path('/data/program.py')
print(os.statvfs('/data').f_bsize, sorted(os.listdir('/data/a')))
shutil.rmtree('/data/copy')
";

const READS: &str = r"
import os, sqlite3
print(sqlite3.connect('/data/db').execute('SELECT count(*) FROM t').fetchone(), os.path.exists('/data/copy'))
print(open('/data/a/os.py').read() == open('/usr/lib/python3.11/os.py').read(), open('/data/49.json').read())
open('/data/unflushed', 'w').write('y' * 100000)
";

#[test]
fn python_and_sqlite_keep_things_on_a_disk_and_find_them_again() {
    let disk = disk();
    let Some((lines, end)) = python("", WRITES, |machine| machine.disk = opened(disk.path())) else { return };
    assert_eq!(end, End::Exited(0), "{lines:?}");
    let expected = [
        "True",
        "53 10",
        "3221225472 True True",
        "True",
        "100000",
        "(1000, 1800) (\"ok\",)",
        "42",
        "4096 [\"b\", \"os.py\"]",
    ];
    let lines: Vec<String> = lines.iter().map(|line| line.replace('\'', "\"")).collect();
    assert_eq!(lines, expected);
    m1_tests::volume::check_data(disk.path()).unwrap();
    let Some((lines, end)) = python("", READS, |machine| machine.disk = opened(disk.path())) else { return };
    assert_eq!((end, lines), (End::Exited(0), vec!["(1000,) False".into(), "True {\"n\": 499}".into()]));
    m1_tests::volume::check_data(disk.path()).unwrap();
}

#[test]
fn sqlite3_itself_keeps_a_database_there_and_a_program_runs_from_there() {
    let disk = disk();
    let volume = &super::prepared().volume.image;
    let sql = "CREATE TABLE t(n); INSERT INTO t VALUES(1),(2),(3); SELECT sum(n) FROM t;";
    let line = format!("init=/usr/bin/sqlite3 -- -batch /data/db \"{sql}\"");
    let Some(ran) = run(volume, &line, |machine| machine.disk = opened(disk.path())) else { return };
    assert_eq!((ran.end, &ran.output[..]), (End::Exited(0), &b"6\n"[..]));
    let line = "init=/usr/bin/busybox -- cp /usr/bin/busybox /data/busybox";
    let Some(ran) = run(volume, line, |machine| machine.disk = opened(disk.path())) else { return };
    assert_eq!(ran.end, End::Exited(0), "{}", String::from_utf8_lossy(&ran.output));
    let line = "init=/data/busybox -- echo from there";
    let Some(ran) = run(volume, line, |machine| machine.disk = opened(disk.path())) else { return };
    assert_eq!((ran.end, &ran.output[..]), (End::Exited(0), &b"from there\n"[..]));
    m1_tests::volume::check_data(disk.path()).unwrap();
}
