//! The host's end of the device: where a connection of the guest leads to, and where a host program may ask for one.
//!
//! Two forms, with Firecracker's protocol on the host-initiated side (see [`super::handshake`]):
//! - by path: a listener at `uds_path`; the guest's connection to host port P leads to the listener at `<uds_path>_<P>`.
//!   The listener's mode is `0777 & ~umask`, as Firecracker's, so the process's umask decides who may connect. The path
//!   is removed at drop, if it still is the socket that was bound.
//! - by descriptors: everything was opened by somebody else. A connection to port P takes the descriptor that was given
//!   for P, once; every other port is refused.
//!
//! Syscalls beside those of [`super::sys`]: `accept4`; by path alone also `socket`, `bind`, `listen`, `statx` or
//! `newfstatat`, and `unlink`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::sys::HostSocket;

/// Why a host end could not be made.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum HostError {
    /// No listener could be bound at `uds_path`.
    #[error("bind vsock listener {path:?}: {source}")]
    Bind {
        /// The path that was asked for.
        path: PathBuf,
        /// What bind(2) or the look at the result said.
        source: io::Error,
    },
}

/// The host's end of one vsock device.
#[derive(Debug)]
pub struct HostEndpoint {
    listener: Option<UnixListener>,
    outbound: Outbound,
}

/// Where the guest's own connections lead to.
#[derive(Debug)]
enum Outbound {
    /// To the listener at `<uds_path>_<port>`.
    ByPath(BoundPath),
    /// To the socket that was given for the port, until it is used.
    ByDescriptor(BTreeMap<u32, OwnedFd>),
}

impl HostEndpoint {
    /// Binds a listener at `uds_path`, which must not exist.
    pub fn bind(uds_path: &Path) -> Result<Self, HostError> {
        let fail = |source| HostError::Bind { path: uds_path.to_owned(), source };
        let listener = UnixListener::bind(uds_path).map_err(fail)?;
        let outbound = Outbound::ByPath(BoundPath::new(uds_path).map_err(fail)?);
        Ok(Self { listener: Some(listener), outbound })
    }

    /// Takes an open end: a listening stream socket for host programs, and one connected stream socket for each host
    /// port that the guest may connect to. Either may be missing.
    ///
    /// The listener may block: it is only accepted from when a client waits. It must have no other acceptor.
    pub fn from_descriptors(listener: Option<OwnedFd>, ports: BTreeMap<u32, OwnedFd>) -> Self {
        Self { listener: listener.map(UnixListener::from), outbound: Outbound::ByDescriptor(ports) }
    }

    /// The listener's descriptor, to be watched for clients.
    pub(super) fn listener(&self) -> Option<RawFd> {
        self.listener.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// Takes the next client.
    pub(super) fn accept(&self) -> io::Result<HostSocket> {
        let listener = self.listener.as_ref().ok_or(io::ErrorKind::NotFound)?;
        listener.accept().map(|(stream, _)| stream.into())
    }

    /// Opens the host's end of a guest's connection to host port `port`.
    pub(super) fn connect(&mut self, port: u32) -> io::Result<HostSocket> {
        match &mut self.outbound {
            Outbound::ByPath(bound) => HostSocket::connect(&bound.of_port(port)),
            Outbound::ByDescriptor(ports) => {
                ports.remove(&port).map(HostSocket::from).ok_or(io::ErrorKind::ConnectionRefused.into())
            }
        }
    }
}

/// The path of a bound listener, removed at drop unless something else took its place.
#[derive(Debug)]
struct BoundPath {
    path: PathBuf,
    identity: (u64, u64),
}

impl BoundPath {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }

    fn of_port(&self, port: u32) -> PathBuf {
        let mut path = self.path.clone().into_os_string();
        path.push(format!("_{port}"));
        path.into()
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity)
            && let Err(source) = fs::remove_file(&self.path)
        {
            log::warn!("remove vsock listener {:?}: {source}", self.path);
        }
    }
}

/// Device and inode, which no other file has while this one exists.
fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|metadata| (metadata.dev(), metadata.ino()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn by_path_ports_are_siblings_of_the_listener_which_goes_away_at_drop() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.sock");
        let mut host = HostEndpoint::bind(&path).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        host.accept().unwrap();
        assert!(host.connect(52).is_err());
        let _port = UnixListener::bind(folder.path().join("v.sock_52")).unwrap();
        host.connect(52).unwrap();
        assert!(matches!(HostEndpoint::bind(&path), Err(HostError::Bind { .. })));
        drop(host);
        assert!(!path.exists());
    }

    #[test]
    fn a_path_that_somebody_else_took_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("v.sock");
        let first = HostEndpoint::bind(&path).unwrap();
        fs::rename(&path, folder.path().join("kept")).unwrap();
        let second = HostEndpoint::bind(&path).unwrap();
        drop(first);
        assert!(path.exists());
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn each_descriptor_serves_one_connection() {
        let (ours, _peer) = UnixStream::pair().unwrap();
        let mut host = HostEndpoint::from_descriptors(None, BTreeMap::from([(1024, ours.into())]));
        assert_eq!(host.listener(), None);
        assert_eq!(host.connect(1025).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        host.connect(1024).unwrap();
        assert_eq!(host.connect(1024).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
