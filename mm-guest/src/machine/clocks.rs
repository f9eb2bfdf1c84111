//! Time.

/// Clocks, and waiting by them.
pub trait Clocks {
    /// Nanoseconds since some start; never goes back.
    fn monotonic(&self) -> u64;
    /// Sets the moment that it is now by [`Clocks::monotonic`]: a thawed program goes on where it stood.
    fn set_monotonic(&mut self, now: u64);
    /// Nanoseconds since 1970.
    fn realtime(&self) -> u64;
    /// Ends [`run`](super::Processor::run) with [`Exit::Event`](super::Exit::Event) at that moment (monotonic), or not any
    /// more.
    fn set_alarm(&mut self, at: Option<u64>);
    /// Sleeps until the deadline (monotonic), console input, or anything else that happens.
    fn wait(&mut self, deadline: Option<u64>);
}
