//! A client of the control API: HTTP and JSON on the unix socket of `stockaded`.
//!
//! Each request has a connection of its own, so any number can be under way at once, and one that waits for hours keeps no other
//! from being answered. The daemon knows who is asking by the socket's credentials; there is nothing to log in to.
//!
//! ```no_run
//! # async fn example() -> Result<(), stockade_client::ClientError> {
//! let client = stockade_client::Client::new(stockade_client::DEFAULT_SOCKET);
//! for vm in client.list().await? {
//!     println!("{} is {}", vm.name, vm.state);
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod connection;
pub mod console;
mod error;
mod route;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::de::DeserializeOwned;
use stockade_api::body::{Ended, Switches, VmPage};
use stockade_api::event::EventPage;
use stockade_api::request::{AGENT_PROTOCOL, NewRun, NewVm, ResetScope, StopMode, Verbosity, Version};
use stockade_api::{Exit, SwitchSummary, VmId, VmReference, VmSummary};

pub use connection::Joined;
use console::{Download, Following, Part, Stream, Typing};
pub use error::ClientError;
use route::Route;

/// Where the daemon listens, unless it was told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/stockade/control.sock";

/// A client of the daemon that listens on one socket.
///
/// The errors of every method are those of [`ClientError`].
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
}

#[allow(clippy::missing_errors_doc, reason = "said once, at the type")]
impl Client {
    /// A client of the daemon that listens on `socket`. Nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// The daemon's socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Which daemon it is.
    pub async fn version(&self) -> Result<Version, ClientError> {
        self.send(Route::version()).await
    }

    /// Every virtual machine that the caller may see, in the order of their numbers.
    pub async fn list(&self) -> Result<Vec<VmSummary>, ClientError> {
        let mut vms = Vec::new();
        let mut after = VmId(0);
        loop {
            let page: VmPage = self.send(Route::list(after)).await?;
            let last = page.vms.last().map(|vm| vm.id);
            vms.extend(page.vms);
            match last {
                Some(last) if page.more && last > after => after = last,
                // Numbers that don't rise would be asked for forever.
                _ if page.more => return Err(ClientError::unusable("a list that does not go on")),
                _ => return Ok(vms),
            }
        }
    }

    /// Every switch that the caller may see.
    pub async fn switches(&self) -> Result<Vec<SwitchSummary>, ClientError> {
        Ok(self.send::<Switches>(Route::switches()).await?.switches)
    }

    /// One virtual machine.
    pub async fn show(&self, vm: &VmReference) -> Result<VmSummary, ClientError> {
        self.send(Route::show(vm)).await
    }

    /// Starts one that is known; returns once the guest runs.
    pub async fn start(&self, vm: &VmReference) -> Result<VmSummary, ClientError> {
        self.send(Route::start(vm)).await
    }

    /// Makes and starts one that is gone once it has stopped; returns once the guest runs.
    pub async fn create(&self, definition: &NewVm) -> Result<VmSummary, ClientError> {
        self.send(Route::create(definition)?).await
    }

    /// Stops one; returns once it is over, with how it ended.
    pub async fn stop(&self, vm: &VmReference, mode: StopMode) -> Result<Option<Exit>, ClientError> {
        self.send(Route::stop(vm, mode)?).await.map(|ended: Ended| ended.exit)
    }

    /// Waits until one does not run any more; returns how it ended.
    pub async fn wait(&self, vm: &VmReference) -> Result<Option<Exit>, ClientError> {
        self.send(Route::wait(vm)).await.map(|ended: Ended| ended.exit)
    }

    /// Becomes its console: begins after the cursor `after`, or with all that is kept if it is 0, and goes on until it does
    /// not run any more.
    pub async fn console(&self, vm: &VmReference, typing: Typing, after: u64) -> Result<Stream, ClientError> {
        connection::upgrade(&self.socket, Route::console(vm, typing, after), "stockade-console").await
    }

    /// What is kept of its console, whether or not it runs.
    pub async fn console_log(
        &self,
        vm: &VmReference,
        part: Part,
        following: Following,
    ) -> Result<Download, ClientError> {
        connection::download(&self.socket, Route::console_log(vm, part, following)).await
    }

    /// Has the guest's processors stand still.
    pub async fn pause(&self, vm: &VmReference) -> Result<VmSummary, ClientError> {
        self.send(Route::pause(vm)).await
    }

    /// Has them go on.
    pub async fn unpause(&self, vm: &VmReference) -> Result<VmSummary, ClientError> {
        self.send(Route::unpause(vm)).await
    }

    /// A connection to the agent of a guest (see `stockade_guest_protocol`), on which nothing was said yet.
    pub async fn exec(&self, vm: &VmReference) -> Result<Joined, ClientError> {
        connection::upgrade(&self.socket, Route::exec(vm), AGENT_PROTOCOL).await.map(Stream::joined)
    }

    /// Makes and starts one for a command; returns the first connection of its guest's agent once the guest runs. It is ended
    /// and gone when that is dropped.
    pub async fn run(&self, definition: &NewRun) -> Result<Joined, ClientError> {
        connection::upgrade(&self.socket, Route::run(definition)?, AGENT_PROTOCOL).await.map(Stream::joined)
    }

    /// The cursor of the last event.
    pub async fn cursor(&self) -> Result<u64, ClientError> {
        let page: EventPage = self.send(Route::cursor()).await?;
        Ok(page.next)
    }

    /// Events after the cursor `after`, or all that are kept if it is 0; waits for one if there are none yet, but no longer than
    /// `wait` (1 to 60 seconds, in whole ones).
    pub async fn events(&self, after: u64, wait: Duration) -> Result<EventPage, ClientError> {
        self.send(Route::events(after, wait.as_secs().clamp(1, 60))).await
    }

    /// Has the daemon read vm.conf again.
    pub async fn reload(&self) -> Result<(), ClientError> {
        self.done(Route::reload()).await
    }

    /// Has the daemon read another file, and add what it defines. `path` is absolute.
    pub async fn load(&self, path: &str) -> Result<(), ClientError> {
        self.done(Route::load(path)?).await
    }

    /// Forgets what was configured, and ends what runs of it.
    pub async fn reset(&self, what: ResetScope) -> Result<(), ClientError> {
        self.done(Route::reset(what)?).await
    }

    /// Says how much the daemon logs.
    pub async fn log(&self, verbosity: Verbosity) -> Result<(), ClientError> {
        self.done(Route::log(verbosity)?).await
    }

    async fn send<T: DeserializeOwned>(&self, route: Route) -> Result<T, ClientError> {
        let body = connection::exchange(&self.socket, route).await?;
        serde_json::from_slice(&body).map_err(|error| ClientError::unusable(error.to_string()))
    }

    /// Sends what has no answer but that it is done.
    async fn done(&self, route: Route) -> Result<(), ClientError> {
        connection::exchange(&self.socket, route).await.map(drop)
    }
}
