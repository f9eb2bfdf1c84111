//! The parts that need no Xen.

use xen_sys::{GrantHandle, GrantRef, Pfn};

use super::context::{VECTOR_EVENT, VECTOR_SYSCALL};
use super::shadow::{HANDLES, Shadow};
use super::{Exit, Prot, UserContext, UserPage};

const PROTS: [Prot; 5] = [Prot::None, Prot::Read, Prot::ReadWrite, Prot::ReadExec, Prot::ReadWriteExec];

#[test]
fn what_is_remembered_is_what_was_said() {
    assert_eq!(Shadow::decode(0), Shadow::Absent);
    assert_eq!(Shadow::Absent.encode(), 0, "a cleared companion page remembers nothing");
    for prot in PROTS {
        for page in [0, 1, 0xff_ffff] {
            let shadow = Shadow::Private { page: Pfn(page), prot };
            assert_eq!(Shadow::decode(shadow.encode()), shadow);
        }
    }
    for handle in [0, 1, HANDLES - 1] {
        for reference in [0, 8, u32::MAX] {
            for executable in [false, true] {
                let (reference, handle) = (GrantRef(reference), GrantHandle(handle));
                let shadow = Shadow::Shared { reference, handle, executable };
                assert_eq!(Shadow::decode(shadow.encode()), shadow);
            }
        }
    }
}

#[test]
fn user_pages_are_aligned_and_the_programs() {
    assert_eq!(UserPage::try_new(0x1001), None);
    assert_eq!(UserPage::try_new(1 << 47), None);
    assert_eq!(UserPage::try_new(!0xfff), None);
    let last = UserPage::try_new((1 << 47) - 0x1000).unwrap();
    assert_eq!(last.next(), None);
    assert_eq!(UserPage::containing((1 << 47) - 1), Some(last));
    assert_eq!(UserPage::containing(0x1fff).map(UserPage::address), Some(0x1000));
}

#[test]
fn protection_is_what_its_name_says() {
    assert_eq!(PROTS.map(Prot::writable), [false, false, true, false, true]);
    assert_eq!(PROTS.map(Prot::executable), [false, false, false, true, true]);
}

#[test]
fn a_context_is_made_legal_before_it_runs() {
    let mut context = UserContext::new(0x40_0000, 0x7000);
    assert_eq!((context.regs.rip, context.regs.rsp, context.regs.rflags), (0x40_0000, 0x7000, 0x202));
    let fresh = context.clone();
    context.sanitise();
    assert_eq!(context.fx, fresh.fx, "a new one is legal");
    context.regs.rflags = u64::MAX;
    context.fx = [0xff; 512];
    context.sanitise();
    // I/O privilege, nested task, resume, virtual 8086 and virtual interrupts are nobody's; interrupts are on.
    assert_eq!(context.regs.rflags, 0x24_0fd7);
    assert_eq!(context.fx[24..28], [0xff, 0xff, 0, 0], "reserved bits of MXCSR fault");
}

#[test]
fn traps_are_named() {
    let mut context = UserContext::new(0, 0);
    let mut exit = |vector, error| {
        (context.vector, context.error) = (vector, error);
        context.exit(0x1234)
    };
    assert_eq!(exit(VECTOR_SYSCALL, 0), Exit::Syscall);
    assert_eq!(exit(VECTOR_EVENT, 0), Exit::Event);
    assert_eq!(exit(13, 8), Exit::Exception { vector: 13, code: 8 });
    let fault = |write, fetch, present| Exit::PageFault { va: 0x1234, write, fetch, present };
    assert_eq!(exit(14, 4), fault(false, false, false));
    assert_eq!(exit(14, 6), fault(true, false, false));
    assert_eq!(exit(14, 7), fault(true, false, true));
    assert_eq!(exit(14, 0x15), fault(false, true, true));
}

#[test]
fn only_an_untouched_system_call_returns_the_quick_way() {
    let mut context = UserContext::new(0x40_0000, 0);
    assert_eq!(context.iret_flags(), 0);
    context.regs.rcx = context.regs.rip;
    context.regs.r11 = context.regs.rflags;
    assert_eq!(context.iret_flags(), xen_sys::trap::VGCF_IN_SYSCALL);
    context.regs.rip += 1;
    assert_eq!(context.iret_flags(), 0);
}
