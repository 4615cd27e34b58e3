//! Threads, each under its own filter before it does anything.

use std::fmt;
use std::io;
use std::thread::{Builder, JoinHandle};

use seccomp_filters::{PledgeError, Role, pledge};

/// Bytes of stack of a thread. Only what is used costs memory.
const STACK_BYTES: usize = 512 * 1024;

/// Whether system calls are filtered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Filters {
    /// They are, and a process that can't have that doesn't run.
    #[default]
    On,
    /// They are not, by request.
    Off,
}

impl Filters {
    /// Leaves the calling thread only what `role` promises.
    ///
    /// # Errors
    /// If the kernel refuses the filter.
    pub fn pledge(self, role: Role) -> Result<(), PledgeError> {
        match self {
            Self::On => pledge(role),
            Self::Off => Ok(()),
        }
    }
}

/// A thread that could not be had.
#[derive(Debug, thiserror::Error)]
#[error("start thread {name:?}: {source}")]
pub struct SpawnError {
    name: String,
    source: io::Error,
}

/// Starts a thread that pledges before it runs `body`. If it can't, the process ends: nothing runs unconfined.
///
/// # Errors
/// If the thread can't be started.
pub fn spawn<T: Send + 'static>(
    name: impl fmt::Display,
    filters: Filters,
    role: Role,
    body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, SpawnError> {
    let name = name.to_string();
    let confined = move || match filters.pledge(role) {
        Ok(()) => body(),
        Err(error) => {
            log::error!("confine thread: {error}");
            std::process::exit(1)
        }
    };
    let builder = Builder::new().name(name.clone()).stack_size(STACK_BYTES);
    builder.spawn(confined).map_err(|source| SpawnError { name, source })
}
