//! User mode.

use xen::{Access, GrantRef, GrantStatus, Virq};
use xen_rt::user::{
    Entry, Exit, Frame, FramePool, MapError, NotMapped, NotWritable, Prot, ProtectError, SharedMap, Unmapped,
    UserContext, UserPage, UserSpace, text_is_shareable,
};

use crate::grants::FIRST;
use crate::{Outcome, World, check, program};

const TEXT: u64 = 0x40_0000;
const DATA: u64 = 0x70_0000;
const STACK: u64 = 0x7fff_ffff_e000;

fn page(va: u64) -> Result<UserPage, &'static str> {
    UserPage::try_new(va).ok_or("user page")
}

fn frame_with(pool: &mut FramePool, bytes: &[u8]) -> Result<Frame, &'static str> {
    let frame = pool.alloc().map_err(|_| "alloc")?;
    frame.zero();
    check_write(&frame, bytes)?;
    Ok(frame)
}

fn check_write(frame: &Frame, bytes: &[u8]) -> Outcome {
    if frame.words().write(0, bytes) { Ok(()) } else { Err("program too long") }
}

/// A space with a program in private text.
fn space_with(pool: &mut FramePool, bytes: &[u8]) -> Result<UserSpace, &'static str> {
    let mut space = UserSpace::new(pool).map_err(|_| "space")?;
    let text = frame_with(pool, bytes)?;
    map(&mut space, pool, TEXT, text, Prot::ReadExec)?;
    Ok(space)
}

fn map(space: &mut UserSpace, pool: &mut FramePool, va: u64, frame: Frame, prot: Prot) -> Outcome {
    space.map_private(pool, page(va)?, frame, prot).map_err(|_| "map_private")
}

/// Unmaps `pages`, frees what was private, and ends the space.
fn finish(mut space: UserSpace, pool: &mut FramePool, pages: &[u64]) -> Outcome {
    for va in pages {
        space.unmap(&[page(*va)?], &mut |_, found| {
            if let Unmapped::Private(frame) = found {
                pool.free(frame);
            }
        });
    }
    space.destroy(pool).map_err(|_| "something is mapped still")
}

pub(crate) fn syscalls(world: &mut World) -> Outcome {
    let pool = &mut world.pool;
    let mut space = space_with(pool, program::SYSCALLS)?;
    let data = frame_with(pool, &0x1122_3344_5566_7788_u64.to_le_bytes())?;
    map(&mut space, pool, 0x50_0000, data, Prot::Read)?;
    let results = frame_with(pool, &[])?;
    map(&mut space, pool, 0x60_0000, results, Prot::ReadWrite)?;
    let mut context = UserContext::new(TEXT, STACK);
    context.fs_base = 0x50_0000;
    check!(context.run(&space) == Exit::Syscall);
    check!(context.regs.rax == 42 && context.regs.rdi == 0x1122_3344_5566_7788);
    check!(context.regs.rip == TEXT + 15);
    context.regs.rax = 4711;
    check!(context.run(&space) == Exit::Syscall);
    check!(context.regs.rax == 43 && context.regs.rdi == 0x1122_3344_5566_7788);
    let mut word = [0; 8];
    check!(space.read(0x60_0000, &mut word).is_ok() && u64::from_le_bytes(word) == 4711);
    check!(context.run(&space) == Exit::Exception { vector: 6, code: 0 });
    check!(space.private_pages() == 3 && space.shared_pages() == 0);
    finish(space, pool, &[TEXT, 0x50_0000, 0x60_0000])
}

pub(crate) fn demand(world: &mut World) -> Outcome {
    let pool = &mut world.pool;
    let mut space = UserSpace::new(pool).map_err(|_| "space")?;
    let mut context = UserContext::new(TEXT, STACK);
    let fault = |va, write, fetch, present| Exit::PageFault { va, write, fetch, present };
    check!(context.run(&space) == fault(TEXT, false, true, false));
    // Without execute permission it faults again.
    let text = frame_with(pool, program::WRITES)?;
    map(&mut space, pool, TEXT, text, Prot::Read)?;
    check!(context.run(&space) == fault(TEXT, false, true, true));
    check!(space.protect(page(TEXT)?, Prot::ReadExec).is_ok());
    check!(context.run(&space) == fault(DATA + 8, false, false, false));
    let data = frame_with(pool, &[9; 16])?;
    map(&mut space, pool, DATA, data, Prot::Read)?;
    check!(context.run(&space) == fault(DATA, true, false, true));
    check!(space.write(DATA, &[1]) == Err(NotWritable { va: DATA }));
    check!(space.protect(page(DATA)?, Prot::ReadWrite).is_ok());
    check!(context.run(&space) == Exit::Syscall);
    check!(context.regs.rdi == 0x0909_0909_0909_0909 && context.regs.rsi == 5);
    // Reads and writes by the kernel, over a page's end.
    let next = frame_with(pool, &[3; 8])?;
    map(&mut space, pool, DATA + 0x1000, next, Prot::ReadWrite)?;
    check!(space.write(DATA + 0xffe, &[1, 2, 4, 5]).is_ok());
    let mut bytes = [0; 5];
    check!(space.read(DATA + 0xffe, &mut bytes).is_ok() && bytes == [1, 2, 4, 5, 3]);
    check!(space.read(DATA + 0x1ffe, &mut bytes) == Err(NotMapped { va: DATA + 0x2000 }));
    check!(space.write(DATA + 0x1fff, &bytes) == Err(NotWritable { va: DATA + 0x2000 }));
    check!(space.read(u64::MAX - 1, &mut bytes).is_err() && space.read(1 << 47, &mut bytes).is_err());
    let spare = frame_with(pool, &[])?;
    match space.map_private(pool, page(DATA)?, spare, Prot::Read) {
        Err((frame, MapError::Occupied)) => pool.free(frame),
        _ => return Err("an occupied page was mapped"),
    }
    finish(space, pool, &[TEXT, DATA, DATA + 0x1000])
}

/// A page lent to ourselves under `reference`.
fn lend(world: &mut World, reference: u32, bytes: &[u8]) -> Result<Frame, &'static str> {
    let frame = frame_with(&mut world.pool, bytes)?;
    let (grants, domid) = (world.boot.grants, world.boot.domid);
    grants.permit(GrantRef(reference), domid, frame.mfn(), Access::ReadOnly).map_err(|_| "permit")?;
    Ok(frame)
}

pub(crate) fn copy_on_write(world: &mut World) -> Outcome {
    let reference = GrantRef(FIRST);
    let lent = lend(world, FIRST, &[8; 64])?;
    let (grants, domid) = (world.boot.grants, world.boot.domid);
    let pool = &mut world.pool;
    let mut space = space_with(pool, program::WRITES)?;
    let mut context = UserContext::new(TEXT, STACK);
    check!(matches!(context.run(&space), Exit::PageFault { va, write: false, .. } if va == DATA + 8));
    let map = SharedMap { page: page(DATA)?, owner: domid, reference, prot: Prot::Read };
    let mut status = [GrantStatus::GENERAL_ERROR];
    space.map_shared(pool, &[map], &mut status);
    check!(status[0].is_okay() && grants.is_reading(reference) && space.shared_pages() == 1);
    check!(space.entry(map.page) == Entry::Shared { reference, prot: Prot::Read });
    let mut bytes = [0; 70];
    check!(space.read(DATA, &mut bytes).is_ok() && bytes[..64] == [8; 64] && bytes[64..] == [0; 6]);
    check!(space.write(DATA, &bytes) == Err(NotWritable { va: DATA }));
    check!(space.protect(map.page, Prot::ReadWrite) == Err(ProtectError::Shared));
    check!(context.run(&space) == Exit::PageFault { va: DATA, write: true, fetch: false, present: true });
    check!(context.regs.rdi == 0x0808_0808_0808_0808);
    let own = pool.alloc().map_err(|_| "alloc")?;
    check!(space.copy_page(map.page, &own).is_ok());
    check!(space.replace_shared(map.page, own, Prot::ReadWrite) == Ok(reference));
    check!(!grants.is_in_use(reference) && space.shared_pages() == 0 && space.private_pages() == 2);
    check!(context.run(&space) == Exit::Syscall);
    check!(context.regs.rsi == 5);
    check!(lent.words().load(0) == 0x0808_0808);
    check!(space.read(DATA, &mut bytes).is_ok() && bytes[0] == 5 && bytes[8] == 8);
    check!(grants.try_revoke(reference).is_ok());
    finish(space, pool, &[TEXT, DATA])?;
    pool.free(lent);
    Ok(())
}

pub(crate) fn shared_text(world: &mut World) -> Outcome {
    check!(text_is_shareable());
    let reference = GrantRef(FIRST);
    let lent = lend(world, FIRST, program::DIVIDE)?;
    let (grants, domid) = (world.boot.grants, world.boot.domid);
    let pool = &mut world.pool;
    let mut space = UserSpace::new(pool).map_err(|_| "space")?;
    let map = SharedMap { page: page(TEXT)?, owner: domid, reference, prot: Prot::ReadExec };
    let mut status = [GrantStatus::GENERAL_ERROR];
    space.map_shared(pool, &[map], &mut status);
    check!(status[0].is_okay());
    let mut context = UserContext::new(TEXT, STACK);
    check!(context.run(&space) == Exit::Exception { vector: 0, code: 0 });
    check!(context.regs.rip == TEXT + 2);
    // And without permission again.
    check!(space.protect(map.page, Prot::Read).is_ok());
    check!(matches!(context.run(&space), Exit::PageFault { fetch: true, present: true, .. }));
    check!(grants.is_reading(reference));
    let mut found = None;
    space.unmap(&[map.page], &mut |_, what| found = Some(what));
    check!(found == Some(Unmapped::Shared(reference)) && !grants.is_in_use(reference));
    check!(grants.try_revoke(reference).is_ok());
    finish(space, pool, &[])?;
    pool.free(lent);
    Ok(())
}

pub(crate) fn shared_batch(world: &mut World) -> Outcome {
    const PAGES: usize = 80;
    let lent = lend(world, FIRST, program::LOOP)?;
    let (grants, domid) = (world.boot.grants, world.boot.domid);
    let number = |i: usize| FIRST + u32::try_from(i).unwrap_or(0);
    for i in 1..PAGES {
        let permitted = grants.permit(GrantRef(number(i)), domid, lent.mfn(), Access::ReadOnly);
        check!(permitted.is_ok());
    }
    let pool = &mut world.pool;
    let mut space = UserSpace::new(pool).map_err(|_| "space")?;
    // Over a table's end, two of three executable; one page is taken, one reference is not permitted, one is twice there.
    let first = 0x60_0000 - 40 * 0x1000;
    let own = frame_with(pool, &[])?;
    map(&mut space, pool, first + 0x3000, own, Prot::None)?;
    let mut maps =
        [SharedMap { page: page(first)?, owner: domid, reference: GrantRef(0), prot: Prot::Read }; PAGES];
    for (i, map) in maps.iter_mut().enumerate() {
        map.page = page(first + i as u64 * 0x1000)?;
        map.reference = GrantRef(number(i));
        map.prot = if i % 3 == 0 { Prot::Read } else { Prot::ReadExec };
    }
    maps[5].reference = GrantRef(number(PAGES));
    maps[7].page = maps[6].page;
    maps[9].prot = Prot::ReadWrite;
    let mut statuses = [GrantStatus::GENERAL_ERROR; PAGES];
    space.map_shared(pool, &maps, &mut statuses);
    for (i, status) in statuses.iter().enumerate() {
        let expected = match i {
            3 | 7 | 9 => GrantStatus::BAD_VIRT_ADDR,
            5 => GrantStatus::GENERAL_ERROR,
            _ => GrantStatus::OKAY,
        };
        check!(*status == expected);
    }
    check!(space.shared_pages() == PAGES - 4 && space.private_pages() == 1);
    check!(space.entry(maps[3].page) == Entry::Private { prot: Prot::None });
    check!(space.entry(maps[5].page) == Entry::Absent);
    for (i, map) in maps.iter().enumerate() {
        check!(matches!(i, 3 | 5 | 7 | 9) || grants.is_reading(map.reference));
    }
    // Execute in one that is executable, and not in one that is not.
    let mut context = UserContext::new(maps[12].page.address(), STACK);
    check!(matches!(context.run(&space), Exit::PageFault { fetch: true, present: true, .. }));
    let pages: [UserPage; PAGES] = core::array::from_fn(|i| maps[i].page);
    let (mut shared, mut absent) = (0, 0);
    space.unmap(&pages, &mut |_, found| match found {
        Unmapped::Private(frame) => pool.free(frame),
        Unmapped::Shared(_) => shared += 1,
        Unmapped::Absent => absent += 1,
    });
    check!(shared == PAGES - 4 && absent == 3);
    for i in 0..PAGES {
        check!(!grants.is_in_use(GrantRef(number(i))));
        check!(grants.try_revoke(GrantRef(number(i))).is_ok());
    }
    finish(space, pool, &[])?;
    pool.free(lent);
    Ok(())
}

pub(crate) fn protect(world: &mut World) -> Outcome {
    let pool = &mut world.pool;
    let mut space = space_with(pool, program::WRITES)?;
    let data = frame_with(pool, &[1; 16])?;
    map(&mut space, pool, DATA, data, Prot::ReadWrite)?;
    let data = page(DATA)?;
    check!(space.protect(data, Prot::None).is_ok());
    check!(space.entry(data) == Entry::Private { prot: Prot::None });
    check!(space.read(DATA, &mut [0]) == Err(NotMapped { va: DATA }));
    let mut context = UserContext::new(TEXT, STACK);
    check!(matches!(context.run(&space), Exit::PageFault { present: false, .. }));
    check!(space.protect(data, Prot::ReadWrite).is_ok());
    check!(context.run(&space) == Exit::Syscall && context.regs.rdi == 0x0101_0101_0101_0101);
    check!(space.protect(page(DATA + 0x1000)?, Prot::Read) == Err(ProtectError::Absent));
    check!(space.protect(page(1 << 40)?, Prot::Read) == Err(ProtectError::Absent));
    finish(space, pool, &[TEXT, DATA])
}

pub(crate) fn registers(world: &mut World) -> Outcome {
    let avx = world.boot.avx;
    let pool = &mut world.pool;
    let mut space = space_with(pool, program::REGISTERS)?;
    let stack = frame_with(pool, &[])?;
    map(&mut space, pool, STACK - 0x1000, stack, Prot::ReadWrite)?;
    let mut context = UserContext::new(TEXT, STACK - 16);
    let r = &mut context.regs;
    (r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp) = (10, 20, 30, 40, 50, 60, 70);
    (r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15) = (80, 90, 100, 110, 120, 130, 140, 150);
    check!(context.run(&space) == Exit::Exception { vector: 3, code: 0 });
    let r = &context.regs;
    check!((r.rax, r.rbx, r.rcx, r.rdx, r.rsi, r.rdi, r.rbp) == (11, 21, 31, 41, 51, 61, 71));
    check!((r.r8, r.r9, r.r10, r.r11, r.r12, r.r13, r.r14, r.r15) == (81, 91, 101, 111, 121, 131, 141, 151));
    check!(r.rsp == STACK - 8 && r.rflags & 0x400 != 0);
    check!(context.fx[160 + 7 * 16..][..8] == 302_u64.to_le_bytes());
    // The kernel's own floating point in between, and a control word that the processor would refuse.
    let third = core::hint::black_box(1.0_f64) / core::hint::black_box(3.0);
    check!(third > 0.33 && third < 0.34);
    context.fx[27] = 0xff;
    context.regs.rflags |= 0x3000;
    check!(context.run(&space) == Exit::Exception { vector: 3, code: 0 });
    check!(context.regs.rax == 302);
    // Direction flag kept, no privilege to do input and output.
    check!(context.regs.rbx & 0x400 != 0 && context.regs.rflags & 0x3000 == 0);
    finish(space, pool, &[TEXT, STACK - 0x1000])?;
    if avx {
        let space = space_with(pool, program::AVX)?;
        let mut context = UserContext::new(TEXT, STACK);
        check!(context.run(&space) == Exit::Syscall);
        check!(context.run(&space) == Exit::Syscall && context.regs.rax == u64::MAX);
        finish(space, pool, &[TEXT])?;
    }
    Ok(())
}

pub(crate) fn exceptions(world: &mut World) -> Outcome {
    let pool = &mut world.pool;
    let space = space_with(pool, program::DIVIDE)?;
    check!(UserContext::new(TEXT, STACK).run(&space) == Exit::Exception { vector: 0, code: 0 });
    finish(space, pool, &[TEXT])?;
    let space = space_with(pool, program::HALT)?;
    check!(matches!(UserContext::new(TEXT, STACK).run(&space), Exit::Exception { vector: 13, .. }));
    finish(space, pool, &[TEXT])?;
    let space = space_with(pool, program::PEEK)?;
    check!(matches!(
        UserContext::new(TEXT, STACK).run(&space),
        Exit::PageFault { va: 0xffff_8800_0000_0000, .. }
    ));
    // Somewhere that is not an address at all.
    let exit = UserContext::new(1 << 63, STACK).run(&space);
    check!(matches!(exit, Exit::PageFault { .. } | Exit::Exception { vector: 13, .. }));
    finish(space, pool, &[TEXT])
}

pub(crate) fn preempt(world: &mut World) -> Outcome {
    let (events, xen, clock) = (world.boot.events, world.boot.hypervisor, world.boot.clock);
    let pool = &mut world.pool;
    let space = space_with(pool, program::LOOP)?;
    let port = xen.evtchn_bind_virq(Virq::Timer).map_err(|_| "bind")?;
    events.take_pending().for_each(drop);
    let mut context = UserContext::new(TEXT, STACK);
    for _ in 0..3 {
        let start = clock.now_ns();
        check!(xen.set_timer(Some(start + 2_000_000)).is_ok());
        check!(context.run(&space) == Exit::Event);
        check!(clock.now_ns() >= start + 2_000_000);
        check!(context.regs.rip == TEXT);
        check!(events.take_pending().any(|pending| pending == port));
    }
    check!(xen.evtchn_close(port).is_ok());
    finish(space, pool, &[TEXT])
}

pub(crate) fn two_spaces(world: &mut World) -> Outcome {
    let pool = &mut world.pool;
    let mut spaces = [space_with(pool, program::WRITES)?, space_with(pool, program::WRITES)?];
    for (space, byte) in spaces.iter_mut().zip([1_u8, 2]) {
        let data = frame_with(pool, &[byte; 16])?;
        map(space, pool, DATA, data, Prot::ReadWrite)?;
    }
    for (space, byte) in spaces.iter().zip([1_u8, 2]) {
        let mut context = UserContext::new(TEXT, STACK);
        check!(context.run(space) == Exit::Syscall);
        check!(context.regs.rdi == u64::from_le_bytes([byte; 8]));
    }
    for space in spaces {
        finish(space, pool, &[TEXT, DATA])?;
    }
    Ok(())
}
