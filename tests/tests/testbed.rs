//! The testbed itself: that it boots, passes on what commands say, and runs guests that the host can reach.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use m1_tests::{Dom0, Shared, Stream, linux_guest};

/// What the guest's web server says.
const PAGE: &str = "answered by a guest";
/// Kept on a disk that dom0 passes on.
const ON_DISK: &str = "read through blkback";

static DOM0: Shared = Shared::new(|| {
    let guest = linux_guest(&format!(
        "ip link set eth0 up\nudhcpc -q -n -t 20 -T 1 -i eth0 -s /etc/udhcpc\n\
         mkdir /www; echo '{PAGE}' >/www/index.html; httpd -h /www\n\
         head -c {} /dev/xvda; echo; ip addr show eth0; echo guest is up\nsleep 1000\n",
        ON_DISK.len()
    ))?;
    let mut disk = tempfile::NamedTempFile::new()?;
    disk.write_all(ON_DISK.as_bytes())?;
    disk.as_file().set_len(1 << 20)?;
    // QEMU holds it open; the name may go when this returns.
    let (_, disk) = disk.keep()?;
    Ok(Dom0::builder()
        .file(&guest.kernel, "/srv/vmlinuz")
        .content("/srv/initramfs", 0o644, guest.initramfs)
        .disk_read_only(disk))
});

#[test]
fn xen_and_dom0_are_the_stock_ones() {
    let dom0 = DOM0.get();
    let info = dom0.sh("xl info").expect("xl answers");
    assert!(info.contains("xen_version            : 4.17"), "{info}");
    assert!(info.contains("xen_caps               : xen-3.0-x86_64"), "{info}");
    let list = dom0.sh("xl list").expect("xl answers");
    assert!(list.lines().any(|line| line.starts_with("Domain-0")), "{list}");
    assert!(dom0.sh("pidof oxenstored").is_ok(), "Debian's default xenstore daemon runs");
}

#[test]
fn a_commands_output_and_exit_code_are_passed_on() {
    let dom0 = DOM0.get();
    let output = dom0.run("printf 'a\\000b\\n\\n'; echo problem >&2; exit 7").expect("it ran");
    assert_eq!(output.code, 7);
    assert_eq!(output.stdout, b"a\0b\n\n");
    assert_eq!(output.stderr, b"problem\n");
    assert_eq!(dom0.run("kill -TERM $$").expect("it ran").code, 128 + 15);
    assert_eq!(dom0.run("").expect("it ran").code, 0);
}

#[test]
fn output_comes_while_the_command_runs() {
    let dom0 = DOM0.get();
    let (start, mut first) = (Instant::now(), None);
    let code = dom0.stream("echo first; sleep 2", &[], Duration::from_secs(20), &mut |stream, bytes| {
        if stream == Stream::Out && bytes.starts_with(b"first") {
            first.get_or_insert(start.elapsed());
        }
    });
    assert_eq!(code.expect("it ran"), 0);
    let first = first.expect("the line came");
    assert!(first + Duration::from_secs(1) < start.elapsed(), "the line came only with the end");
}

#[test]
fn a_command_that_hangs_is_ended_with_all_it_started() {
    let dom0 = DOM0.get();
    let error = dom0.run_with("sleep 7654 & sleep 7654", &[], Duration::from_secs(2)).expect_err("it hangs");
    assert!(error.to_string().contains("did not end within 2 s"), "{error:#}");
    assert_eq!(
        dom0.run("pgrep -f 'sleep 7654'; ps | grep -c '[s]leep 7654'").expect("it ran").stdout,
        b"0\n"
    );
}

#[test]
fn very_short_commands_do_not_wait_for_their_watchdog() {
    let dom0 = DOM0.get();
    let start = Instant::now();
    for number in 0..30 {
        assert_eq!(dom0.run(&format!("exit {number}")).expect("it ran").code, number);
    }
    assert!(start.elapsed() < Duration::from_secs(60), "a command takes {:?}", start.elapsed() / 30);
}

#[test]
fn several_commands_run_at_once() {
    let dom0 = DOM0.get();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for number in 0..3 {
            let dom0 = &dom0;
            scope.spawn(move || {
                let said = dom0.sh(&format!("sleep 3; echo {number}")).expect("it ran");
                assert_eq!(said, format!("{number}\n"));
            });
        }
    });
    assert!(start.elapsed() < Duration::from_secs(8), "one after another: {:?}", start.elapsed());
}

#[test]
fn a_file_comes_back_as_it_went() {
    let dom0 = DOM0.get();
    let mut content = vec![0; 3_000_001];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut content))
        .expect("random bytes");
    dom0.put("/tmp/with space/it's", 0o640, &content).expect("put");
    assert!(dom0.get("/tmp/with space/it's").expect("get") == content, "the file changed on its way");
    assert_eq!(dom0.sh("stat -c %a '/tmp/with space/'*").expect("stat"), "640\n");
    dom0.put("/tmp/empty", 0o644, b"").expect("put");
    assert!(dom0.get("/tmp/empty").expect("get").is_empty());
    assert!(dom0.get("/tmp/missing").is_err());
}

#[test]
fn a_failed_create_is_an_answer() {
    let dom0 = DOM0.get();
    let output = dom0.xl_create("nothing", "type = 'pv'\nkernel = '/srv/missing'").expect("xl ran");
    assert_ne!(output.code, 0);
    assert!(output.stderr_text().contains("/srv/missing"), "{}", output.stderr_text());
}

#[test]
fn a_stock_guest_reads_a_disk_and_answers_the_host() {
    let dom0 = DOM0.get();
    let guest = dom0
        .create(
            "linux",
            "type = 'pv'\nkernel = '/srv/vmlinuz'\nramdisk = '/srv/initramfs'\nmemory = 160\nvcpus = 1\n\
             extra = 'console=hvc0 quiet'\nvif = ['bridge=xenbr0']\n\
             disk = ['format=raw,vdev=xvda,access=r,target=/dev/vda']",
        )
        .expect("xl create");
    let log = guest.wait_log("guest is up", Duration::from_secs(60)).expect("the guest comes up");
    assert!(log.contains(ON_DISK), "{log}");
    assert!(log.contains("10.0.2.50"), "{log}");

    let answer = dom0.wait_http("/", Duration::from_secs(20)).expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body.trim(), PAGE);

    let domid = guest.domid();
    guest.destroy().expect("xl destroy");
    let left = dom0.sh("xenstore-ls /local/domain/0/backend").unwrap_or_default();
    assert!(!left.contains(&format!("/{domid}/")), "{left}");
    assert_ne!(dom0.run("xl domid linux").expect("xl ran").code, 0);
}
