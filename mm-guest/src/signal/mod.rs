//! Signals: what the program asked for, what is pending, and what to do next.

mod frame;

pub(crate) use frame::{RESTORE, build, initial_fpu, restore};

use serde::{Deserialize, Serialize};

use crate::vm::Fault;

/// Signal numbers (`asm/signal.h`).
pub(crate) mod number {
    pub(crate) const ILL: u32 = 4;
    pub(crate) const TRAP: u32 = 5;
    pub(crate) const BUS: u32 = 7;
    pub(crate) const FPE: u32 = 8;
    pub(crate) const KILL: u32 = 9;
    pub(crate) const SEGV: u32 = 11;
    pub(crate) const PIPE: u32 = 13;
    pub(crate) const ALRM: u32 = 14;
    pub(crate) const TERM: u32 = 15;
    pub(crate) const STOP: u32 = 19;
}

/// Handlers that are no handlers.
pub(crate) const DEFAULT: u64 = 0;
pub(crate) const IGNORE: u64 = 1;

/// `sa_flags`.
pub(crate) mod sa {
    pub(crate) const ONSTACK: u64 = 0x0800_0000;
    pub(crate) const RESTART: u64 = 0x1000_0000;
    pub(crate) const NODEFER: u64 = 0x4000_0000;
    pub(crate) const RESETHAND: u64 = 0x8000_0000;
    pub(crate) const RESTORER: u64 = 0x0400_0000;
}

/// Flags of the alternate stack.
pub(crate) const SS_ONSTACK: u32 = 1;
pub(crate) const SS_DISABLE: u32 = 2;
pub(crate) const SS_AUTODISARM: u32 = 1 << 31;
/// Smallest alternate stack (`MINSIGSTKSZ`).
pub(crate) const MIN_STACK: u64 = 2048;

/// The bit of a signal in a set.
pub(crate) fn bit(signal: u32) -> u64 {
    1 << ((signal - 1) & 63)
}

/// The signals in a set, ascending.
fn signals(set: u64) -> impl Iterator<Item = u32> {
    let mut left = set;
    core::iter::from_fn(move || {
        let signal = (left != 0).then(|| left.trailing_zeros() + 1)?;
        left &= left - 1;
        Some(signal)
    })
}

/// What the program wants done about a signal (`struct kernel_sigaction`).
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Action {
    pub(crate) handler: u64,
    pub(crate) flags: u64,
    pub(crate) restorer: u64,
    pub(crate) mask: u64,
}

/// A signal with what `siginfo_t` says of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Info {
    pub(crate) signal: u32,
    /// `si_code`.
    pub(crate) code: i32,
    /// The faulting address, or for a signal that was sent: process and user in one word, as they lie in memory.
    pub(crate) value: u64,
    /// The word behind it: `si_value` of `rt_sigqueueinfo`.
    pub(crate) extra: u64,
    /// Vector, error code and address of the exception, for `sigcontext`.
    pub(crate) trap: (u64, u64, u64),
}

impl Info {
    const USER: i32 = 0;
    const TKILL: i32 = -6;
    const KERNEL: i32 = 0x80;

    /// Sent by the process to itself.
    pub(crate) fn sent(signal: u32, to_thread: bool) -> Self {
        let code = if to_thread { Self::TKILL } else { Self::USER };
        Self { signal, code, value: 1, extra: 0, trap: (0, 0, 0) }
    }

    /// From the kernel, without more to say.
    pub(crate) fn kernel(signal: u32) -> Self {
        Self { signal, code: Self::KERNEL, value: 0, extra: 0, trap: (0, 0, 0) }
    }

    /// A page fault that could not be served.
    pub(crate) fn fault(fault: Fault, address: u64, write: bool, fetch: bool) -> Self {
        let (signal, code, present) = match fault {
            Fault::NotMapped => (number::SEGV, 1, 0),
            Fault::Forbidden => (number::SEGV, 2, 1),
            Fault::BeyondEnd | Fault::NoMemory => (number::BUS, 2, 0),
            Fault::Volume(_) | Fault::Disk => (number::BUS, 3, 0),
        };
        let error = present | u64::from(write) << 1 | 4 | u64::from(fetch) << 4;
        Self { signal, code, value: address, extra: 0, trap: (14, error, address) }
    }

    /// Any other exception.
    pub(crate) fn exception(vector: u8, code: u32, rip: u64) -> Self {
        let (signal, si_code, value) = match vector {
            0 => (number::FPE, 1, rip),
            1 | 3 => (number::TRAP, Self::KERNEL, 0),
            6 => (number::ILL, 2, rip),
            16 | 19 => (number::FPE, 7, rip),
            17 => (number::BUS, 1, 0),
            _ => (number::SEGV, Self::KERNEL, 0),
        };
        let trap = (u64::from(vector), u64::from(code), 0);
        Self { signal, code: si_code, value, extra: 0, trap }
    }

    /// `siginfo_t`.
    pub(crate) fn encode(&self) -> [u8; 128] {
        let mut bytes = [0; 128];
        bytes[..4].copy_from_slice(&self.signal.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.code.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.value.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.extra.to_le_bytes());
        bytes
    }
}

/// The alternate stack.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct AlternateStack {
    pub(crate) base: u64,
    pub(crate) size: u64,
    pub(crate) flags: u32,
}

impl AlternateStack {
    pub(crate) const NONE: Self = Self { base: 0, size: 0, flags: SS_DISABLE };

    pub(crate) fn holds(&self, pointer: u64) -> bool {
        self.flags & SS_DISABLE == 0 && pointer > self.base && pointer - self.base <= self.size
    }
}

/// All that is kept about signals.
pub(crate) struct Signals {
    pub(crate) actions: [Action; 64],
    pub(crate) blocked: u64,
    /// Mask to go back to when the handler that interrupted `rt_sigsuspend` (or `ppoll`, `pselect6`) returns.
    pub(crate) saved: Option<u64>,
    pub(crate) alternate: AlternateStack,
    pending: u64,
    infos: [Option<Info>; 64],
}

/// The same as a snapshot has it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct FrozenSignals {
    actions: alloc::vec::Vec<Action>,
    blocked: u64,
    alternate: AlternateStack,
    pending: alloc::vec::Vec<Info>,
}

/// What happens next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Next {
    Nothing,
    /// The program ends by this signal.
    Kill(u32),
    /// Its handler runs.
    Handle(Info, Action),
}

impl Signals {
    pub(crate) fn new() -> Self {
        Self {
            actions: [Action::default(); 64],
            blocked: 0,
            saved: None,
            alternate: AlternateStack::NONE,
            pending: 0,
            infos: [None; 64],
        }
    }

    /// For a snapshot. A call that waits under a mask of its own is made again, and sets that anew.
    pub(crate) fn freeze(&self) -> FrozenSignals {
        let pending = signals(self.pending);
        let info = |signal: u32| self.infos[signal as usize - 1].unwrap_or_else(|| Info::kernel(signal));
        FrozenSignals {
            actions: self.actions.to_vec(),
            blocked: self.saved.unwrap_or(self.blocked),
            alternate: self.alternate,
            pending: pending.map(info).collect(),
        }
    }

    /// From a snapshot.
    pub(crate) fn thaw(frozen: FrozenSignals) -> Self {
        let mut signals = Self::new();
        for (action, frozen) in signals.actions.iter_mut().zip(frozen.actions) {
            *action = frozen;
        }
        signals.set_blocked(frozen.blocked);
        signals.alternate = frozen.alternate;
        for info in frozen.pending.into_iter().filter(|info| (1..=64).contains(&info.signal)) {
            signals.pending |= bit(info.signal);
            signals.infos[info.signal as usize - 1] = Some(info);
        }
        signals
    }

    pub(crate) fn action(&self, signal: u32) -> Action {
        self.actions[(signal as usize).wrapping_sub(1) % 64]
    }

    /// Signals that wait to be delivered, blocked ones included.
    pub(crate) fn pending(&self) -> u64 {
        self.pending
    }

    /// Whether one would be acted upon now.
    pub(crate) fn deliverable(&self) -> bool {
        signals(self.pending & !self.blocked).any(|signal| !self.is_ignored(signal))
    }

    fn is_ignored(&self, signal: u32) -> bool {
        match self.action(signal).handler {
            IGNORE => true,
            DEFAULT => default_ignores(signal),
            _ => false,
        }
    }

    /// Makes a signal pending; one that is ignored vanishes unless it is blocked.
    pub(crate) fn send(&mut self, info: Info) {
        if self.is_ignored(info.signal) && self.blocked & bit(info.signal) == 0 {
            return;
        }
        self.pending |= bit(info.signal);
        self.infos[info.signal as usize - 1] = Some(info);
    }

    /// A signal for what the program just did: it cannot be blocked or ignored (`force_sig` of `kernel/signal.c`).
    pub(crate) fn force(&mut self, info: Info) {
        let blocked = self.blocked & bit(info.signal) != 0;
        let action = &mut self.actions[info.signal as usize - 1];
        if blocked || action.handler == IGNORE {
            action.handler = DEFAULT;
            self.blocked &= !bit(info.signal);
        }
        self.pending |= bit(info.signal);
        self.infos[info.signal as usize - 1] = Some(info);
    }

    /// Takes one of these pending signals: for `rt_sigtimedwait`.
    pub(crate) fn take(&mut self, set: u64) -> Option<Info> {
        let signal = signals(self.pending & set).next()?;
        self.pending &= !bit(signal);
        Some(self.infos[signal as usize - 1].take().unwrap_or_else(|| Info::kernel(signal)))
    }

    /// Takes the next signal to act upon. Those of the program's own doing come first, as in Linux.
    pub(crate) fn next(&mut self) -> Next {
        const OWN: u64 = 1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10;
        loop {
            let Some(info) = self.take(OWN & !self.blocked).or_else(|| self.take(!self.blocked)) else {
                return Next::Nothing;
            };
            let action = self.action(info.signal);
            match action.handler {
                IGNORE => {}
                DEFAULT if default_ignores(info.signal) => {}
                DEFAULT => return Next::Kill(info.signal),
                _ => {
                    if action.flags & sa::RESETHAND != 0 {
                        self.actions[info.signal as usize - 1].handler = DEFAULT;
                    }
                    return Next::Handle(info, action);
                }
            }
        }
    }

    /// The mask while a handler runs; gives the one to come back to.
    pub(crate) fn enter(&mut self, signal: u32, action: &Action) -> u64 {
        let before = self.saved.take().unwrap_or(self.blocked);
        let own = if action.flags & sa::NODEFER == 0 { bit(signal) } else { 0 };
        self.set_blocked(self.blocked | action.mask | own);
        before
    }

    /// Sets the mask; KILL and STOP cannot be blocked.
    pub(crate) fn set_blocked(&mut self, mask: u64) {
        self.blocked = mask & !(bit(number::KILL) | bit(number::STOP));
    }
}

/// Signals whose default is to be ignored: CHLD, CONT, URG, WINCH; and, for there is nobody who could continue a
/// stopped program, STOP, TSTP, TTIN and TTOU.
fn default_ignores(signal: u32) -> bool {
    matches!(signal, 17..=23 | 28)
}
