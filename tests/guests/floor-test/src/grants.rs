//! What this domain lends, tried out by borrowing it from itself.

use core::fmt::Write;

use xen::grant::{Direction, PageCopy, PermitError, RefPool};
use xen::{Access, GrantRef, GrantStatus};

use crate::{Outcome, World, check};

/// A reference that no other test uses.
pub(crate) const FIRST: u32 = RefPool::END.0;

pub(crate) fn grow(world: &mut World) -> Outcome {
    let grants = world.boot.grants;
    check!(grants.frames() == 1 && grants.capacity() == 512);
    check!(grants.grow_to(grants.frames_max() + 1).is_err());
    check!(grants.grow_to(8).is_ok());
    check!(grants.capacity() == 4096);
    check!(world.boot.hypervisor.grant_query_size() == Ok((8, grants.frames_max())));
    Ok(())
}

pub(crate) fn lend(world: &mut World) -> Outcome {
    let (grants, domid) = (world.boot.grants, world.boot.domid);
    let frame = world.pool.alloc().map_err(|_| "alloc")?;
    frame.zero();
    frame.words().store(5, 1234);
    let reference = GrantRef(FIRST);
    check!(grants.permit(reference, domid, frame.mfn(), Access::ReadOnly).is_ok());
    check!(grants.permit(reference, domid, frame.mfn(), Access::ReadOnly) == Err(PermitError::Occupied));
    check!(!grants.is_reading(reference));
    let mut page = [None];
    check!(world.window.map(domid, &[reference], &mut page).is_ok());
    check!(grants.is_reading(reference) && grants.try_revoke(reference).is_err());
    let words = page[0].as_ref().ok_or("no page")?.words();
    check!(words.load(5) == 1234);
    frame.words().store(5, 99);
    check!(words.load(5) == 99);
    world.window.unmap(&mut page);
    check!(!grants.is_in_use(reference) && grants.try_revoke(reference).is_ok());

    // Writable.
    check!(grants.permit(reference, domid, frame.mfn(), Access::ReadWrite).is_ok());
    check!(world.window.map_writable(domid, &[reference], &mut page).is_ok());
    page[0].as_ref().ok_or("no page")?.words().store(6, 4321);
    check!(frame.words().load(6) == 4321);
    check!(grants.is_in_use(reference));
    world.window.unmap(&mut page);
    check!(grants.try_revoke(reference).is_ok());
    world.pool.free(frame);
    Ok(())
}

pub(crate) fn unshareable(world: &mut World) -> Outcome {
    let (grants, domid) = (world.boot.grants, world.boot.domid);
    let reference = GrantRef(FIRST);
    static OURS: xen::PageWords = xen::PageWords::new();
    // A word of it is written, so that it is not a constant.
    OURS.store(0, 1);
    let frame = xen_rt::mfn_of(&OURS);
    check!(grants.permit(reference, domid, frame, Access::ReadOnly) == Err(PermitError::Unshareable));
    let page = world.boot.memory.page().ok_or("page")?;
    let frame = world.boot.memory.mfn_of(page);
    check!(grants.permit(reference, domid, frame, Access::ReadOnly).is_ok());
    check!(grants.try_revoke(reference).is_ok());
    check!(grants.permit(GrantRef(7), domid, frame, Access::ReadOnly) == Err(PermitError::OutOfRange));
    check!(grants.permit(GrantRef(4096), domid, frame, Access::ReadOnly) == Err(PermitError::OutOfRange));
    Ok(())
}

/// Frames that nobody has cannot be lent, and one that is freed while it is lent is not used again.
pub(crate) fn lost(world: &mut World) -> Outcome {
    let (grants, domid) = (world.boot.grants, world.boot.domid);
    let reference = GrantRef(FIRST);
    let frame = world.pool.alloc().map_err(|_| "alloc")?;
    let number = frame.mfn();
    world.pool.free(frame);
    check!(grants.permit(reference, domid, number, Access::ReadWrite) == Err(PermitError::Unshareable));
    let mut copies = [PageCopy::page(number, domid, reference, Direction::FromPeer)];
    check!(
        grants.copy(world.boot.hypervisor, &mut copies).is_ok() && copies[0].status == GrantStatus::BAD_PAGE
    );

    let frame = world.pool.alloc().map_err(|_| "alloc")?;
    let number = frame.mfn();
    let available = world.pool.available();
    check!(grants.permit(reference, domid, number, Access::ReadWrite).is_ok());
    check!(grants.permit(GrantRef(FIRST + 1), domid, number, Access::ReadWrite).is_ok());
    check!(grants.try_revoke(reference).is_ok());
    world.pool.free(frame);
    check!(world.pool.counters().lost == 1 && world.pool.available() == available);
    check!(grants.try_revoke(GrantRef(FIRST + 1)).is_ok());
    Ok(())
}

pub(crate) fn refusals(world: &mut World) -> Outcome {
    let (grants, domid) = (world.boot.grants, world.boot.domid);
    let reference = GrantRef(FIRST);
    let mut page = [None];
    check!(world.window.map(domid, &[reference], &mut page) == Err(GrantStatus::GENERAL_ERROR));
    check!(world.window.map(domid, &[GrantRef(1 << 20)], &mut page) == Err(GrantStatus::BAD_GNTREF));
    check!(world.window.map(xen::DomId(0x7000), &[reference], &mut page) == Err(GrantStatus::BAD_DOMAIN));
    let frame = world.pool.alloc().map_err(|_| "alloc")?;
    check!(grants.permit(reference, domid, frame.mfn(), Access::ReadOnly).is_ok());
    check!(world.window.map_writable(domid, &[reference], &mut page) == Err(GrantStatus::GENERAL_ERROR));
    check!(page[0].is_none());
    check!(grants.try_revoke(reference).is_ok());
    world.pool.free(frame);
    Ok(())
}

pub(crate) fn copy(world: &mut World) -> Outcome {
    let (grants, domid) = (world.boot.grants, world.boot.domid);
    let ours = world.pool.alloc().map_err(|_| "alloc")?;
    let theirs = world.pool.alloc().map_err(|_| "alloc")?;
    for index in 0..1024 {
        ours.words().store(index, u32::try_from(index).unwrap_or(0) * 3);
    }
    theirs.zero();
    let reference = GrantRef(FIRST);
    check!(grants.permit(reference, domid, theirs.mfn(), Access::ReadWrite).is_ok());
    let mut copies = [PageCopy::page(ours.mfn(), domid, reference, Direction::ToPeer); 3];
    copies[1].peer_offset = 8;
    copies[2].reference = GrantRef(FIRST + 1);
    check!(grants.copy(world.boot.hypervisor, &mut copies).is_ok());
    check!(copies[0].status == GrantStatus::OKAY);
    check!(copies[1].status == GrantStatus::BAD_COPY_ARG);
    check!(copies[2].status == GrantStatus::GENERAL_ERROR);
    check!((0..1024).all(|index| theirs.words().load(index) as usize == index * 3));
    theirs.words().store(3, 77);
    let mut back = [PageCopy {
        len: 4,
        peer_offset: 12,
        offset: 100,
        ..PageCopy::page(ours.mfn(), domid, reference, Direction::FromPeer)
    }];
    check!(grants.copy(world.boot.hypervisor, &mut back).is_ok() && back[0].status.is_okay());
    check!(ours.words().load(25) == 77);
    check!(grants.try_revoke(reference).is_ok());
    world.pool.free(ours);
    world.pool.free(theirs);
    Ok(())
}

pub(crate) fn batches(world: &mut World) -> Outcome {
    let (grants, domid) = (world.boot.grants, world.boot.domid);
    let frame = world.pool.alloc().map_err(|_| "alloc")?;
    let references: [GrantRef; 70] =
        core::array::from_fn(|i| GrantRef(FIRST + u32::try_from(i).unwrap_or(0)));
    for reference in references {
        check!(grants.permit(reference, domid, frame.mfn(), Access::ReadOnly).is_ok());
    }
    let mut pages = [const { None }; 70];
    check!(world.window.map(domid, &references, &mut pages).is_ok());
    check!(references.iter().all(|reference| grants.is_reading(*reference)));
    check!(pages.iter().flatten().map(|page| page.reference()).eq(references));
    world.window.unmap(&mut pages);
    // More than the window has.
    let mut too_many = [const { None }; 140];
    let mut twice = [GrantRef(FIRST); 140];
    twice[..70].copy_from_slice(&references);
    check!(world.window.map(domid, &twice, &mut too_many) == Err(GrantStatus::NO_SPACE));
    check!(world.window.free() == 0);
    world.window.unmap(&mut too_many);
    for reference in references {
        check!(grants.try_revoke(reference).is_ok());
    }
    world.pool.free(frame);
    Ok(())
}

pub(crate) fn retire(world: &mut World) -> Outcome {
    let (grants, domid) = (world.boot.grants, world.boot.domid);
    let frame = world.pool.alloc().map_err(|_| "alloc")?;
    frame.words().store(0, 11);
    let reference = GrantRef(FIRST);
    check!(grants.permit(reference, domid, frame.mfn(), Access::ReadWrite).is_ok());
    let page = world.window.map_static(domid, reference, Access::ReadWrite).map_err(|_| "map")?;
    let words = page.words();
    check!(words.load(0) == 11);
    words.store(1, 12);
    check!(frame.words().load(1) == 12);
    world.window.retire(page);
    check!(grants.try_revoke(reference).is_ok());
    words.store(1, 13);
    check!(frame.words().load(1) == 12);
    // The address is used again, and a map that fails leaves words there too.
    check!(world.window.map_static(domid, reference, Access::ReadWrite).is_err());
    words.store(2, 14);
    check!(grants.permit(reference, domid, frame.mfn(), Access::ReadWrite).is_ok());
    let page = world.window.map_static(domid, reference, Access::ReadWrite).map_err(|_| "map again")?;
    check!(core::ptr::eq(page.words(), words) && words.load(1) == 12);
    world.window.retire(page);
    check!(grants.try_revoke(reference).is_ok());
    words.store(1, 15);
    check!(frame.words().load(1) == 12);
    world.pool.free(frame);
    Ok(())
}

/// Dies of a page fault.
pub(crate) fn write_to_read_only(world: &mut World) {
    let (grants, domid) = (world.boot.grants, world.boot.domid);
    let _ = grants.grow_to(8);
    let frame = world.pool.alloc().expect("a frame");
    grants.permit(GrantRef(FIRST), domid, frame.mfn(), Access::ReadOnly).expect("permitted");
    let mut page = [None];
    world.window.map(domid, &[GrantRef(FIRST)], &mut page).expect("mapped");
    if let Some(page) = &page[0] {
        page.words().store(0, 1);
    }
}

/// Makes the calls of `xen::conformance`, and compares each result with the record. With `record` in the command line it prints
/// them instead, for the record.
pub(crate) fn conformance(world: &mut World) -> Outcome {
    let mut console = world.boot.console;
    let print = world.boot.cmdline.contains("record");
    let one = world.pool.alloc().map_err(|_| "alloc")?;
    let two = world.pool.alloc().map_err(|_| "alloc")?;
    let mut expected = xen::conformance::EXPECTED.lines();
    let mut different = 0;
    let tried = world.window.conformance(&world.boot, [&one, &two], GrantRef(FIRST), &mut |name, code| {
        let line = expected.next().unwrap_or("");
        let same = line.rsplit_once(": ").is_some_and(|(expected_name, expected_code)| {
            expected_name == name && expected_code.parse() == Ok(code)
        });
        if print {
            let _ = writeln!(console, "record {name}: {code}");
        } else if !same {
            different += 1;
            let _ = writeln!(console, "{name}: {code}, expected {line:?}");
        }
    });
    check!(tried.is_ok());
    check!(different == 0);
    check!(print || expected.next().is_none());
    world.pool.free(one);
    world.pool.free(two);
    Ok(())
}
