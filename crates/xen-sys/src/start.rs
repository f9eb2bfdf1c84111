//! What a PV guest is born with: start_info and shared_info (`xen/include/public/xen.h`, `arch-x86/xen.h`).

/// First address of Xen's hole in the address space; the machine-to-physical table lies there, readable, as u64 frames.
pub const HYPERVISOR_VIRT_START: u64 = 0xffff_8000_0000_0000;
/// First address behind the hole (L4 slot 272).
pub const HYPERVISOR_VIRT_END: u64 = 0xffff_8800_0000_0000;

/// Flag of [`StartInfo::flags`]: the initial domain, started by Xen itself.
pub const SIF_INITDOMAIN: u32 = 2;

/// `struct start_info`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct StartInfo {
    /// "xen-VERSION-PLATFORM".
    pub magic: [u8; 32],
    /// Frames that the domain has.
    pub nr_pages: u64,
    /// Machine address of shared_info.
    pub shared_info: u64,
    /// `SIF_*`.
    pub flags: u32,
    /// Machine frame of the xenstore page.
    pub store_mfn: u64,
    /// Port of xenstore.
    pub store_evtchn: u32,
    /// Machine frame of the console page; 0 in the initial domain.
    pub console_mfn: u64,
    /// Port of the console.
    pub console_evtchn: u32,
    /// Virtual address of the L4 table.
    pub pt_base: u64,
    /// Boot page-table frames, from `pt_base` on.
    pub nr_pt_frames: u64,
    /// Virtual address of the physical-to-machine list.
    pub mfn_list: u64,
    /// Virtual address of a module.
    pub mod_start: u64,
    /// Its bytes.
    pub mod_len: u64,
    /// The command line, ended by 0.
    pub cmd_line: [u8; 1024],
    /// First frame of a list outside the kernel's range.
    pub first_p2m_pfn: u64,
    /// Its frames.
    pub nr_p2m_frames: u64,
}
layout!(StartInfo, 1168, shared_info @ 40, flags @ 48, store_mfn @ 56, store_evtchn @ 64, console_mfn @ 72,
    console_evtchn @ 80, pt_base @ 88, nr_pt_frames @ 96, mfn_list @ 104, mod_start @ 112, mod_len @ 120,
    cmd_line @ 128, first_p2m_pfn @ 1152, nr_p2m_frames @ 1160);

/// Byte offsets in the shared_info page, which is never a Rust structure: Xen writes it at any time.
pub mod shared_info {
    /// `vcpu_info[0].evtchn_upcall_pending`, u8.
    pub const UPCALL_PENDING: usize = 0;
    /// `vcpu_info[0].evtchn_upcall_mask`, u8.
    pub const UPCALL_MASK: usize = 1;
    /// `vcpu_info[0].evtchn_pending_sel`, u64.
    pub const PENDING_SEL: usize = 8;
    /// `vcpu_info[0].arch.cr2`, u64.
    pub const CR2: usize = 16;
    /// `vcpu_info[0].time.version`, u32; odd while it is written.
    pub const TIME_VERSION: usize = 32;
    /// `vcpu_info[0].time.tsc_timestamp`, u64.
    pub const TSC_TIMESTAMP: usize = 40;
    /// `vcpu_info[0].time.system_time`, u64 nanoseconds.
    pub const SYSTEM_TIME: usize = 48;
    /// `vcpu_info[0].time.tsc_to_system_mul`, u32.
    pub const TSC_MUL: usize = 56;
    /// `vcpu_info[0].time.tsc_shift`, i8.
    pub const TSC_SHIFT: usize = 60;
    /// `evtchn_pending`, 64 words of u64.
    pub const EVTCHN_PENDING: usize = 2048;
    /// `evtchn_mask`, 64 words of u64.
    pub const EVTCHN_MASK: usize = 2560;
    /// `wc_version`, u32; odd while it is written.
    pub const WC_VERSION: usize = 3072;
    /// `wc_sec`, u32: seconds of Unix time when system time was 0.
    pub const WC_SEC: usize = 3076;
    /// `wc_nsec`, u32.
    pub const WC_NSEC: usize = 3080;
    /// `wc_sec_hi`, u32.
    pub const WC_SEC_HI: usize = 3084;
    /// Bytes of the structure.
    pub const SIZE: usize = 3136;
}
