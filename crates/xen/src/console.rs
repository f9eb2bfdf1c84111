//! The domain's console, and `log`'s records on it.
//!
//! Ordinary domains have a ring in a page (`io/console.h`); the initial domain has Xen's own console. There is one console for
//! the program, because a panic anywhere must reach it.

use core::fmt::{self, Write};

use spin::Mutex;
use xen_ring::{ByteConsumer, ByteProducer, ByteRing, PageWords};
use xen_sys::Port;

use crate::{Clock, Hypervisor};

/// Where the bytes go.
enum Output {
    Ring {
        producer: ByteProducer,
        consumer: ByteConsumer,
        port: Port,
        hypervisor: &'static (dyn Hypervisor + Sync),
    },
    #[cfg(target_arch = "x86_64")]
    Xen(crate::Native),
}

struct State {
    output: Option<Output>,
    clock: Option<Clock>,
    dropped: u64,
}

static STATE: Mutex<State> = Mutex::new(State { output: None, clock: None, dropped: 0 });

/// The console. A handle without contents.
#[derive(Clone, Copy, Debug)]
pub struct Console(());

impl Console {
    /// Uses the console ring in `page`.
    pub fn on_ring(
        page: &'static PageWords,
        port: Port,
        hypervisor: &'static (dyn Hypervisor + Sync),
    ) -> Self {
        let producer = ByteRing::CONSOLE_OUT.producer(page);
        let consumer = ByteRing::CONSOLE_IN.consumer(page);
        STATE.lock().output = Some(Output::Ring { producer, consumer, port, hypervisor });
        Self(())
    }

    /// Uses Xen's console: for the initial domain.
    #[cfg(target_arch = "x86_64")]
    pub fn on_xen(native: crate::Native) -> Self {
        STATE.lock().output = Some(Output::Xen(native));
        Self(())
    }

    /// Makes the console `log`'s output, with time stamps of `clock`. The first call counts.
    pub fn log_with(self, clock: Clock, level: log::LevelFilter) {
        STATE.lock().clock = Some(clock);
        if log::set_logger(&LOGGER).is_ok() {
            log::set_max_level(level);
        }
    }

    /// Writes what fits now, and returns how many bytes that was. With a ring, the console's port has an event when
    /// there is room again.
    pub fn write_some(self, bytes: &[u8]) -> usize {
        STATE.lock().write_some(bytes)
    }

    /// Writes `bytes`, and drops and counts what does not fit now.
    pub fn write(self, bytes: &[u8]) {
        STATE.lock().write(bytes);
    }

    /// Takes what somebody typed; returns how many bytes.
    pub fn read(self, out: &mut [u8]) -> usize {
        match &mut STATE.lock().output {
            Some(Output::Ring { consumer, port, hypervisor, .. }) => {
                let taken = consumer.read(out).unwrap_or(0);
                if taken != 0 {
                    let _ = hypervisor.evtchn_send(*port);
                }
                taken
            }
            _ => 0,
        }
    }

    /// The ring's event port.
    #[must_use]
    pub fn port(self) -> Option<Port> {
        match &STATE.lock().output {
            Some(Output::Ring { port, .. }) => Some(*port),
            _ => None,
        }
    }

    /// Bytes dropped because nobody emptied the ring.
    #[must_use]
    pub fn dropped(self) -> u64 {
        STATE.lock().dropped
    }
}

impl Write for Console {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        STATE.lock().write_text(s);
        Ok(())
    }
}

impl State {
    fn write_some(&mut self, bytes: &[u8]) -> usize {
        match &mut self.output {
            Some(Output::Ring { producer, port, hypervisor, .. }) => {
                // A console daemon that lies about its index gets nothing.
                let written = producer.write(bytes).unwrap_or(0);
                if written != 0 {
                    let _ = hypervisor.evtchn_send(*port);
                }
                written
            }
            #[cfg(target_arch = "x86_64")]
            Some(Output::Xen(native)) => native.console_io(bytes).map_or(0, |()| bytes.len()),
            None => 0,
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        let left = bytes.len() - self.write_some(bytes);
        self.dropped = self.dropped.saturating_add(left as u64);
    }

    /// Writes text; a terminal behind the ring wants a carriage return at each line's end, Xen adds its own.
    fn write_text(&mut self, text: &str) {
        if !matches!(self.output, Some(Output::Ring { .. })) {
            return self.write(text.as_bytes());
        }
        for line in text.split_inclusive('\n') {
            match line.strip_suffix('\n') {
                Some(line) => {
                    self.write(line.as_bytes());
                    self.write(b"\r\n");
                }
                None => self.write(line.as_bytes()),
            }
        }
    }
}

impl Write for State {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        self.write_text(s);
        Ok(())
    }
}

/// Turns that a dying kernel gives the console's daemon to make room, each of at most [`PATIENCE_NS`].
const TURNS: u32 = 100;
const PATIENCE_NS: u64 = 10_000_000;

/// Prints for a dying kernel: takes the console even if the code that died held it, and waits for room, a second at most.
pub fn print_in_panic(arguments: fmt::Arguments<'_>) {
    if STATE.try_lock().is_none() {
        // SAFETY: one virtual CPU, upcalls masked: whoever holds the lock is below us on this stack and never runs
        // again.
        unsafe { STATE.force_unlock() };
    }
    let _ = LastWords { turns: TURNS }.write_fmt(arguments);
}

struct LastWords {
    turns: u32,
}

impl Write for LastWords {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for line in text.split_inclusive('\n') {
            self.write_all(line.trim_end_matches('\n').as_bytes());
            if line.ends_with('\n') {
                self.write_all(b"\r\n");
            }
        }
        Ok(())
    }
}

impl LastWords {
    fn write_all(&mut self, mut bytes: &[u8]) {
        loop {
            let mut state = STATE.lock();
            bytes = &bytes[state.write_some(bytes)..];
            let State { output: Some(Output::Ring { hypervisor, .. }), clock, .. } = &*state else { return };
            if bytes.is_empty() || self.turns == 0 {
                return;
            }
            self.turns -= 1;
            match clock.map(|clock| clock.now_ns() + PATIENCE_NS) {
                // Without ports this is a sleep. The console's own may be pending from long ago.
                Some(until) => drop(hypervisor.sched_poll(&[], Some(until))),
                None => hypervisor.sched_yield(),
            }
        }
    }
}

struct Logger;
static LOGGER: Logger = Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let mut state = STATE.lock();
        let us = state.clock.map_or(0, |clock| clock.now_ns() / 1000);
        let (seconds, us) = (us / 1_000_000, us % 1_000_000);
        let _ = writeln!(
            state,
            "[{seconds:5}.{us:06}] {:5} {}: {}",
            record.level(),
            record.target(),
            record.args()
        );
    }

    fn flush(&self) {}
}
