//! The program's address space.

use mm_guest::{AddressSpace, NotThere, PAGE_SIZE, Prot, SharedMap, SharedPage, UserPage, VolumePage};
use xen::GrantStatus;
use xen_rt::user::{self, Frame, Unmapped};

use super::{BATCH, KEPT, SLACK, Xen, page};

fn prot(prot: Prot) -> user::Prot {
    match prot {
        Prot::None => user::Prot::None,
        Prot::Read => user::Prot::Read,
        Prot::ReadWrite => user::Prot::ReadWrite,
        Prot::ReadExec => user::Prot::ReadExec,
        Prot::ReadWriteExec => user::Prot::ReadWriteExec,
    }
}

impl AddressSpace for Xen {
    fn map_private(&mut self, at: UserPage, frame: Frame, wanted: Prot) -> Result<(), Frame> {
        self.space.map_private(&mut self.pool, page(at), frame, prot(wanted)).map_err(|(frame, error)| {
            log::warn!("{:#x} cannot be mapped: {error:?}", at.address());
            frame
        })
    }

    fn map_shared(&mut self, want: SharedMap, around: u64) -> u64 {
        let base = want.page.0 & !63;
        let index = want.page.0 - base;
        let volume = |place: u64| VolumePage(want.volume.0 + place - index);
        let wanted = if want.exec { user::Prot::ReadExec } else { user::Prot::Read };
        let mut maps: heapless::Vec<user::SharedMap, BATCH> = heapless::Vec::new();
        let mut statuses: heapless::Vec<GrantStatus, BATCH> = heapless::Vec::new();
        let mut left = around & !(1 << index);
        let mut next = Some(index);
        while let Some(place) = next {
            if let Some(reference) = self.link.lookup(volume(place)) {
                let page = page(UserPage(base + place));
                // There is room for a block's pages.
                let _ = maps.push(user::SharedMap { page, owner: self.link.owner, reference, prot: wanted });
                let _ = statuses.push(GrantStatus::GENERAL_ERROR);
            }
            next = (left != 0).then(|| u64::from(left.trailing_zeros()));
            left &= left.wrapping_sub(1);
        }
        self.space.map_shared(&mut self.pool, &maps, &mut statuses);
        let mut done = 0;
        for (map, status) in maps.iter().zip(&statuses) {
            let place = map.page.address() / PAGE_SIZE - base;
            if status.is_okay() {
                done |= 1 << place;
                self.link.mapped(volume(place));
            } else if place == index {
                // That M1 took back a neighbour is found out when that is needed itself.
                log::debug!("page {} cannot be mapped: {status:?}", want.volume.0);
                self.link.map_failed(want.volume);
            }
        }
        if self.trace.is_open() {
            self.trace.mapped(self.clock.now_ns());
        }
        done
    }

    fn map_ahead(&mut self, wanted: &[SharedMap]) -> u64 {
        let mut maps: heapless::Vec<user::SharedMap, BATCH> = heapless::Vec::new();
        let mut places: heapless::Vec<usize, BATCH> = heapless::Vec::new();
        let mut statuses = [GrantStatus::GENERAL_ERROR; BATCH];
        for (index, map) in wanted.iter().enumerate().take(BATCH) {
            if let Some(reference) = self.link.lookup(map.volume) {
                let prot = if map.exec { user::Prot::ReadExec } else { user::Prot::Read };
                let map = user::SharedMap { page: page(map.page), owner: self.link.owner, reference, prot };
                // There is room for a batch.
                let _ = (maps.push(map), places.push(index));
            }
        }
        self.space.map_shared(&mut self.pool, &maps, &mut statuses);
        let mut mapped: heapless::Vec<user::UserPage, BATCH> = heapless::Vec::new();
        let mut done = 0;
        for ((index, map), status) in places.iter().zip(&maps).zip(&statuses) {
            if status.is_okay() {
                done |= 1 << index;
                self.link.mapped(wanted[*index].volume);
                let _ = mapped.push(map.page);
            }
        }
        self.space.forget_accesses(&mapped);
        done
    }

    fn replace_shared(&mut self, shared: SharedPage, frame: Frame, wanted: Prot) -> Result<(), Frame> {
        let replaced = self.space.replace_shared(page(shared.page), frame, prot(wanted));
        self.link.unmapped(shared.volume);
        replaced.map(drop).map_err(|(frame, error)| {
            log::warn!("{:#x} cannot be replaced: {error:?}", shared.page.address());
            frame
        })
    }

    fn unmap(&mut self, pages: &[UserPage]) {
        let mut list: heapless::Vec<user::UserPage, BATCH> = heapless::Vec::new();
        list.extend(pages.iter().map(|at| page(*at)));
        let Self { space, pool, .. } = self;
        space.unmap(&list, &mut |_, found| {
            if let Unmapped::Private(frame) = found {
                pool.free(frame);
            }
        });
        if self.pool.available() > self.pool.reserve() + SLACK {
            self.give_back(KEPT);
        }
    }

    fn unmap_shared(&mut self, pages: &[SharedPage]) {
        let mut list: heapless::Vec<user::UserPage, BATCH> = heapless::Vec::new();
        list.extend(pages.iter().map(|shared| page(shared.page)));
        self.space.unmap(&list, &mut |at, found| {
            if !matches!(found, Unmapped::Shared(_)) {
                log::error!("{:#x} should be shared: {found:?}", at.address());
            }
        });
        for shared in pages {
            self.link.unmapped(shared.volume);
        }
    }

    fn take(&mut self, at: UserPage) -> Option<Frame> {
        let mut taken = None;
        self.space.unmap(&[page(at)], &mut |_, found| {
            if let Unmapped::Private(frame) = found {
                taken = Some(frame);
            }
        });
        taken
    }

    fn protect(&mut self, pages: &[UserPage], wanted: Prot) {
        for at in pages {
            if let Err(error) = self.space.protect(page(*at), prot(wanted)) {
                log::error!("{:#x} cannot be protected: {error:?}", at.address());
            }
        }
    }

    fn write_protect(&mut self, pages: &mut dyn Iterator<Item = UserPage>) {
        let mut pages = pages.map(page);
        if let Err(error) = self.space.write_protect(&mut pages) {
            log::error!("pages cannot be made read-only: {error:?}");
        }
    }

    fn touched(&self, at: UserPage) -> bool {
        self.space.accessed(page(at))
    }

    fn copy_page(&mut self, from: UserPage, to: &Frame) {
        if self.space.copy_page(page(from), to).is_err() {
            log::error!("{:#x} cannot be copied", from.address());
        }
    }

    fn read_user(&self, address: u64, to: &mut [u8]) -> Result<(), NotThere> {
        self.space.read(address, to).map_err(|missing| NotThere { address: missing.va })
    }

    fn write_user(&mut self, address: u64, from: &[u8]) -> Result<(), NotThere> {
        self.space.write(address, from).map_err(|missing| NotThere { address: missing.va })
    }
}
