//! One client: HTTP/1.1 on its socket, within limits.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;

use super::link::Link;
use super::routes;
use crate::roles::frame::Connection;

/// Most bytes of a request's head.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// How long a client may take for it, once it has begun or the last answer was sent.
const HEAD_LIMIT: Duration = Duration::from_secs(60);

/// Serves a client until it leaves.
pub(super) async fn serve(connection: Connection, socket: OwnedFd, link: Link) {
    if let Err(error) = converse(connection, socket, &link).await {
        log::debug!("connection {connection}: {error}");
    }
    link.closed(connection);
}

async fn converse(
    connection: Connection,
    socket: OwnedFd,
    link: &Link,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let socket = StdStream::from(socket);
    socket.set_nonblocking(true)?;
    let stream = TokioIo::new(UnixStream::from_std(socket)?);
    let service = TowerToHyperService::new(routes::router(connection, link.clone()));
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT).max_buf_size(MAX_HEAD_BYTES);
    Ok(server.serve_connection(stream, service).await?)
}
