//! What can go wrong while measuring.

use std::path::{Path, PathBuf};

/// Why nothing was measured.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file, socket or process of the host.
    #[error("{action} {object}: {source}", object = object.display())]
    Host {
        /// What was tried.
        action: &'static str,
        /// With what.
        object: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The vmm ended or fell silent before the guest had written its byte.
    #[error("{vmm} {when}; it says: {log}", vmm = vmm.display())]
    Silent {
        /// The vmm.
        vmm: PathBuf,
        /// What happened instead.
        when: String,
        /// What it wrote to standard error.
        log: String,
    },
    /// The vmm refused a request.
    #[error("{request}: {response}")]
    Refused {
        /// Method and target.
        request: String,
        /// Status line and body.
        response: String,
    },
    /// `/proc` says something unexpected.
    #[error("read {object}: no field {field}", object = object.display())]
    Field {
        /// The file.
        object: PathBuf,
        /// What is missing.
        field: &'static str,
    },
}

/// Makes an [`Error::Host`] of an I/O error.
pub fn at<'a>(action: &'static str, object: &'a Path) -> impl FnOnce(std::io::Error) -> Error + 'a {
    move |source| Error::Host { action, object: object.to_owned(), source }
}
