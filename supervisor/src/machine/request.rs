//! What a supervisor asks of a running machine, over the sockets in its folder. Of what comes back, only a few bytes are looked
//! at: a vmm and a guest may be anybody's.

use std::io;
use std::path::Path;
use std::time::Duration;

use stockade_guest_protocol::{GUEST_PORT, HostMessage, VERSION, encode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

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
    let mut stream = limited(UnixStream::connect(folder.join("vsock.sock"))).await?;
    limited(stream.write_all(format!("CONNECT {GUEST_PORT}\n").as_bytes())).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\n") && answer.len() < 32 {
        match limited(stream.read_u8()).await {
            Ok(byte) => answer.push(byte),
            Err(_) => return Err(RequestError::NoAgent),
        }
    }
    if !answer.starts_with(b"OK ") {
        return Err(RequestError::NoAgent);
    }
    let mut frames = Vec::new();
    for message in [HostMessage::Hello { version: VERSION }, HostMessage::PowerOff] {
        encode(&message, &mut frames).map_err(|error| RequestError::Socket(io::Error::other(error)))?;
    }
    limited(stream.write_all(&frames)).await?;
    tokio::spawn(timeout(FAREWELL_LIMIT, async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await }));
    Ok(())
}

async fn api(folder: &Path, target: &str, body: &str) -> Result<(), RequestError> {
    let mut stream = limited(UnixStream::connect(folder.join("api.sock"))).await?;
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
