//! Tells who reads a console that there is more of it.
//!
//! The parent watches the files of consoles on the descriptor that both have (inotify(7)); only what it says is read here. What
//! is told is that there may be something, never what, so that telling once too often does no harm.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::{Rc, Weak};

use rustix::fs::inotify::{ReadFlags, Reader};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::sync::Notify;

/// Bytes of what the kernel has to say that are read at once: some hundred events.
const EVENTS_BYTES: usize = 4096;

/// Who is told of which console.
#[derive(Debug)]
pub(super) struct Consoles {
    /// An inotify descriptor, for which tokio has no type of its own; only readiness is asked of this one.
    watches: UnixDatagram,
    readers: RefCell<HashMap<i32, Vec<Weak<Notify>>>>,
}

impl Consoles {
    /// Hears from `watches`, which does not block. To be called within a runtime.
    pub(super) fn new(watches: OwnedFd) -> io::Result<Self> {
        Ok(Self { watches: UnixDatagram::from_std(watches.into())?, readers: RefCell::default() })
    }

    /// What is told whenever the console with this watch may have been written to, for one reader.
    pub(super) fn hear_of(&self, watch: i32) -> Rc<Notify> {
        let reader = Rc::new(Notify::new());
        let mut readers = self.readers.borrow_mut();
        readers.retain(|_, readers| {
            readers.retain(|reader| reader.strong_count() > 0);
            !readers.is_empty()
        });
        readers.entry(watch).or_default().push(Rc::downgrade(&reader));
        reader
    }

    /// Listens, and tells. Returns when that is not possible any more.
    pub(super) async fn listen(&self) -> io::Error {
        loop {
            match self.watches.async_io(Interest::READABLE, || self.tell(self.watches.as_fd())).await {
                Ok(()) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    }

    /// Takes what the kernel has to say now.
    fn tell(&self, watches: BorrowedFd<'_>) -> io::Result<()> {
        let mut buffer = [MaybeUninit::uninit(); EVENTS_BYTES];
        let mut reader = Reader::new(watches, &mut buffer);
        loop {
            let event = reader.next()?;
            let (watch, overflow) = (event.wd(), event.events().contains(ReadFlags::QUEUE_OVERFLOW));
            let readers = self.readers.borrow();
            let told = readers.iter().filter(|(known, _)| overflow || **known == watch);
            for reader in told.flat_map(|(_, readers)| readers).filter_map(Weak::upgrade) {
                reader.notify_one();
            }
            if reader.is_buffer_empty() {
                return Ok(());
            }
        }
    }
}
