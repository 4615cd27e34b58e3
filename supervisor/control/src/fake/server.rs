//! Serves the fake daemon in a thread of its own.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread::JoinHandle;

use tokio::sync::oneshot;

use super::{Fake, Settings};
use crate::limits::Limits;

/// A fake daemon on a socket, until it is dropped.
#[derive(Debug)]
pub struct Server {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Server {
    /// Serves a fake daemon on a new socket at `path`.
    ///
    /// # Errors
    /// If the socket can't be made, or there is no thread or descriptor for it.
    pub fn start(path: &Path, settings: Settings, limits: Limits) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new().name("fake-daemon".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
            runtime.block_on(async {
                let listener = tokio::net::UnixListener::from_std(listener)?;
                crate::serve(listener, Fake::new(settings), limits, async { drop(stopped.await) }).await
            })
        })?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }

    /// Waits until it ends by itself, which it does only for a listener that has become unusable.
    ///
    /// # Errors
    /// Why the listener is unusable.
    pub fn join(mut self) -> io::Result<()> {
        self.thread.take().map_or(Ok(()), |thread| thread.join().unwrap_or_else(|_| Err(io::ErrorKind::Other.into())))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // How it ended is of no interest to who wants it gone.
            drop(thread.join());
        }
    }
}
