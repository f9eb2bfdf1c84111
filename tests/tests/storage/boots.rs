//! Debian's system boots from M1 and writes over what all share, in every way that people start guests.

use m1_tests::full;
use m1_tests::m1::m1;

use crate::bed::{ADDRESSES, LIMIT, MACHINE, stock, turn};

const VOLUMES: &str = "volume=debian:xvda volume=debian-erofs:xvdb,group=linux volume=empty:xvdc,group=linux";

/// A name, an example of `xl-config/`, more words for the kernel, and what the guest's root has to be.
const GUESTS: [(&str, &str, &str, &str); 5] = [
    // It takes longest: GRUB unpacks the kernel.
    ("grub", "linux-grub.cfg", "", "/dev/xvda ext4"),
    ("pv", "linux-pv.cfg", "job=write", "/dev/xvda ext4"),
    ("pvh", "linux-pvh.cfg", "job=write", "/dev/xvda ext4"),
    ("disk", "linux-overlay.cfg", "job=write", "overlay overlay"),
    ("tmpfs", "linux-overlay.cfg", "job=write upper=tmpfs", "overlay overlay"),
];

#[test]
fn debian_boots_as_pv_as_pvh_from_grub_and_below_overlayfs_and_each_guest_keeps_what_it_writes() {
    let _turn = turn();
    let dom0 = MACHINE.get();
    let config = m1(&["/dev/vda", "/dev/vdb", "/dev/vdc"], VOLUMES);
    let m1 = dom0.start_m1("boots-m1", ADDRESSES[0], config).expect("M1 starts");
    // QEMU 7.2's emulation now and then loses a PVH guest by a triple fault before its kernel has said anything: only in the full form.
    let guests = GUESTS.into_iter().filter(|(name, ..)| *name != "pvh" || full::wanted());
    let guests: Vec<_> = guests
        .map(|(name, example, words, root)| {
            (stock(&dom0, &format!("boots-{name}"), example, m1.name(), words), root)
        })
        .collect();
    for (guest, root) in guests {
        let ended = guest.wait_end(LIMIT);
        let log = guest.log().expect("a console");
        let m1_log = || m1.log().unwrap_or_default();
        ended.unwrap_or_else(|error| panic!("{error:#}\n{log}\n{}", m1_log()));
        let debian = log.lines().find(|line| line.starts_with("init: Debian 12"));
        let debian = debian.unwrap_or_else(|| panic!("{} did not boot\n{log}\n{}", guest.name(), m1_log()));
        let words: Vec<&str> = debian.split_whitespace().collect();
        assert!(words.join(" ").contains(root), "{debian}");
        let mut wanted = vec![
            "job: the file is as it was written",
            "job: the package is there",
            "init: job write ended with 0",
            "init: done",
        ];
        if root.ends_with("ext4") {
            wanted.push("init: e2fsck ended with 0");
        }
        for line in wanted {
            let said = log.lines().any(|said| said.trim_end() == line);
            assert!(said, "{}: no {line:?} in\n{log}\n{}", guest.name(), m1_log());
        }
        assert!(!log.contains("I/O error"), "{log}");
    }
    m1.destroy().expect("it ends");
}
