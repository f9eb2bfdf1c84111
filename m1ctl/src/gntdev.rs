//! Pages of another domain, mapped through `/dev/xen/gntdev` (Linux, `include/uapi/xen/gntdev.h`).
//!
//! The only unsafe code of this program: rustix has no safe call for an ioctl of a device's own, nor for a mapping; and it is not in
//! `crates/xen`, which is for domains without Linux below them. What comes out are words that anybody may change at any time, as everywhere in this tree; they
//! stay mapped until the process ends, so no reference to them can dangle.
#![expect(unsafe_code, reason = "an ioctl and a mapping: docs/SOUNDNESS.md")]

use std::ffi::c_void;
use std::fs::File;
use std::os::fd::AsFd;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl, opcode};
use rustix::mm::{MapFlags, ProtFlags, mmap};
use xen_ring::{PAGE_SIZE, PageWords};

use crate::failure::{Failure, Result};

const DEVICE: &str = "/dev/xen/gntdev";
/// Pages of one request, at most. M1 grants sixteen.
const PAGES: usize = 64;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct GrantRef {
    domid: u32,
    reference: u32,
}

/// `struct ioctl_gntdev_map_grant_ref`, with room for more than its one reference.
#[repr(C)]
struct MapGrantRef {
    count: u32,
    pad: u32,
    /// Out: the offset for mmap.
    index: u64,
    refs: [GrantRef; PAGES],
}

/// What the kernel takes for its size: with one reference.
const SIZE: usize = 24;
const _: () = assert!(std::mem::offset_of!(MapGrantRef, refs) + size_of::<GrantRef>() == SIZE);

// SAFETY: the kernel reads `count` references, which is at most PAGES, and writes `index`; all of that lies inside the structure.
unsafe impl Ioctl for &mut MapGrantRef {
    type Output = u64;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        // _IOC(_IOC_NONE, 'G', 0, sizeof(struct ioctl_gntdev_map_grant_ref))
        opcode::from_components(rustix::ioctl::Direction::None, b'G', 0, SIZE)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut::<MapGrantRef>(self).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, request: *mut c_void) -> rustix::io::Result<u64> {
        // SAFETY: what `as_ptr` gave.
        Ok(unsafe { (*request.cast::<MapGrantRef>()).index })
    }
}

/// Maps pages that domain `domid` has granted to this one, for reading and writing, for as long as the process lives.
pub(crate) fn map(domid: u16, references: &[u32]) -> Result<&'static [PageWords]> {
    let failed = |what: &str, error: rustix::io::Errno| Failure::Host(format!("{DEVICE}: {what}: {error}"));
    let count = references.len();
    let mut request = MapGrantRef { count: 0, pad: 0, index: 0, refs: [GrantRef::default(); PAGES] };
    if count == 0 || count > PAGES {
        return Err(Failure::Host(format!("M1 grants {count} pages")));
    }
    request.count = u32::try_from(count).unwrap_or(0);
    for (place, reference) in request.refs.iter_mut().zip(references) {
        *place = GrantRef { domid: domid.into(), reference: *reference };
    }
    let device = File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(|error| Failure::Host(format!("{DEVICE}: {error}: modprobe xen-gntdev?")))?;
    // SAFETY: the request is of the device's own form, see above.
    let index = unsafe { ioctl(device.as_fd(), &mut request) }.map_err(|error| failed("map", error))?;
    // SAFETY: the kernel chooses where; nothing of ours is there.
    let address = unsafe {
        mmap(
            std::ptr::null_mut(),
            count * PAGE_SIZE,
            ProtFlags::READ | ProtFlags::WRITE,
            MapFlags::SHARED,
            device.as_fd(),
            index,
        )
    }
    .map_err(|error| failed("mmap", error))?;
    // The mapping keeps what it needs of the device.
    drop(device);
    // SAFETY: `count` pages from `address` on are mapped, page-aligned, for ever; words are atomic, so others may change them.
    Ok(unsafe { std::slice::from_raw_parts(address.cast::<PageWords>(), count) })
}
