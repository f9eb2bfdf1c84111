//! Memory calls, on top of [`crate::vm`].

use super::Args;
use crate::errno::{Errno, SysResult};
use crate::files::Object;
use crate::fs::dev::Device;
use crate::kernel::Kernel;
use crate::machine::Machine;
use crate::page::{PAGE_SIZE, pages, round_up};
use crate::vm::{Backing, MapRequest, Place, Rights};

impl<M: Machine> Kernel<M> {
    pub(super) fn sys_mmap(&mut self, a: Args) -> SysResult {
        const SHARED: u64 = 1;
        const PRIVATE: u64 = 2;
        const SHARED_VALIDATE: u64 = 3;
        const FIXED: u64 = 0x10;
        const ANONYMOUS: u64 = 0x20;
        const GROWSDOWN: u64 = 0x100;
        const LOCKED: u64 = 0x2000;
        const NORESERVE: u64 = 0x4000;
        const POPULATE: u64 = 0x8000;
        const HUGETLB: u64 = 0x40000;
        const FIXED_NOREPLACE: u64 = 0x10_0000;
        let [address, length, prot, flags, fd, offset] = a;
        let shared = match flags & 3 {
            SHARED | SHARED_VALIDATE => true,
            PRIVATE => false,
            _ => return Err(Errno::INVAL),
        };
        if length == 0 || !offset.is_multiple_of(PAGE_SIZE) || offset.checked_add(round_up(length)).is_none()
        {
            return Err(Errno::INVAL);
        }
        if flags & HUGETLB != 0 {
            return Err(Errno::NOMEM);
        }
        if length > crate::page::USER_END {
            return Err(Errno::NOMEM);
        }
        self.memory.check_heap()?;
        let rights = Rights::from_argument(prot);
        let place = match (flags & FIXED_NOREPLACE != 0, flags & FIXED != 0) {
            (true, _) => Place::IfFree,
            (_, true) => Place::Exactly,
            _ => Place::Near,
        };
        let request = MapRequest {
            address,
            length,
            place,
            rights,
            shared,
            grows_down: flags & GROWSDOWN != 0,
            uncharged: flags & NORESERVE != 0,
            backing: Backing::Anonymous,
        };
        let files = place == Place::Exactly && self.memory.shows_files(address, length);
        let at = if flags & ANONYMOUS != 0 {
            // With one process, shared memory without a file is private memory.
            self.memory.map(&MapRequest { shared: false, ..request })?
        } else {
            self.map_fd(fd, &request, offset)?
        };
        self.reap_if(files);
        if flags & (POPULATE | LOCKED) != 0
            && !rights.none()
            && let Some(range) = pages(at, length)
        {
            self.memory.populate(range);
        }
        Ok(at)
    }

    fn map_fd(&mut self, fd: u64, request: &MapRequest, offset: u64) -> SysResult {
        let description = self.files.get(fd)?;
        if !description.readable() {
            return Err(Errno::ACCES);
        }
        if request.shared && request.rights.write() && !description.writable() {
            return Err(Errno::ACCES);
        }
        let path = description.at.as_ref().map(|at| at.path.clone()).unwrap_or_default();
        match &description.object {
            Object::Volume(inode) => {
                let object = Object::Volume(*inode);
                self.map_object(&object, &path, request, offset)
            }
            Object::Tmp(id, store) => {
                let object = Object::Tmp(*id, *store);
                self.map_object(&object, &path, request, offset)
            }
            Object::Data(ino) => {
                let object = Object::Data(*ino);
                self.map_object(&object, &path, request, offset)
            }
            Object::Device(Device::Zero) => self.memory.map(&MapRequest { shared: false, ..*request }),
            _ => Err(Errno::NODEV),
        }
    }

    pub(super) fn sys_munmap(&mut self, address: u64, length: u64) -> SysResult {
        let files = self.memory.shows_files(address, length);
        self.memory.unmap(address, length)?;
        self.reap_if(files);
        Ok(0)
    }

    /// After mappings of files in memory or of `/data` have gone: one without a name may have lost its last user.
    fn reap_if(&mut self, files: bool) {
        if files {
            self.vfs.tmp.reap_all(&mut self.memory);
            self.memory.reap_data();
        }
    }

    pub(super) fn sys_mprotect(&mut self, address: u64, length: u64, prot: u64) -> SysResult {
        const GROWSDOWN: u64 = 0x0100_0000;
        if prot & !7 != 0 {
            return Err(if prot & GROWSDOWN != 0 { Errno::INVAL } else { Errno::ACCES });
        }
        self.memory.protect(address, length, Rights::from_argument(prot)).map(|()| 0)
    }

    pub(super) fn sys_mremap(&mut self, a: Args) -> SysResult {
        let files = self.memory.shows_files(a[0], a[1]) || self.memory.shows_files(a[4], a[2]);
        let at = self.memory.remap(a[0], a[1], a[2], a[3], a[4]);
        self.reap_if(files);
        at
    }

    /// Mappings of files in memory are the files, without a disk behind them; those of `/data` are not written.
    pub(super) fn sys_msync(&mut self, address: u64, length: u64, flags: u64) -> SysResult {
        const ASYNC_AND_SYNC: u64 = 5;
        if flags & !7 != 0 || flags & ASYNC_AND_SYNC == ASYNC_AND_SYNC {
            return Err(Errno::INVAL);
        }
        self.memory.is_mapped(address, length).map(|_| 0)
    }

    pub(super) fn sys_mincore(&mut self, address: u64, length: u64, vector: u64) -> SysResult {
        let range = self.memory.is_mapped(address, length)?;
        for (index, page) in range.enumerate() {
            let present = self.memory.is_present(page);
            self.memory.write_bytes(vector + index as u64, &[u8::from(present)])?;
        }
        Ok(0)
    }

    pub(super) fn sys_madvise(&mut self, address: u64, length: u64, advice: u64) -> SysResult {
        self.memory.advise(address, length, advice).map(|()| 0)
    }

    /// `mlock`, `munlock`, `mlockall`, `munlockall`. Nothing is ever swapped out; shared pages may be asked back by M1
    /// and fault in again, so a lock makes pages present but cannot hold those.
    pub(super) fn sys_mlock(&mut self, call: u64, address: u64, length: u64) -> SysResult {
        const MLOCK: u64 = 149;
        const MUNLOCK: u64 = 150;
        if matches!(call, MLOCK | MUNLOCK) {
            let start = crate::page::round_down(address);
            let range = self.memory.is_mapped(start, length.saturating_add(address - start))?;
            if call == MLOCK {
                self.memory.populate(range);
            }
        }
        Ok(0)
    }
}
