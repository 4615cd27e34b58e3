//! Consoles, as clients are attached to them.
//!
//! A console is a ring, which the warden writes, and a fifo, which the vmm reads (see [`crate::store`]). Who may have it gets
//! descriptors of both, in `control`: neither this process nor the warden touches what a client types or how slowly it reads.
//! inotify(7) tells `control` when a ring was written to; what is watched is said here, since that takes a path.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
use stockade_api::{Attached, ConsoleAccess, Error, ErrorCode, VmId};
use stockade_supervisor::machine::CONSOLE_RING_BYTES;
use stockade_supervisor::text::chain;

use crate::store::Store;

/// What is told of consoles.
#[derive(Debug)]
pub struct Consoles {
    watches: OwnedFd,
}

impl Consoles {
    /// Tells of none yet.
    ///
    /// # Errors
    /// As inotify_init1(2).
    pub fn new() -> io::Result<Self> {
        Ok(Self { watches: init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)? })
    }

    /// What `control` hears from.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn listener(&self) -> io::Result<OwnedFd> {
        self.watches.try_clone()
    }

    /// Descriptors of the console of a virtual machine, and what is told with them.
    ///
    /// # Errors
    /// Its files can't be opened or watched.
    pub fn attach(&self, store: &Store, vm: VmId, access: ConsoleAccess) -> Result<(Attached, Vec<OwnedFd>), Error> {
        let internal = |message: String| Error::new(ErrorCode::Internal, message, "look at the daemon's log");
        let files = store.console_for_client(vm, access).map_err(|error| internal(chain(&error)))?;
        // By the descriptor, so that it is this file whatever has its name. A file that is gone is not watched any more.
        let ring = format!("/proc/self/fd/{}", files.ring.as_raw_fd());
        let watch = add_watch(&self.watches, ring, WatchFlags::MODIFY)
            .map_err(|errno| internal(format!("watch the console of {vm}: {errno}")))?;
        let attached = Attached::Console { vm, ring_bytes: CONSOLE_RING_BYTES, watch, access };
        let descriptors = std::iter::once(files.ring).chain(files.input).map(OwnedFd::from).collect();
        Ok((attached, descriptors))
    }
}
