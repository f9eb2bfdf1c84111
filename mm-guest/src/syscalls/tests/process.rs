//! Memory calls, clocks, signals and the process, partly through the kernel's own loop.

use super::*;
use crate::kernel::End;
use crate::machine::{Exit, Registers};
use crate::signal::{Info, number};

const HANDLER: u64 = 0x40_1000;
const RESTORER: u64 = 0x40_2000;
const SIGNAL_STACK: u64 = SCRATCH + 0x20000;

/// Registers of a program that makes a call.
fn calling(call: u64, args: &[u64]) -> (Exit, Registers) {
    let mut a = [0; 6];
    a[..args.len()].copy_from_slice(args);
    let registers = Registers {
        rax: call,
        rdi: a[0],
        rsi: a[1],
        rdx: a[2],
        r10: a[3],
        r8: a[4],
        r9: a[5],
        rip: 0x40_0002,
        rsp: SIGNAL_STACK,
        rflags: 0x202,
        rbx: 77,
        ..Registers::default()
    };
    (Exit::Syscall, registers)
}

impl Guest {
    fn handle(&mut self, signal: u64, flags: u64) {
        let action = [HANDLER, flags | 0x0400_0000, RESTORER, 0].map(u64::to_le_bytes).concat();
        let action = self.put(&action);
        assert_eq!(self.call(13, &[signal, action, 0, 8]), Ok(0));
    }

    fn run(&mut self, script: Vec<(Exit, Registers)>) -> End {
        self.kernel.memory.machine.script.extend(script);
        self.kernel.run()
    }
}

#[test]
fn a_handler_finds_what_linux_shows_it_and_its_return_puts_all_back() {
    let mut guest = Guest::new();
    guest.handle(11, 4);
    let before = Registers {
        rip: 0x40_0000,
        rsp: SIGNAL_STACK,
        rflags: 0x246,
        rbx: 5,
        r15: 6,
        ..Registers::default()
    };
    guest.kernel.memory.machine.fpu = core::array::from_fn(|index| index as u8);
    guest.kernel.registers = before;
    guest.kernel.page_fault(0xdead_0000, true, false);
    guest.kernel.deliver();
    let r = guest.kernel.registers;
    assert_eq!((r.rip, r.rdi, r.rax), (HANDLER, 11, 0));
    assert_eq!(r.rsp % 16, 8, "as behind a call");
    assert!(r.rsp < SIGNAL_STACK - 128, "the red zone is left alone");
    let word = |guest: &mut Guest, at: u64| guest.kernel.memory.read_u64(at).unwrap();
    assert_eq!(word(&mut guest, r.rsp), RESTORER);
    // siginfo: signal, code, address; ucontext: registers, error, vector, mask, address.
    assert_eq!(guest.get(r.rsi, 24)[..12], [11, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!(word(&mut guest, r.rsi + 16), 0xdead_0000);
    let context = |index: u64| r.rdx + 40 + 8 * index;
    let expected = [
        (7, 6),
        (11, 5),
        (15, SIGNAL_STACK),
        (16, 0x40_0000),
        (17, 0x246),
        (19, 6),
        (20, 14),
        (22, 0xdead_0000),
    ];
    for (index, value) in expected {
        assert_eq!(word(&mut guest, context(index)), value, "word {index}");
    }
    let fpu = word(&mut guest, context(23));
    assert_eq!(fpu % 64, 0);
    assert_eq!(guest.get(fpu, 512), core::array::from_fn::<u8, 512, _>(|index| index as u8));
    assert_eq!(guest.kernel.process.signals.blocked, 1 << 10, "itself, while it runs");
    // The handler repairs something, and returns.
    guest.kernel.memory.write_u64(context(16), 0x40_0007).unwrap();
    guest.kernel.memory.machine.fpu = [0; 512];
    guest.kernel.registers = Registers { rsp: r.rsp + 8, rax: 15, rip: RESTORER + 9, ..r };
    guest.kernel.system_call();
    assert_eq!(guest.kernel.registers, Registers { rip: 0x40_0007, ..before });
    assert_eq!(guest.kernel.memory.machine.fpu[511], 255);
    assert_eq!(guest.kernel.process.signals.blocked, 0);
}

#[test]
fn what_a_return_restores_is_a_programs() {
    let mut guest = Guest::new();
    let mut bytes = [0xff; 304];
    bytes[16..40].fill(0);
    guest.kernel.memory.write_bytes(SIGNAL_STACK, &bytes).unwrap();
    guest.kernel.memory.write_u64(SIGNAL_STACK + 40 + 8 * 23, 0).unwrap();
    guest.kernel.registers = Registers { rax: 15, rsp: SIGNAL_STACK, rflags: 0x202, ..Registers::default() };
    guest.kernel.system_call();
    let r = guest.kernel.registers;
    assert_eq!(r.rip, u64::MAX >> 17, "canonical");
    assert_eq!(r.rflags & !0x5_0dd5, 0x202, "no flag of the system's");
    assert_eq!(
        guest.kernel.process.signals.blocked & (1 << 8 | 1 << 18),
        0,
        "KILL and STOP cannot be blocked"
    );
    // Nothing there: the program is told, and not without end.
    guest.kernel.registers = Registers { rax: 15, rsp: 0x10, ..r };
    guest.kernel.system_call();
    guest.kernel.deliver();
    assert_eq!(guest.kernel.ended, Some(End::Killed(11)));
}

#[test]
fn the_loop_ends_with_the_program_however_it_ends() {
    let mut guest = Guest::new();
    assert_eq!(guest.run(vec![calling(39, &[]), calling(231, &[0x107])]), End::Exited(7));
    let fault = |write| (Exit::PageFault { address: 8, write, fetch: false }, Registers::default());
    assert_eq!(Guest::new().run(vec![fault(true)]), End::Killed(number::SEGV));
    let divide = (Exit::Exception { vector: 0, code: 0 }, Registers::default());
    assert_eq!(Guest::new().run(vec![divide]), End::Killed(number::FPE));
    assert_eq!(Guest::new().run(vec![calling(234, &[1, 1, 6])]), End::Killed(6));
    // A blocked signal of the program's own doing ends it all the same; so does an ignored one.
    let mut guest = Guest::new();
    guest.handle(11, 4);
    guest.kernel.process.signals.set_blocked(u64::MAX);
    assert_eq!(guest.run(vec![fault(false)]), End::Killed(number::SEGV));
    // A stack that cannot take the frame.
    let mut guest = Guest::new();
    guest.handle(11, 4);
    assert_eq!(guest.run(vec![fault(false)]), End::Killed(number::SEGV));
}

#[test]
fn signals_wait_while_they_are_blocked_and_come_when_they_are_not() {
    let mut guest = Guest::new();
    guest.handle(10, 0);
    let set = guest.put(&(1_u64 << 9).to_le_bytes());
    let kill = vec![
        calling(14, &[0, set, 0, 8]),
        calling(62, &[1, 10]),
        calling(127, &[BUFFER, 8]),
        calling(14, &[1, set, 0, 8]),
        calling(231, &[0]),
    ];
    guest.kernel.memory.machine.script.extend(kill);
    for _ in 0..3 {
        let exit =
            crate::machine::Processor::run(&mut guest.kernel.memory.machine, &mut guest.kernel.registers);
        assert_eq!(exit, Exit::Syscall);
        guest.kernel.system_call();
        guest.kernel.deliver();
        assert_ne!(guest.kernel.registers.rip, HANDLER);
    }
    assert_eq!(guest.get(BUFFER, 8), (1_u64 << 9).to_le_bytes());
    crate::machine::Processor::run(&mut guest.kernel.memory.machine, &mut guest.kernel.registers);
    guest.kernel.system_call();
    guest.kernel.deliver();
    assert_eq!(guest.kernel.registers.rip, HANDLER);
}

#[test]
fn a_call_that_a_signal_interrupts_says_so_or_is_made_again() {
    for (flags, rip, rax) in [(0, 0x40_0002, -4_i64 as u64), (0x1000_0000, 0x40_0000, 0)] {
        let mut guest = Guest::new();
        guest.handle(14, flags);
        guest.call(37, &[2]).unwrap();
        let (_, registers) = calling(0, &[0, BUFFER, 10]);
        guest.kernel.registers = registers;
        guest.kernel.system_call();
        guest.kernel.deliver();
        let frame = guest.kernel.registers;
        assert_eq!(frame.rip, HANDLER);
        let saved =
            |guest: &mut Guest, index: u64| guest.kernel.memory.read_u64(frame.rdx + 40 + 8 * index).unwrap();
        assert_eq!((saved(&mut guest, 16), saved(&mut guest, 13)), (rip, rax));
    }
}

#[test]
fn the_alternate_stack_is_used_when_asked_for() {
    let mut guest = Guest::new();
    guest.handle(11, 0x0800_0000);
    let stack = guest.put(&[SCRATCH + 0x30000, 0, 0x4000].map(u64::to_le_bytes).concat());
    assert_eq!(guest.call(131, &[stack, 0]), Ok(0));
    guest.kernel.registers = Registers { rsp: 0x10, ..Registers::default() };
    guest.kernel.process.signals.force(Info::kernel(11));
    guest.kernel.deliver();
    let r = guest.kernel.registers;
    assert_eq!(r.rip, HANDLER);
    assert!((SCRATCH + 0x30000..SCRATCH + 0x34000).contains(&r.rsp));
    assert_eq!(guest.call(131, &[stack, 0]), Err(Errno::PERM), "not while on it");
    let small = guest.put(&[SCRATCH, 0, 100].map(u64::to_le_bytes).concat());
    guest.kernel.registers.rsp = SIGNAL_STACK;
    assert_eq!(guest.call(131, &[small, 0]), Err(Errno::NOMEM));
}

#[test]
fn time_passes_where_somebody_waits() {
    let mut guest = Guest::new();
    let time = guest.put(&[2_u64, 500].map(u64::to_le_bytes).concat());
    let before = guest.kernel.memory.machine.now;
    assert_eq!(guest.call(35, &[time, 0]), Ok(0));
    assert_eq!(guest.kernel.memory.machine.now, before + 2_000_000_500);
    assert_eq!(guest.call(230, &[1, 1, time, 0]), Ok(0), "long past");
    assert_eq!(guest.kernel.memory.machine.now, before + 2_000_000_500);
    assert_eq!(guest.call(228, &[0, BUFFER]), Ok(0));
    assert_eq!(guest.get(BUFFER, 8), (1_700_000_000_u64 + 3).to_le_bytes());
    assert_eq!(guest.call(228, &[99, BUFFER]), Err(Errno::INVAL));
    assert_eq!(guest.call(201, &[0]), Ok(1_700_000_003));
    let wrong = guest.put(&[0_u64, 1_000_000_000].map(u64::to_le_bytes).concat());
    assert_eq!(guest.call(35, &[wrong, 0]), Err(Errno::INVAL));
    // A futex of one thread: nobody wakes it.
    let word = guest.put(&5_u32.to_le_bytes());
    assert_eq!(guest.call(202, &[word, 128, 4, 0]), Err(Errno::AGAIN));
    assert_eq!(guest.call(202, &[word, 128, 5, time]), Err(Errno::TIMEDOUT));
    assert_eq!(guest.call(202, &[word, 129, 1]), Ok(0));
    // An alarm interrupts a sleep, and tells what was left.
    guest.handle(14, 0);
    assert_eq!(guest.call(37, &[1]), Ok(0));
    assert_eq!(guest.kernel.memory.machine.alarm, Some(guest.kernel.memory.machine.now + 1_000_000_000));
    assert_eq!(guest.call(35, &[time, BUFFER]), Err(Errno::INTR));
    assert_eq!(guest.get(BUFFER, 16), [1_u64, 500].map(u64::to_le_bytes).concat());
}

#[test]
fn identity_limits_and_what_is_not_there() {
    let mut guest = Guest::new();
    for call in [102, 104, 107, 108] {
        assert_eq!(guest.call(call, &[]), Ok(0));
    }
    assert_eq!((guest.call(39, &[]), guest.call(186, &[]), guest.call(110, &[])), (Ok(1), Ok(1), Ok(0)));
    assert_eq!(guest.call(63, &[BUFFER]), Ok(0));
    assert_eq!(guest.get(BUFFER, 6), b"Linux\0");
    assert_eq!(guest.call(56, &[]), Err(Errno::AGAIN));
    assert_eq!(guest.call(57, &[]), Err(Errno::AGAIN));
    assert_eq!(guest.call(61, &[]), Err(Errno::CHILD));
    assert_eq!(guest.call(62, &[2, 9]), Err(Errno::SRCH));
    assert_eq!(guest.call(158, &[0x1002, 0x1234]), Ok(0));
    assert_eq!(guest.kernel.registers.fs_base, 0x1234);
    assert_eq!(guest.call(158, &[0x1002, 1 << 63]), Err(Errno::PERM));
    assert_eq!(guest.call(318, &[BUFFER, 256, 0]), Ok(256));
    assert_eq!(guest.call(318, &[BUFFER, 256, 8]), Err(Errno::INVAL));
    assert_eq!(guest.call(99, &[BUFFER]), Ok(0));
    assert_eq!(guest.call(204, &[0, 128, BUFFER]), Ok(8));
    assert_eq!(guest.call(165, &[]), Err(Errno::NOSYS));
    assert_eq!(guest.call(165, &[]), Err(Errno::NOSYS));
    assert_eq!(guest.call(435, &[]), Err(Errno::NOSYS));
    assert_eq!(guest.call(u64::MAX, &[]), Err(Errno::NOSYS));
    let console = String::from_utf8_lossy(&guest.kernel.memory.machine.console).into_owned();
    assert_eq!(console.matches("system call mount (165) is not supported").count(), 1, "{console}");
    assert!(!console.contains("clone3"));
}

#[test]
fn mappings_obey_their_flags() {
    let mut guest = Guest::new();
    let map = |guest: &mut Guest, at: u64, length: u64, prot: u64, flags: u64| {
        guest.call(9, &[at, length, prot, flags | 0x22, u64::MAX, 0])
    };
    let at = map(&mut guest, 0, 5 * PAGE_SIZE, 3, 0).unwrap();
    assert_eq!(map(&mut guest, at, PAGE_SIZE, 3, 0x10_0000), Err(Errno::EXIST));
    assert_eq!(map(&mut guest, at + 1, PAGE_SIZE, 3, 0x10), Err(Errno::INVAL));
    assert_eq!(map(&mut guest, 0, PAGE_SIZE, 3, 0x10), Err(Errno::PERM));
    assert_eq!(map(&mut guest, 0, 1 << 50, 3, 0), Err(Errno::NOMEM));
    assert_eq!(map(&mut guest, 0, PAGE_SIZE, 3, 0x40000), Err(Errno::NOMEM), "no huge pages");
    let hint = map(&mut guest, 0x7000_0000, PAGE_SIZE, 3, 0).unwrap();
    assert_eq!(hint, 0x7000_0000, "a hint that can be followed");
    guest.kernel.memory.write_bytes(at + 4 * PAGE_SIZE, b"x").unwrap();
    assert_eq!(guest.call(27, &[at, 5 * PAGE_SIZE, BUFFER]), Ok(0));
    assert_eq!(guest.get(BUFFER, 5), [0, 0, 0, 0, 1]);
    assert_eq!(guest.call(28, &[at, 5 * PAGE_SIZE, 4]), Ok(0));
    assert_eq!(guest.get(at + 4 * PAGE_SIZE, 1), [0]);
    assert_eq!(guest.call(28, &[at, PAGE_SIZE, 14]), Err(Errno::INVAL), "no huge pages");
    assert_eq!(guest.call(11, &[at + PAGE_SIZE, PAGE_SIZE]), Ok(0));
    assert_eq!(guest.call(28, &[at, 5 * PAGE_SIZE, 4]), Err(Errno::NOMEM));
    assert_eq!(guest.call(10, &[at, 5 * PAGE_SIZE, 1]), Err(Errno::NOMEM));
    assert_eq!(guest.call(26, &[at, 5 * PAGE_SIZE, 4]), Err(Errno::NOMEM));
    assert_eq!(guest.call(11, &[at + 1, PAGE_SIZE]), Err(Errno::INVAL));
    let locked = map(&mut guest, 0, 3 * PAGE_SIZE, 3, 0x8000).unwrap();
    assert_eq!(guest.call(27, &[locked, 3 * PAGE_SIZE, BUFFER]), Ok(0));
    assert_eq!(guest.get(BUFFER, 3), [1, 1, 1], "populated");
    assert_eq!(guest.call(149, &[at, 10]), Ok(0));
    assert_eq!(guest.call(12, &[0]), Ok(0));
}

#[test]
fn a_heap_that_is_nearly_used_up_keeps_nothing_more_and_gives_back() {
    let mut guest = Guest::new();
    let fd = guest.open("/tmp/f", 0o102, 0o600).unwrap();
    let at = guest.call(9, &[0, PAGE_SIZE, 3, 0x22, u64::MAX, 0]).unwrap();
    guest.kernel.memory.machine.heap_left = 10_000;
    assert_eq!(guest.open("/tmp/g", 0o102, 0o600), Err(Errno::NOMEM));
    assert_eq!(guest.call(9, &[0, PAGE_SIZE, 3, 0x22, u64::MAX, 0]), Err(Errno::NOMEM));
    assert_eq!(guest.call(22, &[BUFFER]), Err(Errno::NOMEM));
    assert_eq!(guest.write(fd, b"still"), Ok(5));
    assert_eq!(guest.call(11, &[at, PAGE_SIZE]), Ok(0));
    assert_eq!(guest.call(3, &[fd]), Ok(0));
    let path = guest.path("/tmp/f");
    assert_eq!(guest.call(87, &[path]), Ok(0));
}
