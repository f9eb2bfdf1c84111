//! Any call with any arguments: the kernel goes on, and loses no frame.

use proptest::prelude::*;

use super::*;

/// A word that a program might pass: small, a descriptor, an address that is good, bad, or at an edge, or anything.
fn word() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0..12_u64,
        4 => (0..SCRATCH_PAGES * PAGE_SIZE).prop_map(|offset| SCRATCH + offset),
        2 => Just(SCRATCH),
        1 => Just(SCRATCH + SCRATCH_PAGES * PAGE_SIZE - 4),
        1 => (0..40_u64).prop_map(|shift| 1 << shift),
        1 => (0..20_u64).prop_map(|less| u64::MAX - less),
        1 => Just(crate::page::USER_END - 8),
        1 => Just(-100_i64 as u64),
        1 => any::<u64>(),
        1 => (0..8_u64).prop_map(|pages| pages * PAGE_SIZE),
    ]
}

fn call() -> impl Strategy<Value = (u64, [u64; 6])> {
    // Ending the program is no interesting thing to do to a kernel.
    let number = prop_oneof![0..335_u64, 424..451_u64].prop_filter("ends", |call| !matches!(call, 60 | 231));
    (number, proptest::array::uniform6(word()))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn no_call_stops_the_kernel(calls in proptest::collection::vec(call(), 1..60), fill in any::<[u64; 16]>()) {
        let mut guest = Guest::with(PLAIN, 600);
        // Something to be misunderstood, and some paths.
        for (index, word) in fill.iter().enumerate() {
            guest.kernel.memory.write_bytes(SCRATCH + 32 * index as u64, &word.to_le_bytes()).unwrap();
        }
        for (index, path) in ["/a/size-9000", "/tmp/x", "/proc/self/fd/3", "/dev/zero", "a"].iter().enumerate() {
            let mut bytes = path.as_bytes().to_vec();
            bytes.push(0);
            guest.kernel.memory.write_bytes(SCRATCH + 1024 * (index as u64 + 1), &bytes).unwrap();
        }
        for (call, args) in calls {
            // Whoever would wait for ever is interrupted.
            let now = guest.kernel.memory.machine.now;
            guest.kernel.process.alarm = (now + 1_000_000_000, 1_000_000_000);
            guest.kernel.process.signals.actions[13].handler = 0x40_0000;
            guest.kernel.process.signals.set_blocked(0);
            guest.kernel.registers.rax = call;
            let r = &mut guest.kernel.registers;
            [r.rdi, r.rsi, r.rdx, r.r10, r.r8, r.r9] = args;
            guest.kernel.system_call();
            guest.kernel.process.signals.saved = None;
            guest.kernel.process.signals.take(u64::MAX);
        }
        let held = guest.kernel.memory.store.frames_held();
        let mapped = guest.kernel.memory.resident().0 - held;
        prop_assert_eq!(guest.kernel.memory.machine.used, held + mapped);
        guest.kernel.memory.clear();
        prop_assert_eq!(guest.kernel.memory.machine.used, guest.kernel.memory.store.frames_held());
    }
}
