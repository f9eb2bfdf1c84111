//! Sizes, offsets and numbers against Xen's own C headers, by asking a C compiler.
//!
//! The headers are those of `M1_XEN_INCLUDE`, else of `/usr/include`, else of Debian's libxen-dev, fetched with `apt-get download` and unpacked under
//! the target directory.

use std::mem::{offset_of, size_of};
use std::path::{Path, PathBuf};
use std::process::Command;

use xen_sys::{DomId, Errno, GrantStatus, blkif, event, grant, hypercall, memory, sched, start, trap};

/// C expressions, each with what we have for it.
macro_rules! table {
    ($($c:literal => $ours:expr),* $(,)?) => { vec![$(($c.to_string(), i128::from($ours))),*] };
}

/// The size and the fields of a structure: C's name, ours, and C's fields with ours.
macro_rules! structure {
    ($table:ident, $c:literal, $ours:ty $(, $cfield:literal = $($field:ident).+)* $(,)?) => {
        $table.push((format!("sizeof({})", $c), i128::try_from(size_of::<$ours>()).unwrap()));
        $($table.push((
            format!("__builtin_offsetof({}, {})", $c, $cfield),
            i128::try_from(offset_of!($ours, $($field).+)).unwrap(),
        ));)*
    };
}

fn numbers() -> Vec<(String, i128)> {
    let usize = |n: usize| i64::try_from(n).unwrap();
    table! {
        "DOMID_SELF" => DomId::SELF.0,
        "DOMID_FIRST_RESERVED" => DomId::FIRST_RESERVED.0,
        "__HYPERVISOR_set_trap_table" => hypercall::SET_TRAP_TABLE,
        "__HYPERVISOR_mmu_update" => hypercall::MMU_UPDATE,
        "__HYPERVISOR_stack_switch" => hypercall::STACK_SWITCH,
        "__HYPERVISOR_memory_op" => hypercall::MEMORY_OP,
        "__HYPERVISOR_multicall" => hypercall::MULTICALL,
        "__HYPERVISOR_update_va_mapping" => hypercall::UPDATE_VA_MAPPING,
        "__HYPERVISOR_set_timer_op" => hypercall::SET_TIMER_OP,
        "__HYPERVISOR_xen_version" => hypercall::XEN_VERSION,
        "__HYPERVISOR_console_io" => hypercall::CONSOLE_IO,
        "__HYPERVISOR_grant_table_op" => hypercall::GRANT_TABLE_OP,
        "__HYPERVISOR_vm_assist" => hypercall::VM_ASSIST,
        "__HYPERVISOR_iret" => hypercall::IRET,
        "__HYPERVISOR_vcpu_op" => hypercall::VCPU_OP,
        "__HYPERVISOR_set_segment_base" => hypercall::SET_SEGMENT_BASE,
        "__HYPERVISOR_mmuext_op" => hypercall::MMUEXT_OP,
        "__HYPERVISOR_sched_op" => hypercall::SCHED_OP,
        "__HYPERVISOR_callback_op" => hypercall::CALLBACK_OP,
        "__HYPERVISOR_event_channel_op" => hypercall::EVENT_CHANNEL_OP,
        "XENVER_version" => hypercall::XENVER_VERSION,
        "CONSOLEIO_write" => hypercall::CONSOLEIO_WRITE,
        "VCPUOP_stop_periodic_timer" => hypercall::VCPUOP_STOP_PERIODIC_TIMER,
        "SEGBASE_FS" => hypercall::SEGBASE_FS,
        "SEGBASE_GS_USER" => hypercall::SEGBASE_GS_USER,
        "CALLBACKOP_register" => hypercall::CALLBACKOP_REGISTER,
        "EVTCHNOP_bind_interdomain" => event::op::BIND_INTERDOMAIN,
        "EVTCHNOP_bind_virq" => event::op::BIND_VIRQ,
        "EVTCHNOP_close" => event::op::CLOSE,
        "EVTCHNOP_send" => event::op::SEND,
        "EVTCHNOP_status" => event::op::STATUS,
        "EVTCHNOP_alloc_unbound" => event::op::ALLOC_UNBOUND,
        "EVTCHNOP_unmask" => event::op::UNMASK,
        "EVTCHN_2L_NR_CHANNELS" => event::PORTS,
        "VIRQ_TIMER" => xen_sys::Virq::Timer.number(),
        "VIRQ_DEBUG" => xen_sys::Virq::Debug.number(),
        "GNTTABOP_map_grant_ref" => grant::op::MAP_GRANT_REF,
        "GNTTABOP_unmap_grant_ref" => grant::op::UNMAP_GRANT_REF,
        "GNTTABOP_setup_table" => grant::op::SETUP_TABLE,
        "GNTTABOP_copy" => grant::op::COPY,
        "GNTTABOP_query_size" => grant::op::QUERY_SIZE,
        "GNTTABOP_unmap_and_replace" => grant::op::UNMAP_AND_REPLACE,
        "GTF_permit_access" => grant::gtf::PERMIT_ACCESS,
        "GTF_readonly" => grant::gtf::READONLY,
        "GTF_reading" => grant::gtf::READING,
        "GTF_writing" => grant::gtf::WRITING,
        "GTF_type_mask" => grant::gtf::TYPE_MASK,
        "GNTMAP_host_map" => grant::gntmap::HOST_MAP,
        "GNTMAP_readonly" => grant::gntmap::READONLY,
        "GNTMAP_application_map" => grant::gntmap::APPLICATION_MAP,
        "GNTMAP_contains_pte" => grant::gntmap::CONTAINS_PTE,
        "GNTCOPY_source_gref" => grant::gntcopy::SOURCE_GREF,
        "GNTCOPY_dest_gref" => grant::gntcopy::DEST_GREF,
        "GNTTAB_NR_RESERVED_ENTRIES" => grant::RESERVED_ENTRIES,
        "GNTST_okay" => GrantStatus::OKAY.0,
        "GNTST_general_error" => GrantStatus::GENERAL_ERROR.0,
        "GNTST_bad_domain" => GrantStatus::BAD_DOMAIN.0,
        "GNTST_bad_gntref" => GrantStatus::BAD_GNTREF.0,
        "GNTST_bad_handle" => GrantStatus::BAD_HANDLE.0,
        "GNTST_bad_virt_addr" => GrantStatus::BAD_VIRT_ADDR.0,
        "GNTST_bad_dev_addr" => GrantStatus::BAD_DEV_ADDR.0,
        "GNTST_no_device_space" => GrantStatus::NO_DEVICE_SPACE.0,
        "GNTST_permission_denied" => GrantStatus::PERMISSION_DENIED.0,
        "GNTST_bad_page" => GrantStatus::BAD_PAGE.0,
        "GNTST_bad_copy_arg" => GrantStatus::BAD_COPY_ARG.0,
        "GNTST_address_too_big" => GrantStatus::ADDRESS_TOO_BIG.0,
        "GNTST_eagain" => GrantStatus::EAGAIN.0,
        "GNTST_no_space" => GrantStatus::NO_SPACE.0,
        "XENMEM_decrease_reservation" => memory::op::DECREASE_RESERVATION,
        "XENMEM_current_reservation" => memory::op::CURRENT_RESERVATION,
        "XENMEM_maximum_reservation" => memory::op::MAXIMUM_RESERVATION,
        "XENMEM_populate_physmap" => memory::op::POPULATE_PHYSMAP,
        "MMUEXT_PIN_L4_TABLE" => memory::mmuext::PIN_L4_TABLE,
        "MMUEXT_UNPIN_TABLE" => memory::mmuext::UNPIN_TABLE,
        "MMUEXT_NEW_BASEPTR" => memory::mmuext::NEW_BASEPTR,
        "MMUEXT_TLB_FLUSH_LOCAL" => memory::mmuext::TLB_FLUSH_LOCAL,
        "MMUEXT_INVLPG_LOCAL" => memory::mmuext::INVLPG_LOCAL,
        "MMUEXT_NEW_USER_BASEPTR" => memory::mmuext::NEW_USER_BASEPTR,
        "UVMF_NONE" => memory::Flush::None.bits(),
        "UVMF_TLB_FLUSH | UVMF_LOCAL" => memory::Flush::All.bits(),
        "UVMF_INVLPG | UVMF_LOCAL" => memory::Flush::Page.bits(),
        "SCHEDOP_yield" => sched::op::YIELD,
        "SCHEDOP_block" => sched::op::BLOCK,
        "SCHEDOP_shutdown" => sched::op::SHUTDOWN,
        "SCHEDOP_poll" => sched::op::POLL,
        "SHUTDOWN_poweroff" => sched::ShutdownReason::Poweroff.number(),
        "SHUTDOWN_reboot" => sched::ShutdownReason::Reboot.number(),
        "SHUTDOWN_suspend" => sched::ShutdownReason::Suspend.number(),
        "SHUTDOWN_crash" => sched::ShutdownReason::Crash.number(),
        "SIF_INITDOMAIN" => start::SIF_INITDOMAIN,
        "__HYPERVISOR_VIRT_START" => start::HYPERVISOR_VIRT_START,
        "__HYPERVISOR_VIRT_END" => start::HYPERVISOR_VIRT_END,
        "FLAT_KERNEL_CS64" => trap::KERNEL_CS,
        "FLAT_KERNEL_SS64" => trap::KERNEL_SS,
        "CALLBACKTYPE_event" => trap::CALLBACK_EVENT,
        "CALLBACKTYPE_failsafe" => trap::CALLBACK_FAILSAFE,
        "CALLBACKTYPE_syscall" => trap::CALLBACK_SYSCALL,
        "CALLBACKF_mask_events" => trap::CALLBACK_MASKS_EVENTS,
        "VGCF_in_syscall" => trap::VGCF_IN_SYSCALL,
        "XEN_EPERM" => Errno::PERM.0,
        "XEN_ENOENT" => Errno::NOENT.0,
        "XEN_ESRCH" => Errno::SRCH.0,
        "XEN_EIO" => Errno::IO.0,
        "XEN_ENXIO" => Errno::NXIO.0,
        "XEN_E2BIG" => Errno::TOOBIG.0,
        "XEN_EBADF" => Errno::BADF.0,
        "XEN_EAGAIN" => Errno::AGAIN.0,
        "XEN_ENOMEM" => Errno::NOMEM.0,
        "XEN_EACCES" => Errno::ACCES.0,
        "XEN_EFAULT" => Errno::FAULT.0,
        "XEN_EBUSY" => Errno::BUSY.0,
        "XEN_EEXIST" => Errno::EXIST.0,
        "XEN_EXDEV" => Errno::XDEV.0,
        "XEN_ENODEV" => Errno::NODEV.0,
        "XEN_EINVAL" => Errno::INVAL.0,
        "XEN_ENOSPC" => Errno::NOSPC.0,
        "XEN_ERANGE" => Errno::RANGE.0,
        "XEN_ENOSYS" => Errno::NOSYS.0,
        "XEN_EOPNOTSUPP" => Errno::OPNOTSUPP.0,
        "sizeof(struct grant_entry_v1) * 512" => usize(xen_sys::PAGE_SIZE),
        "__builtin_offsetof(struct shared_info, vcpu_info[0].evtchn_upcall_pending)" => usize(start::shared_info::UPCALL_PENDING),
        "__builtin_offsetof(struct shared_info, vcpu_info[0].evtchn_upcall_mask)" => usize(start::shared_info::UPCALL_MASK),
        "__builtin_offsetof(struct shared_info, vcpu_info[0].evtchn_pending_sel)" => usize(start::shared_info::PENDING_SEL),
        "__builtin_offsetof(struct shared_info, vcpu_info[0].arch.cr2)" => usize(start::shared_info::CR2),
        "__builtin_offsetof(struct shared_info, vcpu_info[0].time.version)" => usize(start::shared_info::TIME_VERSION),
        "__builtin_offsetof(struct shared_info, vcpu_info[0].time.tsc_timestamp)" => usize(start::shared_info::TSC_TIMESTAMP),
        "__builtin_offsetof(struct shared_info, vcpu_info[0].time.system_time)" => usize(start::shared_info::SYSTEM_TIME),
        "__builtin_offsetof(struct shared_info, vcpu_info[0].time.tsc_to_system_mul)" => usize(start::shared_info::TSC_MUL),
        "__builtin_offsetof(struct shared_info, vcpu_info[0].time.tsc_shift)" => usize(start::shared_info::TSC_SHIFT),
        "__builtin_offsetof(struct shared_info, evtchn_pending)" => usize(start::shared_info::EVTCHN_PENDING),
        "__builtin_offsetof(struct shared_info, evtchn_mask)" => usize(start::shared_info::EVTCHN_MASK),
        "__builtin_offsetof(struct shared_info, wc_version)" => usize(start::shared_info::WC_VERSION),
        "__builtin_offsetof(struct shared_info, wc_sec)" => usize(start::shared_info::WC_SEC),
        "__builtin_offsetof(struct shared_info, wc_nsec)" => usize(start::shared_info::WC_NSEC),
        "__builtin_offsetof(struct shared_info, wc_sec_hi)" => usize(start::shared_info::WC_SEC_HI),
        "sizeof(struct shared_info)" => usize(start::shared_info::SIZE),
    }
}

/// The block interface: numbers, and where the drivers look for the fields of requests and responses.
fn block_interface() -> Vec<(String, i128)> {
    let usize = |n: usize| i64::try_from(n).unwrap();
    table! {
        "BLKIF_OP_READ" => blkif::op::READ,
        "BLKIF_OP_WRITE" => blkif::op::WRITE,
        "BLKIF_OP_WRITE_BARRIER" => blkif::op::WRITE_BARRIER,
        "BLKIF_OP_FLUSH_DISKCACHE" => blkif::op::FLUSH_DISKCACHE,
        "BLKIF_OP_DISCARD" => blkif::op::DISCARD,
        "BLKIF_OP_INDIRECT" => blkif::op::INDIRECT,
        "BLKIF_RSP_OKAY" => blkif::rsp::OKAY,
        "BLKIF_RSP_ERROR" => blkif::rsp::ERROR,
        "BLKIF_RSP_EOPNOTSUPP" => blkif::rsp::EOPNOTSUPP,
        "BLKIF_MAX_SEGMENTS_PER_REQUEST" => usize(blkif::MAX_SEGMENTS),
        "VDISK_READONLY" => blkif::VDISK_READONLY,
        "sizeof(struct blkif_request)" => usize(blkif::REQUEST_WORDS * 4),
        "sizeof(struct blkif_response)" => usize(blkif::RESPONSE_WORDS * 4),
        "sizeof(struct blkif_request_segment)" => usize(blkif::SEGMENT_BYTES),
        "__builtin_offsetof(struct blkif_request_segment, first_sect)" => 4,
        "__builtin_offsetof(struct blkif_request_segment, last_sect)" => 5,
        "__builtin_offsetof(struct blkif_request, nr_segments)" => 1,
        "__builtin_offsetof(struct blkif_request, id)" => 2 * 4,
        "__builtin_offsetof(struct blkif_request, sector_number)" => 4 * 4,
        "__builtin_offsetof(struct blkif_request, seg)" => 6 * 4,
        "__builtin_offsetof(struct blkif_request_discard, id)" => 2 * 4,
        "__builtin_offsetof(struct blkif_request_discard, sector_number)" => 4 * 4,
        "__builtin_offsetof(struct blkif_request_discard, nr_sectors)" => 6 * 4,
        "__builtin_offsetof(struct blkif_request_indirect, indirect_op)" => 1,
        "__builtin_offsetof(struct blkif_request_indirect, nr_segments)" => 2,
        "__builtin_offsetof(struct blkif_request_indirect, id)" => 2 * 4,
        "__builtin_offsetof(struct blkif_request_indirect, sector_number)" => 4 * 4,
        "__builtin_offsetof(struct blkif_request_indirect, indirect_grefs)" => 7 * 4,
        "__builtin_offsetof(struct blkif_response, operation)" => 8,
        "__builtin_offsetof(struct blkif_response, status)" => 10,
    }
}

fn structures() -> Vec<(String, i128)> {
    let mut t = Vec::new();
    structure!(
        t,
        "struct evtchn_alloc_unbound",
        event::AllocUnbound,
        "dom" = dom,
        "remote_dom" = remote_dom,
        "port" = port
    );
    structure!(
        t,
        "struct evtchn_bind_interdomain",
        event::BindInterdomain,
        "remote_dom" = remote_dom,
        "remote_port" = remote_port,
        "local_port" = local_port
    );
    structure!(t, "struct evtchn_bind_virq", event::BindVirq, "virq" = virq, "vcpu" = vcpu, "port" = port);
    structure!(t, "struct evtchn_close", event::OnePort, "port" = port);
    structure!(t, "struct evtchn_send", event::OnePort, "port" = port);
    structure!(t, "struct evtchn_unmask", event::OnePort, "port" = port);
    structure!(
        t,
        "struct evtchn_status",
        event::Status,
        "dom" = dom,
        "port" = port,
        "status" = status,
        "vcpu" = vcpu,
        "u.unbound.dom" = first,
        "u.interdomain.dom" = first,
        "u.interdomain.port" = second,
        "u.virq" = first
    );
    structure!(
        t,
        "struct gnttab_map_grant_ref",
        grant::MapGrantRef,
        "host_addr" = host_addr,
        "flags" = flags,
        "ref" = reference,
        "dom" = dom,
        "status" = status,
        "handle" = handle,
        "dev_bus_addr" = dev_bus_addr
    );
    structure!(
        t,
        "struct gnttab_unmap_grant_ref",
        grant::UnmapGrantRef,
        "host_addr" = host_addr,
        "dev_bus_addr" = dev_bus_addr,
        "handle" = handle,
        "status" = status
    );
    structure!(
        t,
        "struct gnttab_setup_table",
        grant::SetupTable,
        "dom" = dom,
        "nr_frames" = nr_frames,
        "status" = status,
        "frame_list" = frame_list
    );
    structure!(
        t,
        "struct gnttab_query_size",
        grant::QuerySize,
        "dom" = dom,
        "nr_frames" = nr_frames,
        "max_nr_frames" = max_nr_frames,
        "status" = status
    );
    structure!(
        t,
        "struct gnttab_copy",
        grant::GrantCopy,
        "source.u.ref" = source.ref_or_frame,
        "source.u.gmfn" = source.ref_or_frame,
        "source.domid" = source.dom,
        "source.offset" = source.offset,
        "dest.u.gmfn" = dest.ref_or_frame,
        "dest.domid" = dest.dom,
        "dest.offset" = dest.offset,
        "len" = len,
        "flags" = flags,
        "status" = status
    );
    structure!(t, "struct mmu_update", memory::MmuUpdate, "ptr" = ptr, "val" = val);
    structure!(
        t,
        "struct mmuext_op",
        memory::MmuExtOp,
        "cmd" = cmd,
        "arg1.mfn" = arg1,
        "arg1.linear_addr" = arg1,
        "arg2.nr_ents" = arg2
    );
    structure!(
        t,
        "struct multicall_entry",
        memory::MulticallEntry,
        "op" = op,
        "result" = result,
        "args" = args
    );
    structure!(
        t,
        "struct xen_memory_reservation",
        memory::MemoryReservation,
        "extent_start" = extent_start,
        "nr_extents" = nr_extents,
        "extent_order" = extent_order,
        "mem_flags" = mem_flags,
        "domid" = domid
    );
    structure!(
        t,
        "struct sched_poll",
        sched::SchedPoll,
        "ports" = ports,
        "nr_ports" = nr_ports,
        "timeout" = timeout
    );
    structure!(
        t,
        "struct start_info",
        start::StartInfo,
        "magic" = magic,
        "nr_pages" = nr_pages,
        "shared_info" = shared_info,
        "flags" = flags,
        "store_mfn" = store_mfn,
        "store_evtchn" = store_evtchn,
        "console.domU.mfn" = console_mfn,
        "console.domU.evtchn" = console_evtchn,
        "pt_base" = pt_base,
        "nr_pt_frames" = nr_pt_frames,
        "mfn_list" = mfn_list,
        "mod_start" = mod_start,
        "mod_len" = mod_len,
        "cmd_line" = cmd_line,
        "first_p2m_pfn" = first_p2m_pfn,
        "nr_p2m_frames" = nr_p2m_frames
    );
    structure!(
        t,
        "struct trap_info",
        trap::TrapInfo,
        "vector" = vector,
        "flags" = flags,
        "cs" = cs,
        "address" = address
    );
    structure!(
        t,
        "struct callback_register",
        trap::CallbackRegister,
        "type" = kind,
        "flags" = flags,
        "address" = address
    );
    t
}

/// Where `<xen/xen.h>` is.
fn include() -> PathBuf {
    if let Some(path) = std::env::var_os("M1_XEN_INCLUDE") {
        return path.into();
    }
    let installed = Path::new("/usr/include");
    if installed.join("xen/xen.h").exists() {
        return installed.into();
    }
    let fetched = Path::new(env!("CARGO_TARGET_TMPDIR")).join("libxen-dev");
    let include = fetched.join("usr/include");
    if !include.join("xen/xen.h").exists() {
        std::fs::create_dir_all(&fetched).expect("a directory under target");
        run(Command::new("apt-get").args(["download", "libxen-dev"]).current_dir(&fetched));
        let package = std::fs::read_dir(&fetched)
            .expect("the directory")
            .filter_map(|entry| Some(entry.ok()?.path()))
            .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
            .expect("apt-get says that it downloaded a package");
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&fetched));
    }
    include
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn layouts_and_numbers_are_those_of_xens_headers() {
    let table: Vec<_> = numbers().into_iter().chain(structures()).chain(block_interface()).collect();
    let mut program = String::from(
        "#include <stdint.h>\n#include <stdio.h>\n#define __XEN_INTERFACE_VERSION__ 0x00040d00\n\
         #include <xen/xen.h>\n#include <xen/errno.h>\n#include <xen/event_channel.h>\n#include <xen/grant_table.h>\n\
         #include <xen/memory.h>\n#include <xen/sched.h>\n#include <xen/vcpu.h>\n#include <xen/version.h>\n\
         #include <xen/callback.h>\n#include <xen/io/blkif.h>\nint main(void) {\n",
    );
    for (expression, _) in &table {
        // Masks are written with all bits; what counts is the value that a field of ours holds.
        program += &format!("    printf(\"%llu\\n\", (unsigned long long)(long long)({expression}));\n");
    }
    program += "    return 0;\n}\n";
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let (source, binary) = (directory.join("layout.c"), directory.join("layout"));
    std::fs::write(&source, program).expect("a file under target");
    run(Command::new("cc").arg("-I").arg(include()).arg(&source).arg("-o").arg(&binary));
    let answers = run(&mut Command::new(&binary));
    let answers: Vec<u64> = answers.lines().map(|line| line.parse().expect("a number")).collect();
    assert_eq!(answers.len(), table.len());
    let different: Vec<String> = table
        .iter()
        .zip(&answers)
        .filter(|((_, ours), theirs)| u64::try_from(*ours & i128::from(u64::MAX)) != Ok(**theirs))
        .map(|((name, ours), theirs)| format!("{name}: ours {ours}, Xen's {}", theirs.cast_signed()))
        .collect();
    assert!(different.is_empty(), "{different:#?}");
}
