//! The thread that serves the API: it turns HTTP requests into questions for the main thread, and their replies into answers.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;

use seccomp_filters::Role;
use stockade_vmm_api::instance::Fault;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::descriptors::{self, Descriptors, OpenError};
use crate::http::response::{Deprecation, Status};
use crate::http::{Method, Request, Response};
use crate::request::{Answer, Asker};
use crate::routes::{self, Routed};
use crate::server::Server;
use crate::threads::{self, Filters, SpawnError};

/// An API that can't be served.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ApiError {
    /// The inherited socket.
    #[error("--api-sock: {0}")]
    Descriptor(#[from] OpenError),
    /// The socket can't be made.
    #[error("--api-sock {path:?}: {source}; choose a path that does not exist yet, in a folder that may be written to")]
    Bind {
        /// The path.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The thread.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// What ends the thread.
    #[error("create eventfd: {0}")]
    Stop(#[source] io::Error),
}

/// The socket's path, removed when dropped unless something else took its place.
#[derive(Debug)]
pub struct SocketPath {
    path: String,
    identity: Option<(u64, u64)>,
}

impl SocketPath {
    fn of(path: &str) -> Self {
        Self { path: path.to_owned(), identity: identity(path) }
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Nothing can be done about it here.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &str) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()))
}

/// The socket at `path`, made or inherited.
///
/// # Errors
/// If it can't be had.
pub fn listen(path: &str, descriptors: &mut Descriptors) -> Result<(UnixListener, Option<SocketPath>), ApiError> {
    if let Some(name) = descriptors::name_of(path) {
        let descriptor = descriptors.take(name).ok_or_else(|| OpenError::NotInherited(name.to_owned()))?;
        return Ok((descriptor.into(), None));
    }
    if descriptors.is_sealed() {
        return Err(OpenError::Sealed(path.to_owned()).into());
    }
    let listener = UnixListener::bind(path).map_err(|source| ApiError::Bind { path: path.to_owned(), source })?;
    Ok((listener, Some(SocketPath::of(path))))
}

/// The thread that serves the API.
#[derive(Debug)]
pub struct Api {
    stop: EventFd,
    stopped: Receiver<()>,
}

impl Api {
    /// Serves the API on a thread of its own, which pledges first.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn serve(
        listener: UnixListener,
        body_max_bytes: usize,
        asker: Asker,
        filters: Filters,
    ) -> Result<Self, ApiError> {
        let stop = EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(ApiError::Stop)?;
        let told_to_stop = stop.try_clone().map_err(ApiError::Stop)?;
        let (report, stopped) = channel();
        threads::spawn("fc_api", filters, Role::Api, move || {
            log::info!("API server started.");
            let served = Server::new(listener, told_to_stop, body_max_bytes, |request| answer(&asker, request))
                .and_then(|mut server| server.run());
            if let Err(error) = served {
                log::error!("the API is not served any more: {error}");
            }
            // Nobody listens if the process did not wait.
            let _ = report.send(());
            // Not ended, so that its filter needs nothing of what that takes.
            loop {
                thread::park();
            }
        })?;
        Ok(Self { stop, stopped })
    }

    /// Serves no more, and returns when the answers that are owed have been sent. The other end of its channel must be gone.
    pub fn finish(self) {
        if self.stop.write(1).is_ok() {
            // An error says the same: the thread is done.
            let _ = self.stopped.recv();
        }
    }
}

/// Answers a request; `None` when the VM has ended.
fn answer(asker: &Asker, request: &Request) -> Option<Response> {
    log_request(request);
    let (reply, deprecated) = match routes::route(request) {
        Ok(Routed { request, deprecated }) => (asker.ask(request)?, deprecated),
        Err(error) => (Err(error.to_string()), None),
    };
    if let Some(warning) = deprecated {
        log::warn!("{warning}");
    }
    let deprecation = if deprecated.is_some() { Deprecation::Warned } else { Deprecation::None };
    let (status, body) = match reply {
        Ok(Answer::Done) => (Status::NoContent, Vec::new()),
        Ok(Answer::Json(body)) => (Status::Ok, body),
        Err(fault_message) => {
            log::error!("Received Error. Status code: 400 Bad Request. Message: {fault_message}");
            let fault = Fault { fault_message };
            // A string always is JSON.
            (Status::BadRequest, serde_json::to_vec(&fault).unwrap_or_default())
        }
    };
    if status != Status::BadRequest {
        log::info!("The request was executed successfully. Status code: {} {}.", status.code(), status.reason());
    }
    Some(Response { status, deprecation, body })
}

fn log_request(request: &Request) {
    let method = match request.method {
        Method::Get => "Get",
        Method::Put => "Put",
        Method::Patch => "Patch",
        Method::Delete => "Delete",
    };
    let path = &request.path;
    // A template is long, and Firecracker's log doesn't show it either.
    let is_template = path.trim_start_matches('/').starts_with("cpu-config");
    if request.body.is_empty() || (is_template && !log::log_enabled!(log::Level::Debug)) {
        log::info!("The API server received a {method} request on {path:?}.");
    } else {
        let body = String::from_utf8_lossy(&request.body);
        log::info!("The API server received a {method} request on {path:?} with body {body:?}.");
    }
}
