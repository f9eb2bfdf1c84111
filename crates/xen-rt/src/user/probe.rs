//! Whether text can be shared: Xen maps grants without execute permission, and lets a PV guest add it afterwards, or not.

use core::sync::atomic::{AtomicBool, Ordering};

static SHAREABLE: AtomicBool = AtomicBool::new(false);

/// Whether Xen lets shared pages be executed; found out at boot. If not, [`super::UserSpace::map_shared`] with
/// [`super::Prot::ReadExec`] fails, and text must be copied.
#[must_use]
pub fn text_is_shareable() -> bool {
    SHAREABLE.load(Ordering::Relaxed)
}

/// Tries it with a page of our own, lent to ourselves and mapped in user space's half.
#[cfg(feature = "image")]
pub(crate) fn probe_text_sharing(
    memory: &mut crate::BootMemory,
    grants: &xen::GrantTable,
    domid: xen_sys::DomId,
) {
    let shareable = probe(memory, grants, domid);
    SHAREABLE.store(shareable == Some(true), Ordering::Relaxed);
}

#[cfg(feature = "image")]
fn probe(memory: &mut crate::BootMemory, grants: &xen::GrantTable, domid: xen_sys::DomId) -> Option<bool> {
    use xen_sys::{GrantRef, grant::RESERVED_ENTRIES};

    let page = memory.page()?;
    let reference = GrantRef(RESERVED_ENTRIES);
    grants.permit(reference, domid, crate::mfn_of(page), xen::Access::ReadOnly).ok()?;
    let mut window = crate::foreign::ForeignWindow::new(1, memory).ok()?;
    let mut mapped = [None];
    let executable = match window.map(domid, &[reference], &mut mapped) {
        Ok(()) => window.try_execute(mapped[0].as_ref()?),
        Err(_) => false,
    };
    window.unmap(&mut mapped);
    grants.try_revoke(reference).ok()?;
    Some(executable)
}
