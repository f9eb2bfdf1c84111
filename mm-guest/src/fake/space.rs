//! What the program has mapped.

use super::{Fake, Frame, Mapped, read_only};
use crate::machine::{AddressSpace, Frames, NotThere, Prot, SharedMap, SharedPage};
use crate::page::{UserPage, VolumePage};

impl AddressSpace for Fake {
    fn map_private(&mut self, page: UserPage, frame: Frame, prot: Prot) -> Result<(), Frame> {
        if self.known.insert(page.0)
            && let Some(budget) = &mut self.table_budget
        {
            match budget.checked_sub(1) {
                Some(rest) => *budget = rest,
                None => {
                    self.known.remove(&page.0);
                    return Err(frame);
                }
            }
        }
        let before = self.mapped.insert(page.0, Mapped::Private(frame, prot));
        assert!(before.is_none(), "{page:?} is filled twice");
        Ok(())
    }

    fn map_shared(&mut self, want: SharedMap, around: u64) -> u64 {
        let (base, index) = (want.page.0 & !63, want.page.0 & 63);
        let mut done = 0;
        for place in (0..64).filter(|place| *place == index || around >> place & 1 == 1) {
            let volume = want.volume.0 + place - index;
            if !self.held.contains(&volume) {
                continue;
            }
            if self.failing_maps > 0 && place == index {
                self.failing_maps -= 1;
                self.held.remove(&volume);
                continue;
            }
            let before = self.mapped.insert(base + place, Mapped::Shared(VolumePage(volume), want.exec));
            assert!(before.is_none(), "{:#x} is filled twice", base + place);
            done |= 1 << place;
        }
        done
    }

    fn map_ahead(&mut self, maps: &[SharedMap]) -> u64 {
        let mut done = 0;
        for (index, map) in maps.iter().enumerate() {
            if self.held.contains(&map.volume.0) {
                let before = self.mapped.insert(map.page.0, Mapped::Shared(map.volume, map.exec));
                assert!(before.is_none(), "{:?} is filled twice", map.page);
                done |= 1 << index;
            }
        }
        done
    }

    fn replace_shared(&mut self, shared: SharedPage, frame: Frame, prot: Prot) -> Result<(), Frame> {
        let before = self.mapped.insert(shared.page.0, Mapped::Private(frame, prot));
        assert!(matches!(before, Some(Mapped::Shared(volume, _)) if volume == shared.volume), "{shared:?}");
        Ok(())
    }

    fn unmap(&mut self, pages: &[UserPage]) {
        for page in pages {
            let frame = self.take(*page).expect("a private page is unmapped");
            self.release(frame);
        }
    }

    fn unmap_shared(&mut self, pages: &[SharedPage]) {
        for shared in pages {
            let before = self.mapped.remove(&shared.page.0);
            assert!(
                matches!(before, Some(Mapped::Shared(volume, _)) if volume == shared.volume),
                "{shared:?}"
            );
        }
    }

    fn take(&mut self, page: UserPage) -> Option<Frame> {
        match self.mapped.remove(&page.0) {
            Some(Mapped::Private(frame, _)) => Some(frame),
            Some(Mapped::Shared(..)) => panic!("{page:?} is shared, not to be taken"),
            None => None,
        }
    }

    fn protect(&mut self, pages: &[UserPage], prot: Prot) {
        for page in pages {
            match self.mapped.get_mut(&page.0) {
                Some(Mapped::Private(_, now)) => *now = prot,
                _ => panic!("{page:?} is not private"),
            }
        }
    }

    fn write_protect(&mut self, pages: &mut dyn Iterator<Item = UserPage>) {
        for page in pages {
            match self.mapped.get_mut(&page.0) {
                Some(Mapped::Private(_, prot)) => *prot = read_only(*prot),
                _ => panic!("{page:?} is not private"),
            }
        }
    }

    fn touched(&self, _page: UserPage) -> bool {
        false
    }

    fn copy_page(&mut self, from: UserPage, to: &Frame) {
        let mut bytes = [0; 4096];
        self.read_user(from.address(), &mut bytes).expect("what is copied is mapped");
        **to.0.borrow_mut() = bytes;
    }

    fn read_user(&self, address: u64, to: &mut [u8]) -> Result<(), NotThere> {
        let within = (address % 4096) as usize;
        let range = within..within + to.len();
        match self.mapped.get(&(address / 4096)) {
            Some(Mapped::Private(frame, prot)) if *prot != Prot::None => {
                to.copy_from_slice(&frame.0.borrow()[range])
            }
            Some(Mapped::Shared(page, _)) => {
                to.copy_from_slice(&self.page(*page).expect("what is mapped is there")[range]);
            }
            _ => return Err(NotThere { address }),
        }
        Ok(())
    }

    fn write_user(&mut self, address: u64, from: &[u8]) -> Result<(), NotThere> {
        let within = (address % 4096) as usize;
        match self.mapped.get_mut(&(address / 4096)) {
            Some(Mapped::Private(frame, Prot::ReadWrite | Prot::ReadWriteExec)) => {
                frame.0.borrow_mut()[within..within + from.len()].copy_from_slice(from);
                Ok(())
            }
            _ => Err(NotThere { address }),
        }
    }
}
