//! What is undone when a jail does not come to be: everything that was made for it, the last first.
//!
//! It has to work even after the process gave up every privilege, and that without a second process, which would stay behind as
//! the vmm's child. So a thread keeps the privileges, which in Linux each thread has for itself: it undoes if it is told to, and
//! ends with everything else of this process when the vmm is executed.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use rustix::fs::{AtFlags, Gid, Mode, Uid, fchmod, fchown, unlinkat};

use crate::sys;

/// Stack of the thread that undoes.
const STACK_BYTES: usize = 64 << 10;

/// Something that was made.
#[derive(Debug)]
pub(super) enum Made {
    /// A file in a folder.
    File(Arc<OwnedFd>, OsString),
    /// A folder in a folder.
    Folder(Arc<OwnedFd>, OsString),
    /// The owner and mode of a folder that was there.
    Owner(Arc<OwnedFd>, Uid, Gid, Mode),
    /// This process is in a control group; the file is that of the one where it was.
    Joined(File),
}

impl Made {
    /// What can't be undone is left: there is nobody to do it, and the reason for all this is told anyway.
    fn undo(self) {
        let _ = match self {
            Self::File(folder, name) => unlinkat(folder, &name, AtFlags::empty()).map_err(io::Error::from),
            Self::Folder(folder, name) => unlinkat(folder, &name, AtFlags::REMOVEDIR).map_err(io::Error::from),
            Self::Owner(folder, owner, group, mode) => {
                fchown(&folder, Some(owner), Some(group)).and_then(|()| fchmod(&folder, mode)).map_err(io::Error::from)
            }
            Self::Joined(mut before) => before.write_all(b"0"),
        };
    }
}

/// What was made, in order. Undone when dropped.
#[derive(Debug, Default)]
pub(super) struct Undo {
    made: Vec<Made>,
    thread: Option<(Sender<()>, JoinHandle<()>)>,
}

impl Undo {
    /// Adds something that was made.
    pub(super) fn add(&mut self, made: Made) {
        self.made.push(made);
    }

    /// Leaves what was made to another process.
    pub(super) fn leave(mut self) {
        self.made.clear();
    }

    /// Leaves the undoing to a thread, because this one is about to lose what it takes.
    ///
    /// # Errors
    /// There can be no thread.
    pub(super) fn delegate(&mut self) -> io::Result<()> {
        let (living, ended): (Sender<()>, Receiver<()>) = channel();
        let (hand_over, made) = channel();
        let wait_and_undo = move || {
            let made: Vec<Made> = made.recv().unwrap_or_default();
            // Nothing is ever sent: it ends when the other end is dropped.
            let _ = ended.recv();
            undo(made);
        };
        sys::share_heap();
        let thread = thread::Builder::new().stack_size(STACK_BYTES).spawn(wait_and_undo)?;
        if let Err(unsent) = hand_over.send(std::mem::take(&mut self.made)) {
            self.made = unsent.0;
        }
        self.thread = Some((living, thread));
        Ok(())
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        if let Some((living, thread)) = self.thread.take() {
            drop(living);
            let _ = thread.join();
        }
        undo(std::mem::take(&mut self.made));
    }
}

fn undo(made: Vec<Made>) {
    made.into_iter().rev().for_each(Made::undo);
}
