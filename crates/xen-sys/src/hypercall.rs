//! Hypercall numbers (`__HYPERVISOR_*` in `xen/include/public/xen.h`).

/// Installs exception handlers: a list of [`crate::trap::TrapInfo`].
pub const SET_TRAP_TABLE: u64 = 0;
/// Changes page-table entries by machine address.
pub const MMU_UPDATE: u64 = 1;
/// Sets the kernel stack for traps out of user mode.
pub const STACK_SWITCH: u64 = 3;
/// `memory_op`.
pub const MEMORY_OP: u64 = 12;
/// Several hypercalls in one.
pub const MULTICALL: u64 = 13;
/// Changes one page-table entry by linear address.
pub const UPDATE_VA_MAPPING: u64 = 14;
/// Sets the timer behind `VIRQ_TIMER`, absolute nanoseconds.
pub const SET_TIMER_OP: u64 = 15;
/// `xen_version`.
pub const XEN_VERSION: u64 = 17;
/// Xen's own console; refused for ordinary domains of release builds.
pub const CONSOLE_IO: u64 = 18;
/// `grant_table_op`.
pub const GRANT_TABLE_OP: u64 = 20;
/// `vm_assist`.
pub const VM_ASSIST: u64 = 21;
/// Returns from an exception, an upcall or a system call.
pub const IRET: u64 = 23;
/// `vcpu_op`.
pub const VCPU_OP: u64 = 24;
/// Sets FS or GS base.
pub const SET_SEGMENT_BASE: u64 = 25;
/// Extended page-table operations.
pub const MMUEXT_OP: u64 = 26;
/// `sched_op`.
pub const SCHED_OP: u64 = 29;
/// Registers event, failsafe and system-call entry points, with flags.
pub const CALLBACK_OP: u64 = 30;
/// `event_channel_op`.
pub const EVENT_CHANNEL_OP: u64 = 32;

/// `XENVER_version`: major << 16 | minor.
pub const XENVER_VERSION: u64 = 0;
/// `CONSOLEIO_write`.
pub const CONSOLEIO_WRITE: u64 = 0;
/// `VCPUOP_stop_periodic_timer`.
pub const VCPUOP_STOP_PERIODIC_TIMER: u64 = 7;
/// `SEGBASE_FS`.
pub const SEGBASE_FS: u64 = 0;
/// `SEGBASE_GS_USER`: GS base of user mode.
pub const SEGBASE_GS_USER: u64 = 1;
/// `CALLBACKOP_register`.
pub const CALLBACKOP_REGISTER: u64 = 0;
