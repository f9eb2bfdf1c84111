//! Thawing: a program goes on from a snapshot, in a domain of its own, with a new identity.

use mm_proto::{HotPage, SnapshotInfo};

use super::manifest::{Manifest, ThawError};
use crate::errno::Errno;
use crate::fs::Node;
use crate::kernel::{Kernel, StartError};
use crate::machine::Machine;
use crate::options::Options;
use crate::page::{PAGE_SIZE, VolumePage};
use crate::process::Process;
use crate::vm::VmaSet;

impl<M: Machine> Kernel<M> {
    /// Takes the program of the snapshot that the volume came with. Options are those of this domain; what they say of a program
    /// does not count. Entropy, identities and clocks are this domain's: nothing random comes from the snapshot.
    ///
    /// # Errors
    /// [`StartError`], with the machine, which can still say why.
    pub fn thaw(machine: M, options: Options, snapshot: &SnapshotInfo) -> Result<Self, (M, StartError)> {
        let mut kernel = Self::new(machine, options)?;
        match kernel.thaw_from(snapshot) {
            Ok(()) => Ok(kernel),
            Err(error) => Err((kernel.memory.machine, StartError::Thaw(error))),
        }
    }

    fn thaw_from(&mut self, snapshot: &SnapshotInfo) -> Result<(), ThawError> {
        let volume = self.memory.machine.volume_identity();
        let manifest = Manifest::read(snapshot.head, &volume, |page, to| self.read_frozen(page, to))?;
        if manifest.fpu.len() != 512 || !manifest.frozen.is_sound() || !manifest.tmp.is_sound() {
            return Err(ThawError::Senseless);
        }
        self.memory.vmas = VmaSet::from_list(manifest.vmas).ok_or(ThawError::Senseless)?;
        self.memory.frozen = manifest.frozen;
        self.memory.heap = manifest.heap;
        self.memory.store.thaw(manifest.store).ok_or(ThawError::Senseless)?;
        self.vfs.tmp = manifest.tmp;
        self.names = manifest.names;
        self.process = Process::thaw(manifest.process);
        self.files = manifest.files.thaw(self).map_err(ThawError::File)?;
        self.thaw_data().map_err(ThawError::File)?;
        self.registers = manifest.registers;
        let mut fpu = [0; 512];
        fpu.copy_from_slice(&manifest.fpu);
        let machine = &mut self.memory.machine;
        machine.set_fpu(&fpu);
        if let Some(halves) = manifest.vectors {
            let halves: &[u8; 256] = halves.as_slice().try_into().map_err(|_| ThawError::Senseless)?;
            if !machine.set_vectors(halves) {
                return Err(ThawError::NoAvx);
            }
        }
        machine.set_monotonic(manifest.monotonic);
        machine.set_processor_time(manifest.used);
        self.resume = manifest.deadline;
        self.arm_alarm();
        let wanted = self.options.ahead && snapshot.hot != 0;
        let known = if wanted { self.memory.read_hot(snapshot.hot) } else { None };
        self.memory.begin_hot(&known.unwrap_or(HotPage::new()));
        self.memory.machine.tell_thawed();
        Ok(())
    }

    /// What else of `/data` is in use: the current directory, and files that mappings show. What is not in use any more and has no
    /// name goes.
    fn thaw_data(&mut self) -> Result<(), Errno> {
        if let Node::Data(dir) = self.process.cwd.node {
            self.memory.retain_data(dir)?;
        }
        self.memory.retain_all_mapped()?;
        self.memory.free_data_orphans()
    }

    fn read_frozen(&mut self, page: u32, to: &mut [u8; PAGE_SIZE as usize]) -> Result<(), ThawError> {
        self.memory.machine.read_volume(VolumePage(page.into()), 0, to).map_err(ThawError::Page)
    }
}
