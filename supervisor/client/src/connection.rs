//! One request and its answer over one connection.

use std::path::Path;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;

use crate::error::ClientError;
use crate::route::Route;

/// Largest body of an answer, bytes.
const MAX_BODY_BYTES: usize = 16 << 20;

/// Sends `route` to `socket`, and returns the body of an answer that says that it was done.
pub(crate) async fn exchange(socket: &Path, route: Route) -> Result<Bytes, ClientError> {
    let stream = UnixStream::connect(socket).await.map_err(|source| ClientError::connect(socket, source))?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let driver = Driver(tokio::spawn(connection));
    let response = sender.send_request(request(route)?).await?;
    let status = response.status();
    let body = body(response).await?;
    drop(driver);
    if status.is_success() { Ok(body) } else { Err(refusal(status, &body)) }
}

/// The task that moves bytes between the socket and the request; it ends with the request.
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
        .header(HOST, "localhost")
        .header(CONNECTION, "close");
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
