//! What the drivers need of their domain, and pages lent to a backend.

use xen::grant::{PermitError, RefPool};
use xen::{Access, DomId, Errno, Events, GrantRef, GrantTable, Hypervisor, Mfn, PageWords, Port};

/// A page of ours and the machine frame that it is.
#[derive(Clone, Copy, Debug)]
pub struct Frame {
    /// Its words.
    pub words: &'static PageWords,
    /// What a grant entry calls it.
    pub mfn: Mfn,
}

/// The domain that the drivers run in.
#[derive(Clone, Copy)]
pub struct Platform {
    /// Xen.
    pub hypervisor: &'static dyn Hypervisor,
    /// Our event channels.
    pub events: Events,
    /// Our grant table; it must reach [`RefPool::END`].
    pub grants: &'static GrantTable,
    /// References for the drivers.
    pub refs: &'static RefPool,
}

impl core::fmt::Debug for Platform {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Platform({:?}, {} references taken)", self.grants, self.refs.taken())
    }
}

/// A page that a backend may use under this reference. [`Platform::take_back`] ends it; dropping it without that leaves the
/// reference and the page to the backend for good.
#[must_use]
#[derive(PartialEq, Eq, Debug)]
pub struct Lent(GrantRef);

impl Lent {
    /// What the backend knows it by.
    #[must_use]
    pub fn reference(&self) -> GrantRef {
        self.0
    }
}

impl Platform {
    /// Lends a page to `dom`.
    ///
    /// # Errors
    /// `None`: no reference is free. Else the grant table's reason.
    pub fn lend(&self, dom: DomId, frame: Mfn, access: Access) -> Result<Lent, Option<PermitError>> {
        let reference = self.refs.reserve().ok_or(None)?;
        match self.grants.permit(reference, dom, frame, access) {
            Ok(()) => Ok(Lent(reference)),
            Err(PermitError::Occupied) => Err(Some(PermitError::Occupied)),
            Err(error) => {
                self.refs.release(reference);
                Err(Some(error))
            }
        }
    }

    /// Takes a page back.
    ///
    /// # Errors
    /// The backend is using it: here it is again. Its page must not be used for anything else.
    pub fn take_back(&self, lent: Lent) -> Result<(), Lent> {
        match self.grants.try_revoke(lent.0) {
            Ok(()) => {
                self.refs.release(lent.0);
                Ok(())
            }
            Err(xen::grant::InUse) => Err(lent),
        }
    }

    /// [`Self::take_back`] in place. `true`: nothing is lent in `place` any more.
    pub(crate) fn reclaim(&self, place: &mut Option<Lent>) -> bool {
        *place = place.take().and_then(|lent| self.take_back(lent).err());
        place.is_none()
    }

    /// [`Self::reclaim`] of all, whatever becomes of each. `true`: nothing is lent in any of them.
    pub(crate) fn reclaim_all<'l>(&self, places: impl Iterator<Item = &'l mut Option<Lent>>) -> bool {
        let mut all = true;
        for place in places {
            all &= self.reclaim(place);
        }
        all
    }

    /// A port for `dom` to bind, ready for events.
    pub(crate) fn open_port(&self, dom: DomId) -> Result<Port, Errno> {
        let port = self.hypervisor.evtchn_alloc_unbound(dom)?;
        self.events.clear(port);
        self.events.unmask(port);
        Ok(port)
    }

    /// A port of ours at the other end of `port`, which `dom` has made for us, ready for events.
    pub(crate) fn bind_port(&self, dom: DomId, port: Port) -> Result<Port, Errno> {
        let ours = self.hypervisor.evtchn_bind_interdomain(dom, port)?;
        self.events.clear(ours);
        self.events.unmask(ours);
        Ok(ours)
    }

    pub(crate) fn close_port(&self, port: Port) {
        self.events.mask(port);
        if let Err(error) = self.hypervisor.evtchn_close(port) {
            log::warn!("port {} would not close: {error:?}", port.0);
        }
    }
}
