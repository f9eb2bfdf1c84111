//! The console, and what was typed.

use mm_guest::Console;

use super::{LOOK_NS, Xen};

/// How long the console may take nothing before what is written is dropped.
const CONSOLE_NS: u64 = 5_000_000_000;
/// Where a clone says when its program first wrote something, in the domain's own directory.
const FIRST_OUTPUT: &str = "data/first-output";

impl Xen {
    /// A thawed program has written its first words: when, beside when it was connected and thawed, is told in xenstore.
    fn tell_first_output(&mut self) {
        let Some(thawed) = self.thawed.take() else { return };
        let now = self.clock.now_ns();
        let [connected, thawed, output] =
            [self.connected, thawed, now].map(|moment| moment.saturating_sub(self.begun));
        let line = alloc::format!("connected={connected} thawed={thawed} output={output}");
        if let Err(error) = self.store.write(FIRST_OUTPUT, line.as_bytes()) {
            log::warn!("{FIRST_OUTPUT}: {error}");
        }
        // Whatever came from xenstored meanwhile was not looked at.
        self.store_called = true;
    }

    pub(super) fn take_input(&mut self) {
        let mut bytes = [0; 64];
        while self.typed.capacity() - self.typed.len() >= bytes.len() {
            let length = self.console.read(&mut bytes);
            if length == 0 {
                break;
            }
            for byte in &bytes[..length] {
                let _ = self.typed.push_back(*byte);
            }
        }
    }
}

impl Console for Xen {
    fn console_write(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        let mut until = self.clock.now_ns().saturating_add(CONSOLE_NS);
        while !rest.is_empty() {
            let written = self.console.write_some(rest);
            rest = &rest[written..];
            let now = self.clock.now_ns();
            if written > 0 {
                until = now.saturating_add(CONSOLE_NS);
            } else if now >= until {
                return;
            } else if let Some(port) = self.console.port() {
                let _ = self.hypervisor.sched_poll(&[port], Some(now.saturating_add(LOOK_NS / 10)));
                self.events.clear(port);
                self.take_input();
            }
        }
        self.tell_first_output();
    }

    fn console_read(&mut self, to: &mut [u8]) -> usize {
        self.take_input();
        let mut length = 0;
        while length < to.len()
            && let Some(byte) = self.typed.pop_front()
        {
            to[length] = byte;
            length += 1;
        }
        length
    }

    fn console_ready(&mut self) -> bool {
        self.take_input();
        !self.typed.is_empty()
    }
}
