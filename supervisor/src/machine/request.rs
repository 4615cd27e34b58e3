//! What a supervisor asks of a running machine, over the sockets in its folder. Of what comes back, only a few bytes are looked
//! at: a vmm and a guest may be anybody's.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, socket_with};
use stockade_guest_protocol::{GUEST_PORT, HostMessage, VERSION, encode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Name of the vsock device's socket in a machine's folder.
const VSOCK_SOCKET: &str = "vsock.sock";
/// Most bytes of a vmm's answer to `CONNECT`.
const CONNECTED_BYTES: usize = 32;
/// How long a vmm may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// How long an agent is listened to that was asked to power its guest off; whoever asked ends it then.
const FAREWELL_LIMIT: Duration = Duration::from_secs(3600);

/// The machine did not do it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// There is no connection, or it broke off.
    #[error("talk to the vmm")]
    Socket(#[from] io::Error),
    /// It said no.
    #[error("the vmm answered with status {0}")]
    Status(String),
    /// It said nothing.
    #[error("the vmm did not answer")]
    Silence,
    /// Nobody is there who could.
    #[error("the guest runs no agent")]
    NoAgent,
}

/// Has the guest's processors stand still.
///
/// # Errors
/// The vmm did not do it.
pub async fn pause(folder: &Path) -> Result<(), RequestError> {
    api(folder, "PATCH /vm", r#"{"state":"Paused"}"#).await
}

/// Has them go on.
///
/// # Errors
/// The vmm did not do it.
pub async fn resume(folder: &Path) -> Result<(), RequestError> {
    api(folder, "PATCH /vm", r#"{"state":"Resumed"}"#).await
}

/// Presses control, alt and delete.
///
/// # Errors
/// The vmm did not do it.
pub async fn ctrl_alt_del(folder: &Path) -> Result<(), RequestError> {
    api(folder, "PUT /actions", r#"{"action_type":"SendCtrlAltDel"}"#).await
}

/// Asks the guest's agent to end every command, unmount, and power off. Returns once it was asked; the connection lasts for as long
/// as this process and the guest.
///
/// # Errors
/// There is no agent.
pub async fn power_off(folder: &Path) -> Result<(), RequestError> {
    let mut stream = limited(connect(folder, VSOCK_SOCKET)).await?;
    timeout(ANSWER_LIMIT, call_agent(&mut stream)).await.map_err(|_| RequestError::Silence)??;
    let mut frames = Vec::new();
    for message in [HostMessage::Hello { version: VERSION }, HostMessage::PowerOff] {
        encode(&message, &mut frames).map_err(|error| RequestError::Socket(io::Error::other(error)))?;
    }
    limited(stream.write_all(&frames)).await?;
    tokio::spawn(timeout(FAREWELL_LIMIT, async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await }));
    Ok(())
}

/// A connection to the socket of this name in a machine's folder.
///
/// The folder is the machine's own, so a link that stands there leads nowhere: it would lead this process, which may be root.
///
/// # Errors
/// There is no such socket, or nobody listens.
async fn connect(folder: &Path, name: &str) -> io::Result<UnixStream> {
    UnixStream::from_std(connect_now(folder, name)?.into())
}

/// The same without waiting for a machine that has not taken those before this one. It does not block.
fn connect_now(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    let named = socket(folder, name)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    let address = SocketAddrUnix::new(format!("/proc/self/fd/{}", named.as_raw_fd()))?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

fn socket(folder: &Path, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(CWD, folder, flags | OFlags::DIRECTORY, Mode::empty())?;
    let socket = openat(&folder, name, flags, Mode::empty())?;
    if FileType::from_raw_mode(fstat(&socket)?.st_mode) != FileType::Socket {
        return Err(io::Error::other(format!("{name} is no socket")));
    }
    Ok(socket)
}

/// A connection to the machine's vsock device, on which nothing was said yet, and which does not block.
///
/// # Errors
/// The machine is gone, or takes no more.
pub fn vsock(folder: &Path) -> io::Result<OwnedFd> {
    connect_now(folder, VSOCK_SOCKET)
}

/// Has the vmm at the other end connect `stream` to the guest's agent, which says nothing by itself then. A guest whose kernel has
/// not come to its vsock device yet is waited for.
///
/// # Errors
/// There is no agent.
pub async fn call_agent(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> Result<(), RequestError> {
    stream.write_all(format!("CONNECT {GUEST_PORT}\n").as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") && answer.len() < CONNECTED_BYTES {
        answer.push(stream.read_u8().await.map_err(|_| RequestError::NoAgent)?);
    }
    if answer.starts_with(b"OK ") { Ok(()) } else { Err(RequestError::NoAgent) }
}

async fn api(folder: &Path, target: &str, body: &str) -> Result<(), RequestError> {
    let mut stream = limited(connect(folder, "api.sock")).await?;
    let length = body.len();
    let request = format!("{target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}");
    limited(stream.write_all(request.as_bytes())).await?;
    let mut status = *b"HTTP/1.1 nnn";
    limited(stream.read_exact(&mut status)).await?;
    match status.strip_prefix(b"HTTP/1.1 ") {
        Some([b'2', ..]) => Ok(()),
        other => Err(RequestError::Status(crate::text::printable(&String::from_utf8_lossy(other.unwrap_or_default())))),
    }
}

async fn limited<T>(work: impl Future<Output = io::Result<T>>) -> Result<T, RequestError> {
    Ok(timeout(ANSWER_LIMIT, work).await.map_err(|_| RequestError::Silence)??)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[tokio::test]
    async fn only_a_socket_of_the_machines_own_is_connected_to() {
        let outside = tempfile::tempdir().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let _elsewhere = UnixListener::bind(outside.path().join("other.sock")).unwrap();
        std::os::unix::fs::symlink(outside.path().join("other.sock"), folder.path().join("link")).unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        std::os::unix::fs::symlink(outside.path(), folder.path().join("folder")).unwrap();
        let _own = UnixListener::bind(folder.path().join("vsock.sock")).unwrap();
        assert!(connect(folder.path(), "link").await.is_err());
        assert!(connect(folder.path(), "file").await.is_err());
        assert!(connect(&folder.path().join("folder"), "other.sock").await.is_err());
        assert!(vsock(folder.path()).is_ok());
    }

    #[tokio::test]
    async fn an_agent_is_there_if_the_vmm_says_so() {
        for (answer, there) in [("OK 1073741824\n", true), ("NO\n", false), ("", false), ("OK", false)] {
            let (mut ours, mut theirs) = tokio::io::duplex(64);
            let play = async {
                let mut line = [0; 13];
                theirs.read_exact(&mut line).await.unwrap();
                assert_eq!(&line, b"CONNECT 1024\n");
                theirs.write_all(answer.as_bytes()).await.unwrap();
                drop(theirs);
            };
            let (called, ()) = tokio::join!(call_agent(&mut ours), play);
            assert_eq!(called.is_ok(), there, "{answer:?}");
        }
    }
}
