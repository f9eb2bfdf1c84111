//! The disk behind `/data`.

use mm_guest::{BlockDevice, DataDisk, DiskFailed};
use xen_rt::user::Frame;

use super::Xen;
use crate::disk::Disk;
use crate::store::Store;

impl Xen {
    /// Does something with the disk. What came from xenstored meanwhile for others is looked at later.
    fn with_disk(
        &mut self,
        work: impl FnOnce(&mut Disk, &mut Store) -> Result<(), DiskFailed>,
    ) -> Result<(), DiskFailed> {
        let disk = self.disk.as_mut().ok_or(DiskFailed)?;
        let from = xen::clock::tsc();
        let done = work(disk, &mut self.store);
        self.slept += xen::clock::tsc().saturating_sub(from);
        self.store_called |= core::mem::take(&mut disk.others);
        self.called = true;
        done
    }
}

impl BlockDevice for Xen {
    fn data_disk(&self) -> Option<DataDisk> {
        self.disk.as_ref().map(Disk::about)
    }

    fn disk_read(&mut self, first: u64, to: &[Frame]) -> Result<(), DiskFailed> {
        self.with_disk(|disk, store| disk.read(store, first, to))
    }

    fn disk_write(&mut self, first: u64, from: &[&Frame]) -> Result<(), DiskFailed> {
        self.with_disk(|disk, store| disk.write(store, first, from))
    }

    fn disk_flush(&mut self) -> Result<(), DiskFailed> {
        self.with_disk(Disk::flush)
    }

    fn disk_discard(&mut self, first: u64, count: u64) {
        let _ = self.with_disk(|disk, store| {
            disk.discard(store, first, count);
            Ok(())
        });
    }
}
