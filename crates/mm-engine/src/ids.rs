//! The numbers by which engine and caller speak of things. None of them is Xen's: the caller translates.

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
        pub struct $name(pub $inner);
    };
}

number! {
    /// A client: one domain, however many of its devices lead here. The engine hands it out ([`Engine::admit`](crate::Engine::admit)).
    ClientId(u16)
}
number! {
    /// A map ring: one device of one client, onto one volume ([`Engine::attach`](crate::Engine::attach)).
    RingId(u16)
}
number! {
    /// A volume, in the order in which volumes were added.
    VolumeId(u16)
}
number! {
    /// A page of the page store, counted from 0. Only the caller knows which machine frame that is.
    FrameId(u32)
}
number! {
    /// A grant reference as it goes over the wire.
    Reference(u32)
}
number! {
    /// A snapshot ([`Engine::order_freeze`](crate::Engine::order_freeze)).
    SnapshotId(u8)
}
number! {
    /// A request that waits for the outcome of a [`Copy`](crate::Copy) or a [`Capture`](crate::Capture).
    RequestId(u32)
}
