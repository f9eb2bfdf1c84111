//! The toolstack's side of a domain.

/// The domain, as the toolstack made it and may end it.
pub trait Domain {
    /// Whether the toolstack has asked the domain to end since this was last called.
    fn asked_to_end(&mut self) -> bool;
    /// Fresh seed material, and whether the processor's own generator contributed.
    fn seed(&mut self) -> ([u8; 32], bool);
}
