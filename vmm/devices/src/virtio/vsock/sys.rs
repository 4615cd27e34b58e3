//! Stream sockets of the host side, used without ever blocking and without ever raising SIGPIPE.
//!
//! Every transfer carries `MSG_DONTWAIT | MSG_NOSIGNAL`, so it depends neither on the descriptor's `O_NONBLOCK` (which
//! an inherited descriptor shares with whoever else has it) nor on the process's disposition of SIGPIPE. Bytes go
//! straight between the socket and guest memory, without a copy in between.
//!
//! Syscalls: `recvfrom` and `sendto` with a null address, `shutdown`, `close`; in [`HostSocket::connect`] alone `socket`
//! and `connect`.

use std::io;
use std::mem::{offset_of, size_of};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::Path;

use vm_memory::VolatileSlice;
use vm_memory::bitmap::BitmapSlice;

const FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// A connected stream socket of the host.
#[derive(Debug)]
pub struct HostSocket(UnixStream);

impl HostSocket {
    /// Connects to the listener at `path`; never waits for room in its backlog (`EAGAIN`, see connect(2)).
    pub fn connect(path: &Path) -> io::Result<Self> {
        let mut address = libc::sockaddr_un { sun_family: libc::AF_UNIX as libc::sa_family_t, sun_path: [0; 108] };
        let bytes = path.as_os_str().as_bytes();
        // One byte is kept for the terminating zero.
        if bytes.len() >= address.sun_path.len() || bytes.contains(&0) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        for (to, from) in address.sun_path.iter_mut().zip(bytes) {
            *to = *from as libc::c_char;
        }
        let length = offset_of!(libc::sockaddr_un, sun_path).saturating_add(bytes.len()).saturating_add(1);

        // SAFETY: socket(2) takes no pointer.
        let fd =
            unsafe { libc::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call above returned this descriptor, and nobody else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        debug_assert!(length <= size_of::<libc::sockaddr_un>());
        // SAFETY: `address` lives across the call, and `length` is at most its size, by the check of the path's length.
        let result = unsafe { libc::connect(fd, (&raw const address).cast(), length as libc::socklen_t) };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(Self(socket.into())) }
    }

    /// Receives at most `into.len()` bytes into guest memory; 0 says that the peer sends no more.
    pub fn receive_into<B: BitmapSlice>(&self, into: &VolatileSlice<'_, B>) -> io::Result<usize> {
        let guard = into.ptr_guard_mut();
        // SAFETY: the slice is `into.len()` bytes of mapped guest memory, which the guard keeps mapped, and whose
        // content nobody assumes to be stable.
        let count = transferred(unsafe { libc::recv(self.0.as_raw_fd(), guard.as_ptr().cast(), into.len(), FLAGS) })?;
        into.bitmap().mark_dirty(0, count);
        Ok(count)
    }

    /// Sends as much of a piece of guest memory as the socket takes.
    pub fn send_from<B: BitmapSlice>(&self, from: &VolatileSlice<'_, B>) -> io::Result<usize> {
        let guard = from.ptr_guard();
        // SAFETY: the slice is `from.len()` bytes of mapped guest memory, which the guard keeps mapped; the kernel only
        // copies the bytes, whatever they are by then.
        transferred(unsafe { libc::send(self.0.as_raw_fd(), guard.as_ptr().cast(), from.len(), FLAGS) })
    }

    /// Receives into memory of the process; 0 says that the peer sends no more.
    pub fn receive(&self, into: &mut [u8]) -> io::Result<usize> {
        self.receive_into(&VolatileSlice::from(into))
    }

    /// Looks at what [`HostSocket::receive`] would return, and leaves it there.
    pub fn peek(&self, into: &mut [u8]) -> io::Result<usize> {
        let flags = FLAGS | libc::MSG_PEEK;
        // SAFETY: `into` is valid for writes of its length.
        transferred(unsafe { libc::recv(self.0.as_raw_fd(), into.as_mut_ptr().cast(), into.len(), flags) })
    }

    /// Sends from memory of the process.
    pub fn send(&self, from: &[u8]) -> io::Result<usize> {
        // SAFETY: `from` is valid for reads of its length.
        transferred(unsafe { libc::send(self.0.as_raw_fd(), from.as_ptr().cast(), from.len(), FLAGS) })
    }

    /// Ends one or both directions. That the peer was faster is no error.
    pub fn shutdown(&self, how: Shutdown) {
        let _ = self.0.shutdown(how);
    }
}

/// What recv(2) or send(2) returned; an interrupted call is repeated by the next event, as if it would have blocked.
fn transferred(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| {
        let error = io::Error::last_os_error();
        if error.kind() == io::ErrorKind::Interrupted { io::ErrorKind::WouldBlock.into() } else { error }
    })
}

impl AsRawFd for HostSocket {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl From<UnixStream> for HostSocket {
    fn from(stream: UnixStream) -> Self {
        Self(stream)
    }
}

impl From<OwnedFd> for HostSocket {
    fn from(descriptor: OwnedFd) -> Self {
        Self(descriptor.into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_blocking_descriptor_is_never_waited_for() {
        let (ours, mut peer) = UnixStream::pair().unwrap();
        let socket = HostSocket::from(ours);
        let mut bytes = [0; 8];
        assert_eq!(socket.receive(&mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        peer.write_all(b"hello").unwrap();
        assert_eq!(socket.peek(&mut bytes).unwrap(), 5);
        assert_eq!(socket.receive(&mut bytes).unwrap(), 5);
        assert_eq!(&bytes[..5], b"hello");
        let block = [7; 4096];
        let error = loop {
            if let Err(error) = socket.send(&block) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error_and_no_signal() {
        let (ours, peer) = UnixStream::pair().unwrap();
        let socket = HostSocket::from(ours);
        drop(peer);
        assert_eq!(socket.send(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(socket.receive(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn connect_reaches_a_listener_and_refuses_what_is_no_path() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        assert_eq!(HostSocket::connect(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        let listener = UnixListener::bind(&path).unwrap();
        let socket = HostSocket::connect(&path).unwrap();
        assert_eq!(socket.send(b"hi").unwrap(), 2);
        let mut bytes = [0; 2];
        listener.accept().unwrap().0.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hi");
        let long = Path::new("/").join("x".repeat(108));
        assert_eq!(HostSocket::connect(&long).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_backlog_that_is_full_refuses_and_does_not_block() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let listener = UnixListener::bind(&path).unwrap();
        // SAFETY: listen(2) takes no pointer; a second call only changes the backlog.
        assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
        let _first = HostSocket::connect(&path).unwrap();
        assert_eq!(HostSocket::connect(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }
}
