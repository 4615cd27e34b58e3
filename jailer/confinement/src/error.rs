//! Why a process could not be looked at.

use std::io;

use rustix::io::Errno;

/// A process that could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// There is none of that number.
    #[error("process {0}: there is no such process")]
    NoProcess(i32),
    /// It is dead already, and only its parent has not heard of it.
    #[error("process {0}: it has ended, and waits for its parent to hear of it")]
    Ended(i32),
    /// The kernel shows it to others only.
    #[error("read {path}: not permitted; run as root")]
    NotPermitted {
        /// What was to be read.
        path: String,
    },
    /// Something else failed.
    #[error("read {path}")]
    Read {
        /// What was to be read.
        path: String,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The kernel wrote something else than its documentation says.
    #[error("read {path}")]
    Parse {
        /// What was read.
        path: String,
        /// What is wrong with it.
        #[source]
        source: ParseError,
    },
}

impl ReadError {
    /// The error of a call that reads `path` of process `pid`.
    pub(crate) fn new(pid: i32, path: String, errno: Errno) -> Self {
        match errno {
            Errno::SRCH => Self::NoProcess(pid),
            Errno::ACCESS | Errno::PERM => Self::NotPermitted { path },
            _ => Self::Read { path, source: errno.into() },
        }
    }

    /// Whether what was to be read is not there any more: a thread, a descriptor, a whole process.
    pub(crate) fn is_gone(&self) -> bool {
        match self {
            Self::NoProcess(_) => true,
            Self::Read { source, .. } => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// A text of the kernel that has another form than it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Something is missing.
    #[error("there is no {0}")]
    Missing(&'static str),
    /// Something makes no sense.
    #[error("{field} is {value:?}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What it is.
        value: String,
    },
}

impl ParseError {
    pub(crate) fn invalid(field: &'static str, value: &str) -> Self {
        Self::Invalid { field, value: value.to_owned() }
    }
}
