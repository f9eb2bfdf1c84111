//! What the program has mapped.

use std::os::unix::fs::FileExt;

use mm_guest::{AddressSpace, Frames, NotThere, Prot, SharedMap, SharedPage, UserPage, VolumePage};

use super::{Frame, Mapped, Traced, read_only};

impl AddressSpace for Traced {
    fn map_private(&mut self, page: UserPage, frame: Frame, prot: Prot) -> Result<(), Frame> {
        let before = self.mapped.insert(page.0, Mapped::Private(frame.0, prot));
        assert!(before.is_none(), "a page is mapped where one is: {:#x}", page.address());
        self.tracee.map_memory(page.address(), frame.0, Self::bits(prot));
        Ok(())
    }

    fn map_shared(&mut self, want: SharedMap, around: u64) -> u64 {
        let (base, index) = (want.page.0 & !63, want.page.0 & 63);
        let mut done = 0;
        for place in (0..64).filter(|place| *place == index || around >> place & 1 == 1) {
            let volume = VolumePage(want.volume.0 + place - index);
            if !self.held.contains(&volume.0) {
                continue;
            }
            let page = UserPage(base + place);
            let before = self.mapped.insert(page.0, Mapped::Shared(volume));
            assert!(before.is_none(), "a page is mapped where one is: {:#x}", page.address());
            self.map_page(page, volume, want.exec);
            done |= 1 << place;
        }
        done
    }

    fn map_ahead(&mut self, maps: &[SharedMap]) -> u64 {
        let mut done = 0;
        for (index, map) in maps.iter().enumerate() {
            if self.held.contains(&map.volume.0) {
                let before = self.mapped.insert(map.page.0, Mapped::Shared(map.volume));
                assert!(before.is_none(), "a page is mapped where one is: {:#x}", map.page.address());
                self.map_page(map.page, map.volume, map.exec);
                done |= 1 << index;
            }
        }
        done
    }

    fn replace_shared(&mut self, shared: SharedPage, frame: Frame, prot: Prot) -> Result<(), Frame> {
        let page = shared.page;
        let before = self.mapped.insert(page.0, Mapped::Private(frame.0, prot));
        assert!(
            matches!(before, Some(Mapped::Shared(of)) if of == shared.volume),
            "what is replaced was shared"
        );
        self.tracee.map_memory(page.address(), frame.0, Self::bits(prot));
        Ok(())
    }

    fn unmap(&mut self, pages: &[UserPage]) {
        for page in pages {
            let frame = self.take(*page).expect("only private pages are unmapped so");
            self.release(frame);
        }
    }

    fn unmap_shared(&mut self, pages: &[SharedPage]) {
        for shared in pages {
            let before = self.mapped.remove(&shared.page.0);
            assert!(matches!(before, Some(Mapped::Shared(of)) if of == shared.volume), "{shared:?}");
            self.tracee.unmap(shared.page.address());
        }
    }

    fn take(&mut self, page: UserPage) -> Option<Frame> {
        let Some(Mapped::Private(number, _)) = self.mapped.remove(&page.0) else { return None };
        self.tracee.unmap(page.address());
        Some(Frame(number))
    }

    fn protect(&mut self, pages: &[UserPage], prot: Prot) {
        for page in pages {
            let Some(Mapped::Private(number, now)) = self.mapped.get_mut(&page.0) else {
                panic!("only private pages are protected");
            };
            *now = prot;
            let number = *number;
            self.tracee.map_memory(page.address(), number, Self::bits(prot));
        }
    }

    fn write_protect(&mut self, pages: &mut dyn Iterator<Item = UserPage>) {
        for page in pages {
            let Some(Mapped::Private(_, prot)) = self.mapped.get(&page.0) else {
                panic!("only private pages are protected");
            };
            self.protect(&[page], read_only(*prot));
        }
    }

    fn touched(&self, _page: UserPage) -> bool {
        true
    }

    fn copy_page(&mut self, from: UserPage, to: &Frame) {
        let mut bytes = [0; 4096];
        self.read_user(from.address(), &mut bytes).unwrap();
        self.write_frame(to, 0, &bytes);
    }

    fn read_user(&self, address: u64, to: &mut [u8]) -> Result<(), NotThere> {
        assert!(address % 4096 + to.len() as u64 <= 4096);
        match self.mapped.get(&(address / 4096)) {
            Some(Mapped::Private(number, prot)) if *prot != Prot::None => {
                self.memory.read_exact_at(to, number * 4096 + address % 4096).unwrap();
                Ok(())
            }
            Some(Mapped::Shared(page)) => {
                let within = address % 4096;
                if let Some(bytes) = self.frozen.part().page(*page) {
                    to.copy_from_slice(&bytes[within as usize..][..to.len()]);
                } else {
                    self.image.read_exact_at(to, page.0 * 4096 + within).unwrap();
                }
                Ok(())
            }
            _ => Err(NotThere { address }),
        }
    }

    fn write_user(&mut self, address: u64, from: &[u8]) -> Result<(), NotThere> {
        assert!(address % 4096 + from.len() as u64 <= 4096);
        match self.mapped.get(&(address / 4096)) {
            Some(Mapped::Private(number, Prot::ReadWrite | Prot::ReadWriteExec)) => {
                self.memory.write_all_at(from, number * 4096 + address % 4096).unwrap();
                Ok(())
            }
            _ => Err(NotThere { address }),
        }
    }
}
