//! `execve`: another program in the place of this one.

use alloc::vec::Vec;

use crate::errno::{Errno, SysResult};
use crate::exec::{ExecError, MAX_STRINGS};
use crate::kernel::{End, Kernel};
use crate::machine::Machine;
use crate::signal::{AlternateStack, number};

impl<M: Machine> Kernel<M> {
    /// What can be found out is found out before the old program goes; after that a failure ends it all.
    pub(super) fn sys_execve(&mut self, path: u64, args: u64, env: u64) -> SysResult {
        let path = self.memory.read_path(path)?;
        let mut room = MAX_STRINGS;
        let args = self.read_strings(args, &mut room)?;
        let env = self.read_strings(env, &mut room)?;
        self.look_at_program(&path).map_err(|error| match error {
            ExecError::File(error) | ExecError::TooLarge(error) => error,
            ExecError::Format(_) => Errno::NOEXEC,
        })?;
        self.leave_program()?;
        if let Err(error) = self.exec(&path, args, &env) {
            self.say(format_args!("the program that was to follow could not be loaded: {error:?}"));
            self.ended = Some(End::Killed(number::KILL));
        }
        Ok(0)
    }

    /// An array of strings that ends with a null pointer; `room` is what may still be taken.
    fn read_strings(&mut self, array: u64, room: &mut usize) -> Result<Vec<Vec<u8>>, Errno> {
        let mut strings = Vec::new();
        let mut at = array;
        while at != 0 {
            let string = self.memory.read_u64(at)?;
            if string == 0 {
                break;
            }
            let string = self.memory.read_string(string, *room)?;
            *room = room.checked_sub(string.len() + 9).ok_or(Errno::TOOBIG)?;
            strings.try_reserve(1)?;
            strings.push(string);
            at = at.wrapping_add(8);
        }
        Ok(strings)
    }

    /// Gives up what belongs to the program and not to the process.
    fn leave_program(&mut self) -> Result<(), Errno> {
        let mut closing = Vec::new();
        for fd in self.files.numbers() {
            if self.files.close_on_exec(u64::from(fd))? {
                closing.try_reserve(1)?;
                closing.push(u64::from(fd));
            }
        }
        for fd in closing {
            self.sys_close(fd)?;
        }
        self.memory.clear();
        self.vfs.tmp.reap_all(&mut self.memory);
        self.memory.reap_data();
        self.names.clear();
        let signals = &mut self.process.signals;
        for action in signals.actions.iter_mut().filter(|action| action.handler > crate::signal::IGNORE) {
            *action = crate::signal::Action::default();
        }
        signals.alternate = AlternateStack::NONE;
        self.process.robust_list = (0, 24);
        Ok(())
    }
}
