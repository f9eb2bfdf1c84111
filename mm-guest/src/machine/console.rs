//! What the program says, and what is typed.

/// The console.
pub trait Console {
    /// Writes to the console, all of it; what nobody takes for seconds is dropped.
    fn console_write(&mut self, bytes: &[u8]);
    /// Takes what was typed, without waiting.
    fn console_read(&mut self, to: &mut [u8]) -> usize;
    /// Whether something was typed.
    fn console_ready(&mut self) -> bool;
}
