//! Why there is no answer.

use std::io;
use std::path::{Path, PathBuf};

/// There is no answer, or none that says that something was done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// Nobody listens on the socket.
    #[error("stockaded is not running: connect to {}", socket.display())]
    NotRunning {
        /// The daemon's socket.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The caller may not use the socket.
    #[error("no permission to talk to stockaded: connect to {}", socket.display())]
    NotPermitted {
        /// The daemon's socket.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The socket can't be connected to for another reason.
    #[error("connect to {}", socket.display())]
    Connect {
        /// The daemon's socket.
        socket: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// The connection ended before there was a whole answer. Whether the request was carried out is unknown.
    #[error("the connection ended before there was an answer")]
    HungUp(#[source] hyper::Error),
    /// Something else than an answer of this API came back. Whether the request was carried out is unknown.
    #[error("not an answer of stockaded: {0}")]
    Unusable(String),
    /// The request can't be written down.
    #[error("encode the request")]
    Encode(#[from] serde_json::Error),
    /// The daemon's answer: it was not done, and why.
    #[error(transparent)]
    Refused(#[from] stockade_api::Error),
}

impl ClientError {
    /// The socket can't be connected to.
    pub(crate) fn connect(socket: &Path, source: io::Error) -> Self {
        let socket = socket.to_owned();
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Self::NotRunning { socket, source },
            io::ErrorKind::PermissionDenied => Self::NotPermitted { socket, source },
            _ => Self::Connect { socket, source },
        }
    }

    /// What came back is none of this API's answers.
    pub(crate) fn unusable(what: impl Into<String>) -> Self {
        Self::Unusable(what.into())
    }
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() { Self::unusable(error.to_string()) } else { Self::HungUp(error) }
    }
}
