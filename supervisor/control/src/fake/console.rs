//! Consoles of machines that run nothing: what is typed is written.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::{Rc, Weak};

use rustix::fs::{MemfdFlags, memfd_create};
use rustix::pipe::{PipeFlags, pipe_with};
use stockade_api::{ConsoleAccess, VmId};
use stockade_jailer::console::Ring;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Notify;

use crate::backend::{self, Attachment};

/// Small, so that tests fill it.
const RING_BYTES: u32 = 64 << 10;
/// What every guest writes first.
const GREETING: &[u8] = b"ready\n";

/// One of them.
pub(super) struct Console {
    ring: File,
    input: OwnedFd,
    readers: Rc<RefCell<Vec<Weak<Notify>>>>,
}

impl Console {
    /// Echoes from now on. To be called in a `LocalSet`.
    pub(super) fn new() -> io::Result<Self> {
        let ring = File::from(memfd_create("console", MemfdFlags::CLOEXEC)?);
        let mut writer = Ring::resume(ring.try_clone()?, RING_BYTES)?;
        writer.append(GREETING);
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let typed = Receiver::from_owned_fd_unchecked(output)?;
        let readers: Rc<RefCell<Vec<Weak<Notify>>>> = Rc::default();
        let told = Rc::clone(&readers);
        tokio::task::spawn_local(async move {
            let mut bytes = vec![0; 4096];
            while typed.readable().await.is_ok() {
                match typed.try_read(&mut bytes) {
                    Ok(0) => return,
                    Ok(count) => writer.append(bytes.get(..count).unwrap_or_default()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(_) => return,
                }
                told.borrow().iter().filter_map(Weak::upgrade).for_each(|reader| reader.notify_one());
                tokio::task::yield_now().await;
            }
        });
        Ok(Self { ring, input, readers })
    }

    pub(super) fn attach(&mut self, vm: VmId, access: ConsoleAccess) -> io::Result<Attachment> {
        let written = Rc::new(Notify::new());
        let mut readers = self.readers.borrow_mut();
        readers.retain(|reader| reader.strong_count() > 0);
        readers.push(Rc::downgrade(&written));
        let input = (access == ConsoleAccess::Write).then(|| self.input.try_clone()).transpose()?;
        let ring = self.ring.try_clone()?;
        Ok(Attachment::Console(backend::Console { vm, ring, ring_bytes: RING_BYTES, input, written }))
    }
}
