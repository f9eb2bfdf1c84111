//! The kernel's own access to a program's memory, and running the program.

use xen_ring::PageWords;
use xen_sys::PAGE_SIZE;

use super::shadow::Shadow;
#[cfg(feature = "image")]
use super::{Exit, UserContext};
use super::{Frame, NotMapped, NotWritable, Prot, UserPage, UserSpace};
use crate::machine::{copy_page, words};

const PAGE: u64 = PAGE_SIZE as u64;

impl UserSpace {
    /// Reads the program's memory at `va`.
    ///
    /// # Errors
    /// The first address that the program could not read either; what comes before it has been read.
    pub fn read(&self, va: u64, out: &mut [u8]) -> Result<(), NotMapped> {
        let mut done = 0;
        while done < out.len() {
            let at = va.checked_add(done as u64).ok_or(NotMapped { va })?;
            let (offset, len) = part(at, out.len() - done);
            let page =
                UserPage::containing(at).and_then(|page| self.readable(page)).ok_or(NotMapped { va: at })?;
            let inside = page.read(offset, &mut out[done..done + len]);
            debug_assert!(inside, "a part of a page");
            done += len;
        }
        Ok(())
    }

    /// Writes the program's memory at `va`, where that is private and writable: shared pages must be replaced first.
    ///
    /// # Errors
    /// The first address where it is not; what comes before it has been written.
    pub fn write(&mut self, va: u64, data: &[u8]) -> Result<(), NotWritable> {
        let mut done = 0;
        while done < data.len() {
            let at = va.checked_add(done as u64).ok_or(NotWritable { va })?;
            let (offset, len) = part(at, data.len() - done);
            let page = match UserPage::containing(at).map(|page| self.shadow(page)) {
                // SAFETY: a mapped frame stays in the direct map, and holds words.
                Some(Shadow::Private { page, prot }) if prot.writable() => unsafe { words(page) },
                _ => return Err(NotWritable { va: at }),
            };
            let inside = page.write(offset, &data[done..done + len]);
            debug_assert!(inside, "a part of a page");
            done += len;
        }
        Ok(())
    }

    /// Makes `frame` a copy of a page.
    ///
    /// # Errors
    /// [`NotMapped`]: the program could not read it either.
    pub fn copy_page(&self, page: UserPage, frame: &Frame) -> Result<(), NotMapped> {
        let from = self.readable(page).ok_or(NotMapped { va: page.address() })?;
        copy_page(frame.words(), from);
        Ok(())
    }

    /// What is at a page, if the program may read it.
    fn readable(&self, page: UserPage) -> Option<&PageWords> {
        match self.shadow(page) {
            // SAFETY: a mapped frame stays in the direct map, and holds words.
            Shadow::Private { page, prot } if prot != Prot::None => Some(unsafe { words(page) }),
            Shadow::Shared { .. } => {
                self.activate();
                // SAFETY: mapped there as long as this address space, which the reference borrows, is not changed. Xen takes no
                // grant mapping away, whatever becomes of its owner.
                Some(unsafe { &*(page.address() as *const PageWords) })
            }
            _ => None,
        }
    }
}

#[cfg(feature = "image")]
impl UserContext {
    /// Runs the program in `space` until it traps. Events are let through meanwhile: one that is pending, or comes, ends
    /// the run with [`Exit::Event`].
    pub fn run(&mut self, space: &UserSpace) -> Exit {
        space.activate();
        self.enter()
    }
}

#[cfg(not(feature = "image"))]
impl super::UserContext {
    /// Runs the program in `space` until it traps. Events are let through meanwhile: one that is pending, or comes, ends
    /// the run with [`super::Exit::Event`].
    ///
    /// # Panics
    /// On the host.
    pub fn run(&mut self, space: &UserSpace) -> super::Exit {
        space.activate();
        panic!("user mode is Xen's")
    }
}

/// The part of `len` bytes from `at` on that lies in one page: its offset there, and its length.
fn part(at: u64, len: usize) -> (usize, usize) {
    let offset = usize::try_from(at % PAGE).unwrap_or(0);
    (offset, len.min(PAGE_SIZE - offset))
}
