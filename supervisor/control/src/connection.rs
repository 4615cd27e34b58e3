//! One connection: its requests, one after the other, and how it ends.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use hyper::body::{Body, Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use stockade_api::{Answer, Error, ErrorCode, Request, VmId, VmReference};
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::answer::{self, Content, Reply};
use crate::backend::{Attachment, Backend};
use crate::call::Call;
use crate::console::Carried;
use crate::failure;
use crate::limits::Limits;
use crate::operation::{self, Operation, Task};
use crate::server::Service;
use crate::wire::Wire;
use crate::writers::Writers;

/// hyper's buffer can't be smaller.
const SMALLEST_HEAD: usize = 8 << 10;
/// How often a client that waits is looked after whose next bytes hide that it has gone.
const LOOK: Duration = Duration::from_secs(1);
/// How long, and how much, is still read from a client that was told that its connection ends: one that is closed with
/// something unread in it takes the last answer along.
const LAST_READ_TIME: Duration = Duration::from_secs(2);
const LAST_READ_BYTES: usize = 1 << 20;

/// A client.
pub(crate) struct Connection<B: Backend> {
    service: Rc<Service<B>>,
    stream: Rc<UnixStream>,
    /// Why it is turned away, if it is.
    caller: Result<B::Caller, Error>,
    /// What the connection carries once the answer that says so is on its way.
    carried: RefCell<Option<Carried>>,
}

impl<B: Backend> Connection<B> {
    pub(crate) fn new(service: Rc<Service<B>>, stream: UnixStream, caller: Result<B::Caller, Error>) -> Self {
        Self { service, stream: Rc::new(stream), caller, carried: RefCell::new(None) }
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.service.limits
    }

    /// Serves the client until one side ends it. Once `stop` is ready, that is after the answer that is under way.
    pub(crate) async fn serve(self, stop: impl Future<Output = ()>) {
        let (stream, limits) = (Rc::clone(&self.stream), *self.limits());
        let wire = Wire::new(Rc::clone(&stream), limits.write_time);
        let this = Rc::new(self);
        let connection = Rc::clone(&this);
        let answer = service_fn(move |request| {
            let this = Rc::clone(&this);
            async move { Ok::<_, Infallible>(this.answer(request).await) }
        });
        let mut served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head_time)
            .max_headers(limits.headers)
            .max_buf_size(limits.head_bytes.max(SMALLEST_HEAD))
            .auto_date_header(false)
            .serve_connection(TokioIo::new(wire), answer);
        let mut stop = pin!(stop);
        let ended = tokio::select! {
            ended = &mut served => ended,
            () = stop.as_mut() => {
                Pin::new(&mut served).graceful_shutdown();
                (&mut served).await
            }
        };
        let early = served.into_parts().read_buf;
        if let Some(carried) = connection.carried.take().filter(|_| ended.is_ok()) {
            tokio::select! {
                () = carried.serve(&connection, &early) => {}
                () = stop => {}
            }
            drain(&stream).await;
            return;
        }
        let idle = early.is_empty();
        if let Some(error) = ended.err().and_then(|error| last_words(&error, &limits, idle)) {
            say(&stream, &error);
        }
        drain(&stream).await;
    }

    /// Has the backend carry `request` out, unless the client vanishes first.
    pub(crate) async fn ask(&self, request: Request) -> Result<Answer, Error> {
        let caller = self.caller.as_ref().map_err(Error::clone)?;
        tokio::select! {
            answer = self.service.backend.ask(caller, request) => answer,
            () = gone(&self.stream) => Err(Error::new(ErrorCode::Interrupted, "the client has gone", "")),
        }
    }

    /// Has the backend attach the client to something, unless it vanishes first.
    pub(crate) async fn attach(&self, request: Request) -> Result<Attachment, Error> {
        let caller = self.caller.as_ref().map_err(Error::clone)?;
        tokio::select! {
            attached = self.service.backend.attach(caller, request) => attached,
            () = gone(&self.stream) => Err(Error::new(ErrorCode::Interrupted, "the client has gone", "")),
        }
    }

    /// Ready once this virtual machine does not run any more, or nobody can say whether it does.
    pub(crate) async fn end_of(&self, vm: VmId) {
        if let Ok(caller) = &self.caller {
            let ended = self.service.backend.ask(caller, Request::Wait { vm: VmReference::Id(vm) }).await;
            log::debug!("a stream of virtual machine {vm} ends: {ended:?}");
        }
    }

    /// Has the connection carry this after the next answer.
    pub(crate) fn carry(&self, carried: Carried) {
        *self.carried.borrow_mut() = Some(carried);
    }

    /// The client's socket.
    pub(crate) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Who types at which console.
    pub(crate) fn writers(&self) -> &Rc<Writers> {
        &self.service.writers
    }

    async fn answer(self: Rc<Self>, request: hyper::Request<Incoming>) -> Reply {
        if let Err(error) = &self.caller {
            let mut reply = answer::failure(error);
            answer::close(&mut reply);
            return reply;
        }
        let path = request.uri().path().to_owned();
        let Some(found) = operation::find(&path) else {
            return answer::failure(&failure::unknown_path(&path));
        };
        let Some(operation) = found.operations.iter().find(|operation| operation.method == request.method()) else {
            let allowed: Vec<_> = found.operations.iter().map(|operation| operation.method.as_str()).collect();
            return answer::method_not_allowed(request.method().as_str(), &path, &allowed);
        };
        self.carry_out(operation, found.vm, request).await.unwrap_or_else(|error| answer::failure(&error))
    }

    async fn carry_out<T>(
        self: Rc<Self>,
        operation: &Operation,
        vm: Option<&str>,
        request: hyper::Request<T>,
    ) -> Result<Reply, Error>
    where
        T: Body<Data = Bytes>,
        T::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let call = Call::read(operation, vm, request, self.limits()).await?;
        match (operation.task)(&call)? {
            Task::Ask(request) => Ok(answer::success(operation.output, self.ask(request).await?)),
            Task::Follow(follow) => follow.answer(self).await,
            Task::Attach(attach) => attach.answer(&self, &call, operation.output).await,
            Task::Log(log) => log.answer(self).await,
            Task::Describe => {
                let document = Content::Whole(Some(self.service.document.clone()));
                Ok(answer::content(hyper::StatusCode::OK, "application/json", document))
            }
        }
    }
}

/// Ready once the other side has closed the connection. hyper notices that by reading, but does not read while there is
/// already something of the next request.
async fn gone(stream: &UnixStream) {
    loop {
        tokio::time::sleep(LOOK).await;
        // Ready at once: the state is what the kernel last reported, and can be had without asking it.
        match stream.ready(Interest::READABLE | Interest::WRITABLE).await {
            Ok(state) if !state.is_read_closed() && !state.is_write_closed() => {}
            Ok(_) | Err(_) => return,
        }
    }
}

/// What a client is told whose connection ended with `error`, unless it is gone or `idle`: between two requests.
fn last_words(error: &hyper::Error, limits: &Limits, idle: bool) -> Option<Error> {
    if error.is_timeout() {
        return (!idle).then(|| failure::timeout("head", limits.head_time.as_secs()));
    }
    error.is_parse().then(|| failure::unreadable(error, limits.head_bytes.max(SMALLEST_HEAD)))
}

/// Writes a failure of a connection that hyper is through with, if the client reads it.
fn say(stream: &UnixStream, error: &Error) {
    let body = serde_json::to_string(error).unwrap_or_default();
    let status = error.code.http_status();
    let reason = hyper::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let text = format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        reason.unwrap_or_default(),
        body.len()
    );
    // It is short: what does not fit into the socket's buffer now is for a client that does not read.
    let _ = stream.try_write(text.as_bytes());
}

/// Ends the sending side, and reads what the client may still be sending.
async fn drain(stream: &UnixStream) {
    if rustix::net::shutdown(stream, rustix::net::Shutdown::Write).is_err() {
        return;
    }
    let read = async {
        let mut buffer = [0; 4096];
        let mut left = LAST_READ_BYTES;
        while left > 0 && stream.readable().await.is_ok() {
            match stream.try_read(&mut buffer) {
                Ok(0) => return,
                Ok(count) => left = left.saturating_sub(count),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    };
    let _ = tokio::time::timeout(LAST_READ_TIME, read).await;
}
