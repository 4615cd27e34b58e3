//! One request and its answer over one connection.

use std::io::Cursor;
use std::path::Path;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, Chain, Join};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::error::ClientError;
use crate::route::Route;

/// The header with the cursor of a console.
const CURSOR: &str = "stockade-cursor";
/// Largest body of an answer, bytes.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Sends `route` to `socket`, and returns the body of an answer that says that it was done.
pub(crate) async fn exchange(socket: &Path, route: Route) -> Result<Bytes, ClientError> {
    let (response, driver) = send(socket, route).await?;
    let status = response.status();
    let body = body(response).await?;
    drop(driver);
    if status.is_success() { Ok(body) } else { Err(refusal(status, &body)) }
}

/// Sends `route` to `socket`, which asks for a connection that carries bytes in `protocol`, and returns that connection.
pub(crate) async fn upgrade(socket: &Path, route: Route, protocol: &str) -> Result<Stream, ClientError> {
    let (response, driver) = send(socket, Route { upgrade: Some(protocol.to_owned()), ..route }).await?;
    let status = response.status();
    if status != StatusCode::SWITCHING_PROTOCOLS {
        return Err(refusal(status, &body(response).await?));
    }
    let cursor = cursor(&response)?;
    let upgraded = hyper::upgrade::on(response).await?;
    drop(driver);
    let parts = upgraded.downcast::<TokioIo<UnixStream>>();
    let parts = parts.map_err(|_| ClientError::unusable("a stream that is no socket"))?;
    Ok(Stream { socket: parts.io.into_inner(), early: parts.read_buf, cursor })
}

/// Sends `route` to `socket`, and returns the answer as it comes.
pub(crate) async fn download(socket: &Path, route: Route) -> Result<Download, ClientError> {
    let (response, driver) = send(socket, route).await?;
    let status = response.status();
    if !status.is_success() {
        return Err(refusal(status, &body(response).await?));
    }
    Ok(Download { cursor: cursor(&response)?, body: response.into_body(), _driver: driver })
}

async fn send(socket: &Path, route: Route) -> Result<(Response<Incoming>, Driver), ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| ClientError::connect(socket, source))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = Driver(tokio::spawn(connection.with_upgrades()));
    Ok((sender.send_request(request(route)?).await?, driver))
}

/// Where in a console the answer begins, if it is one.
fn cursor(response: &Response<Incoming>) -> Result<u64, ClientError> {
    let Some(cursor) = response.headers().get(CURSOR) else { return Ok(0) };
    let cursor = cursor.to_str().ok().and_then(|cursor| cursor.parse().ok());
    cursor.ok_or_else(|| ClientError::unusable("a cursor that is no number"))
}

/// A connection that carries bytes.
#[derive(Debug)]
pub struct Stream {
    /// What it carries from now on.
    pub socket: UnixStream,
    /// What has come already.
    pub early: Bytes,
    /// How many bytes a console had before the first one that comes; 0 for other streams.
    pub cursor: u64,
}

/// The same as one thing to read and write.
pub type Joined = Join<Chain<Cursor<Bytes>, OwnedReadHalf>, OwnedWriteHalf>;

impl Stream {
    /// What has come already, what comes, and what goes.
    pub fn joined(self) -> Joined {
        let (reader, writer) = self.socket.into_split();
        tokio::io::join(Cursor::new(self.early).chain(reader), writer)
    }
}

/// Bytes of a console, as they come.
#[derive(Debug)]
pub struct Download {
    cursor: u64,
    body: Incoming,
    _driver: Driver,
}

impl Download {
    /// How many bytes the console had before the first one that comes.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The next bytes; nothing at the end.
    ///
    /// # Errors
    /// The connection broke off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        loop {
            match self.body.frame().await.transpose()?.map(Frame::into_data) {
                None => return Ok(None),
                Some(Ok(bytes)) => return Ok(Some(bytes)),
                // Trailers, which nobody sends.
                Some(Err(_)) => {}
            }
        }
    }
}

/// The task that moves bytes between the socket and the request; it ends with the request.
#[derive(Debug)]
struct Driver(tokio::task::JoinHandle<hyper::Result<()>>);

impl Drop for Driver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn request(route: Route) -> Result<Request<Full<Bytes>>, ClientError> {
    let request = Request::builder()
        .method(route.method)
        .uri(route.target)
        // HTTP/1.1 demands one, and a unix socket has none.
        .header(HOST, "localhost");
    let request = match route.upgrade {
        Some(protocol) => request.header(CONNECTION, "upgrade").header(UPGRADE, protocol),
        None => request.header(CONNECTION, "close"),
    };
    let request = if route.body.is_some() { request.header(CONTENT_TYPE, "application/json") } else { request };
    let request = request.body(Full::new(Bytes::from(route.body.unwrap_or_default())));
    request.map_err(|error| ClientError::unusable(error.to_string()))
}

async fn body(response: Response<Incoming>) -> Result<Bytes, ClientError> {
    match Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(ClientError::unusable(format!("more than {MAX_BODY_BYTES} bytes")))
        }
        Err(error) => match error.downcast::<hyper::Error>() {
            Ok(error) => Err((*error).into()),
            Err(error) => Err(ClientError::unusable(error.to_string())),
        },
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> ClientError {
    match serde_json::from_slice::<stockade_api::Error>(body) {
        Ok(error) => error.into(),
        Err(_) => ClientError::unusable(format!("HTTP status {status}, without a reason")),
    }
}
