//! From Xen's first jump to the image's main function.

use core::sync::atomic::AtomicU64;

use spin::Once;
use xen::console::Console;
use xen::{Clock, Events, Hypervisor, Native};
use xen_ring::PageWords;
use xen_sys::memory::Flush;
use xen_sys::start::{SIF_INITDOMAIN, StartInfo};
use xen_sys::{DomId, Errno, Mfn, PAGE_SHIFT, PAGE_SIZE, Pfn, Port, PortState, hypercall};

use super::traps;
use crate::direct_map::{self, Bump};
use crate::machine::Machine;
use crate::{Boot, BootMemory, XenstorePage, grants, layout, native, pte, tables};

unsafe extern "C" {
    static _text_start: u8;
    static _text_end: u8;
    static _rodata_end: u8;
    static _end: u8;
    static xen_rt_guard: u8;
    static xen_rt_stack: u8;
    static xen_rt_shared_info: PageWords;
}

unsafe extern "Rust" {
    /// Defined by [`crate::entry`].
    safe fn xen_rt_main(boot: Boot) -> !;
}

static NATIVE: Native = native();
/// The command line, copied off the boot structures.
static CMDLINE: Once<([u8; 1024], usize)> = Once::new();

/// A word of shared_info, before and after there is a [`Boot`].
pub(crate) fn shared_info_word(offset: usize) -> u64 {
    // SAFETY: a page of words, whether it is Xen's yet or not.
    let page = unsafe { &xen_rt_shared_info };
    u64::from(page.load(offset / 4)) | u64::from(page.load(offset / 4 + 1)) << 32
}

/// Where a page that Xen's builder made for us is mapped.
fn boot_page(frame: Mfn) -> &'static PageWords {
    // SAFETY: Xen's table of its frames is readable for ours; the builder maps console and xenstore pages behind the
    // image, and nothing but words is ever in them.
    unsafe {
        let pfn = ((layout::M2P + frame.0 * 8) as *const u64).read_volatile();
        &*((layout::VIRT_BASE + (pfn << PAGE_SHIFT)) as *const PageWords)
    }
}

/// The first Rust. `info` is Xen's; `boot_rsp` the top of the stack that Xen gave us and that we left.
pub(super) extern "C" fn start(info: *const StartInfo, boot_rsp: u64) -> ! {
    // SAFETY: rsi at entry (`xen/include/public/xen.h`, "Start-of-day memory layout"); nobody writes it.
    let info = unsafe { &*info };
    let initial = info.flags & SIF_INITDOMAIN != 0;
    let console = if initial {
        Console::on_xen(NATIVE)
    } else {
        Console::on_ring(boot_page(Mfn(info.console_mfn)), Port(info.console_evtchn), &NATIVE)
    };

    // From here on a panic says something.
    // SAFETY: the page lies in .bss for this and nothing has read it as anything else.
    let shared_info: &'static PageWords = unsafe {
        let page = &raw const xen_rt_shared_info;
        NATIVE
            .update_va_mapping(
                page as u64,
                pte::kernel(Mfn(info.shared_info >> PAGE_SHIFT), pte::Kernel::ReadWrite),
                Flush::Page,
            )
            .expect("shared_info");
        &*page
    };
    let clock = Clock::new(shared_info, xen::clock::tsc);
    console.log_with(clock, log::LevelFilter::Info);
    traps::install().expect("trap table");
    // SAFETY: touches nothing. A domU may be told that there is no such timer.
    unsafe { xen::native::raw(hypercall::VCPU_OP, [hypercall::VCPUOP_STOP_PERIODIC_TIMER, 0, 0, 0, 0]) };

    let first_free = (info.pt_base + info.nr_pt_frames * PAGE_SIZE as u64)
        .max(boot_rsp.next_multiple_of(PAGE_SIZE as u64));
    let mut memory = map_memory(info, (first_free - layout::VIRT_BASE) >> PAGE_SHIFT);
    protect_image();
    let grants = grants::install(&mut memory);
    let avx = super::cpu::enable_avx();
    let domid = own_domid().expect("own domain number");

    let (text, len) = CMDLINE.call_once(|| {
        let len = info.cmd_line.iter().position(|&byte| byte == 0).unwrap_or(info.cmd_line.len());
        (info.cmd_line, len)
    });
    let cmdline = core::str::from_utf8(&text[..*len]).unwrap_or("");
    let xenstore = (!initial)
        .then(|| XenstorePage { page: boot_page(Mfn(info.store_mfn)), port: Port(info.store_evtchn) });

    crate::user::probe_text_sharing(&mut memory, grants, domid);
    xen_rt_main(Boot {
        cmdline,
        console,
        events: Events::new(shared_info),
        clock,
        xenstore,
        grants,
        memory,
        domid,
        is_initial_domain: initial,
        avx,
        hypervisor: &NATIVE,
    })
}

/// Makes the direct map, and returns what is free.
fn map_memory(info: &StartInfo, first_free: u64) -> BootMemory {
    // SAFETY: the builder's list of our frames; one word each, and ours from now on.
    let p2m = unsafe {
        core::slice::from_raw_parts(
            info.mfn_list as *const AtomicU64,
            usize::try_from(info.nr_pages).unwrap_or(0),
        )
    };
    let machine = Machine::install(p2m, first_free);
    let root = Pfn((info.pt_base - layout::VIRT_BASE) >> PAGE_SHIFT);
    // What Xen mapped ends at a 4 MiB boundary; where, its own tables say.
    tables::set_root(root, first_free);
    let mut boot_end = first_free;
    while boot_end < machine.pages() && tables::is_mapped(layout::VIRT_BASE + (boot_end << PAGE_SHIFT)) {
        boot_end += 1;
    }
    tables::set_root(root, boot_end);
    let mut bump = Bump { next: first_free, end: machine.pages().min(layout::DIRECT_PAGES) };
    direct_map::build(&mut bump).expect("direct map");
    let image = (&raw const _end as u64 - &raw const _text_start as u64).div_ceil(PAGE_SIZE as u64);
    crate::machine::set_footprint(crate::Footprint {
        image,
        start: first_free - image,
        direct_map: bump.next - first_free,
    });
    let [bottom, top] =
        [bump.next, bump.end].map(|pfn| usize::try_from(layout::direct(Pfn(pfn))).unwrap_or(usize::MAX));
    // SAFETY: mapped a moment ago, behind all tables, in use by nobody.
    unsafe { BootMemory::new(bottom, top, pages_moved) }
}

/// Remembers which pages may be lent.
fn pages_moved(bottom: usize) {
    let end = layout::direct_pfn(bottom as u64).map_or(0, |pfn| pfn.0);
    let machine = crate::machine::machine();
    machine.set_shareable(machine.first_direct, end);
}

/// Code is not writable, constants neither, data not executable, and the pages below the stacks are not there.
fn protect_image() {
    let [text, text_end, rodata_end, end, guard, stack] = [
        &raw const _text_start as u64,
        &raw const _text_end as u64,
        &raw const _rodata_end as u64,
        &raw const _end as u64,
        &raw const xen_rt_guard as u64,
        &raw const xen_rt_stack as u64,
    ];
    let shared_info = &raw const xen_rt_shared_info as u64;
    for address in (text..end).step_by(PAGE_SIZE) {
        if address == shared_info {
            continue;
        }
        let frame = crate::machine::machine()
            .frame(Pfn((address - layout::VIRT_BASE) >> PAGE_SHIFT))
            .expect("the image has frames");
        let entry = match address {
            address if address == guard || address == stack => pte::ABSENT,
            address if address < text_end => pte::kernel(frame, pte::Kernel::ReadExec),
            address if address < rodata_end => pte::kernel(frame, pte::Kernel::Read),
            _ => pte::kernel(frame, pte::Kernel::ReadWrite),
        };
        // SAFETY: each part keeps the access that its content needs; nothing lies in the guard pages.
        unsafe { NATIVE.update_va_mapping(address, entry, Flush::Page) }.expect("image protection");
    }
}

/// Our own number: Xen writes it into a port that we allocate for ourselves.
fn own_domid() -> Result<DomId, Errno> {
    let port = NATIVE.evtchn_alloc_unbound(DomId::SELF)?;
    let state = NATIVE.evtchn_status(port);
    NATIVE.evtchn_close(port)?;
    match state? {
        PortState::Unbound(dom) => Ok(dom),
        _ => Err(Errno::INVAL),
    }
}
