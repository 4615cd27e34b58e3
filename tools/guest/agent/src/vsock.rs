//! How the agent reaches its host: vsock(7).

use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, VsockAddr};
use stockade_guest_protocol::{GUEST_PORT, HOST_PORT};

/// The host has no one who listens, or this machine has no vsock device.
#[derive(Debug, thiserror::Error)]
#[error("{operation} vsock port {port}; the machine needs a vsock device whose host side serves it")]
pub struct VsockError {
    operation: &'static str,
    port: u32,
    source: Errno,
}

/// Connects to [`HOST_PORT`] of the host.
///
/// # Errors
/// There is no vsock device, or nobody accepts.
pub fn connect() -> Result<OwnedFd, VsockError> {
    let failed = |source| VsockError { operation: "connect to the host's", port: HOST_PORT, source };
    let socket = socket(SockFlag::empty()).map_err(failed)?;
    socket::connect(socket.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_HOST, HOST_PORT)).map_err(failed)?;
    Ok(socket)
}

/// Listens on [`GUEST_PORT`]. The listener does not block.
///
/// # Errors
/// There is no vsock device.
pub fn listen() -> Result<OwnedFd, VsockError> {
    let failed = |source| VsockError { operation: "listen on", port: GUEST_PORT, source };
    let listener = socket(SockFlag::SOCK_NONBLOCK).map_err(failed)?;
    socket::bind(listener.as_raw_fd(), &VsockAddr::new(libc::VMADDR_CID_ANY, GUEST_PORT)).map_err(failed)?;
    let backlog = Backlog::new(16).map_err(failed)?;
    socket::listen(&listener, backlog).map_err(failed)?;
    Ok(listener)
}

fn socket(flags: SockFlag) -> Result<OwnedFd, Errno> {
    socket::socket(AddressFamily::Vsock, SockType::Stream, flags | SockFlag::SOCK_CLOEXEC, None)
}
