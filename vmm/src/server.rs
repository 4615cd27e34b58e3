//! The API's sockets: one listener, few connections, one request at a time.
//!
//! A connection is read only while it owes no bytes to its client, so that what the vmm keeps for a client is bounded by
//! one read and the answers to it. Descriptors that a client sends along are dropped by the kernel.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::EventFd;

use crate::http::response::{CONTINUE, TOO_MANY_CONNECTIONS};
use crate::http::{Reader, Received, Request, Response};

/// Most connections at a time; the next one is told so, and closed.
pub const CONNECTIONS_MAX: usize = 10;

/// Most bytes read from a connection at a time, so most that the pipelined requests answered at a time have.
const READ_BYTES: usize = 4096;

/// What epoll says of the listener; connections are numbered from 0.
const LISTENER: u64 = u64::MAX;

/// What epoll says of the event that ends the server.
const STOP: u64 = u64::MAX - 1;

/// Why the server stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// epoll failed.
    #[error("{operation} of the API server: {source}")]
    Io {
        /// What was tried.
        operation: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Serves connections, until it is told to stop or its handler has no answer any more.
pub struct Server<H> {
    listener: UnixListener,
    /// Watched as long as it's open.
    _stop: EventFd,
    epoll: Epoll,
    connections: [Option<Connection>; CONNECTIONS_MAX],
    body_max_bytes: usize,
    handler: H,
}

struct Connection {
    stream: UnixStream,
    reader: Reader,
    output: Vec<u8>,
}

/// What becomes of a connection, or of the server.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Open,
    Closed,
    Stopped,
}

impl<H: FnMut(&Request) -> Option<Response>> Server<H> {
    /// A server on a listening socket. `handler` answers requests; if it returns nothing, or `stop` is readable, the server
    /// ends.
    ///
    /// # Errors
    /// If epoll can't be had.
    pub fn new(listener: UnixListener, stop: EventFd, body_max_bytes: usize, handler: H) -> Result<Self, ServerError> {
        listener.set_nonblocking(true).map_err(io_error("set the listener non-blocking"))?;
        let epoll = Epoll::new().map_err(io_error("create epoll"))?;
        watch(&epoll, ControlOperation::Add, listener.as_raw_fd(), EventSet::IN, LISTENER)?;
        watch(&epoll, ControlOperation::Add, stop.as_raw_fd(), EventSet::IN, STOP)?;
        Ok(Self { listener, _stop: stop, epoll, connections: Default::default(), body_max_bytes, handler })
    }

    /// Serves until the end. Every answer has been written then that its client had room for.
    ///
    /// # Errors
    /// If epoll fails.
    pub fn run(&mut self) -> Result<(), ServerError> {
        let mut events = [EpollEvent::default(); CONNECTIONS_MAX + 2];
        loop {
            let count = match self.epoll.wait(-1, &mut events) {
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_error("wait")(error)),
            };
            for event in events.iter().take(count) {
                match event.data() {
                    STOP => return Ok(()),
                    LISTENER => self.accept()?,
                    number if self.serve(number)? == Outcome::Stopped => return Ok(()),
                    _ => {}
                }
            }
        }
    }

    fn accept(&mut self) -> Result<(), ServerError> {
        let mut stream = match self.listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!("accept a connection to the API: {error}");
                return Ok(());
            }
        };
        let Some((index, place)) = self.connections.iter_mut().enumerate().find(|(_, place)| place.is_none()) else {
            // The socket's buffer is empty, so this can't block; a client that is gone needs no answer.
            let _ = stream.write(TOO_MANY_CONNECTIONS);
            return Ok(());
        };
        stream.set_nonblocking(true).map_err(io_error("set a connection non-blocking"))?;
        watch(&self.epoll, ControlOperation::Add, stream.as_raw_fd(), EventSet::IN, index as u64)?;
        *place = Some(Connection { stream, reader: Reader::new(self.body_max_bytes), output: Vec::new() });
        Ok(())
    }

    fn serve(&mut self, number: u64) -> Result<Outcome, ServerError> {
        let Some(place) = usize::try_from(number).ok().and_then(|index| self.connections.get_mut(index)) else {
            return Ok(Outcome::Open);
        };
        // Taken out, so that it's closed unless it's put back.
        let Some(mut connection) = place.take() else { return Ok(Outcome::Open) };
        let was_idle = connection.output.is_empty();
        let mut outcome = if was_idle { connection.read(&mut self.handler) } else { Outcome::Open };
        if outcome == Outcome::Open {
            outcome = connection.write();
        }
        if outcome == Outcome::Open {
            let is_idle = connection.output.is_empty();
            if is_idle != was_idle {
                let interest = if is_idle { EventSet::IN } else { EventSet::OUT };
                watch(&self.epoll, ControlOperation::Modify, connection.stream.as_raw_fd(), interest, number)?;
            }
            *place = Some(connection);
        }
        Ok(outcome)
    }
}

impl Connection {
    /// Reads once, and answers what is complete then.
    fn read(&mut self, handler: &mut impl FnMut(&Request) -> Option<Response>) -> Outcome {
        let mut bytes = [0; READ_BYTES];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Outcome::Closed,
            Ok(count) => self.reader.push(bytes.get(..count).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Outcome::Open;
            }
            Err(_) => return Outcome::Closed,
        }
        let mut requests = Vec::new();
        while let Some(received) = self.reader.receive() {
            match received {
                Received::Request(request) => requests.push(request),
                Received::ExpectsContinue => {
                    if answer(&mut requests, handler, &mut self.output) == Outcome::Stopped {
                        return Outcome::Stopped;
                    }
                    self.output.extend_from_slice(CONTINUE);
                }
                Received::Error(error) => {
                    // As the text of the answer says.
                    requests.clear();
                    log::warn!("The API server received no request: {error}");
                    Response::refusal(error).write(&mut self.output);
                }
            }
        }
        answer(&mut requests, handler, &mut self.output)
    }

    /// Writes as much as the socket takes.
    fn write(&mut self) -> Outcome {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(count) => drop(self.output.drain(..count)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Outcome::Closed,
            }
        }
        Outcome::Open
    }
}

fn answer(
    requests: &mut Vec<Request>,
    handler: &mut impl FnMut(&Request) -> Option<Response>,
    output: &mut Vec<u8>,
) -> Outcome {
    for request in requests.drain(..) {
        match handler(&request) {
            Some(response) => response.write(output),
            None => return Outcome::Stopped,
        }
    }
    Outcome::Open
}

fn watch(
    epoll: &Epoll,
    operation: ControlOperation,
    fd: RawFd,
    events: EventSet,
    data: u64,
) -> Result<(), ServerError> {
    epoll.ctl(operation, fd, EpollEvent::new(events, data)).map_err(io_error("watch a descriptor"))
}

fn io_error(operation: &'static str) -> impl Fn(io::Error) -> ServerError {
    move |source| ServerError::Io { operation, source }
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;
    use std::path::PathBuf;
    use std::thread::JoinHandle;

    use super::*;
    use crate::http::response::{Deprecation, Status};

    /// A server that answers with the path of the request, until it's asked for `/stop`.
    struct Fixture {
        socket: PathBuf,
        stop: EventFd,
        server: JoinHandle<Vec<String>>,
        _folder: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let socket = folder.path().join("api");
            let listener = UnixListener::bind(&socket).unwrap();
            let stop = EventFd::new(0).unwrap();
            let stopped = stop.try_clone().unwrap();
            let server = std::thread::spawn(move || {
                let mut seen = Vec::new();
                let handler = |request: &Request| {
                    seen.push(request.path.clone());
                    let body = request.path.clone().into_bytes();
                    let response = Response { status: Status::Ok, deprecation: Deprecation::None, body };
                    (request.path != "/stop").then_some(response)
                };
                Server::new(listener, stopped, 100, handler).unwrap().run().unwrap();
                seen
            });
            Self { socket, stop, server, _folder: folder }
        }

        fn connect(&self) -> UnixStream {
            UnixStream::connect(&self.socket).unwrap()
        }

        /// Ends the server, and returns the paths that it was asked for.
        fn stop(self) -> Vec<String> {
            self.connect().write_all(b"GET /stop HTTP/1.1\r\n\r\n").unwrap();
            self.server.join().unwrap()
        }
    }

    /// Reads the given number of answers, and returns their bodies.
    fn read_bodies(stream: &mut UnixStream, count: usize) -> Vec<String> {
        (0..count)
            .map(|_| {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    head.push(byte[0]);
                }
                let head = String::from_utf8(head).unwrap();
                let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
                let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
                stream.read_exact(&mut body).unwrap();
                String::from_utf8(body).unwrap()
            })
            .collect()
    }

    #[test]
    fn pipelined_requests_are_answered_in_order_on_a_connection_that_stays() {
        let fixture = Fixture::new();
        let mut stream = fixture.connect();
        stream.write_all(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.0\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!(read_bodies(&mut stream, 2), ["/1", "/2"]);
        stream.write_all(b"GET /3 HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(read_bodies(&mut stream, 1), ["/3"]);
        assert_eq!(fixture.stop(), ["/1", "/2", "/3", "/stop"]);
    }

    #[test]
    fn a_client_that_said_all_still_gets_its_answers() {
        let fixture = Fixture::new();
        let mut stream = fixture.connect();
        stream.write_all(b"GET /1 HTTP/1.1\r\n\r\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_bodies(&mut stream, 1), ["/1"]);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
        fixture.stop();
    }

    #[test]
    fn it_stops_when_told_to_and_not_before_its_answers_are_sent() {
        let fixture = Fixture::new();
        let mut stream = fixture.connect();
        stream.write_all(b"GET /1 HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(read_bodies(&mut stream, 1), ["/1"]);
        fixture.stop.write(1).unwrap();
        assert_eq!(fixture.server.join().unwrap(), ["/1"]);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }

    #[test]
    fn an_error_drops_the_requests_before_it_and_not_the_connection() {
        let fixture = Fixture::new();
        let mut stream = fixture.connect();
        stream.write_all(b"GET /1 HTTP/1.1\r\n\r\nPOST / HTTP/1.1\r\n\r\n").unwrap();
        assert!(read_bodies(&mut stream, 1)[0].contains("previous unanswered requests will be dropped"));
        stream.write_all(b"GET /2 HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(read_bodies(&mut stream, 1), ["/2"]);
        assert_eq!(fixture.stop(), ["/2", "/stop"]);
    }

    #[test]
    fn continue_comes_before_the_body() {
        let fixture = Fixture::new();
        let mut stream = fixture.connect();
        stream.write_all(b"PUT /1 HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").unwrap();
        let mut interim = vec![0; CONTINUE.len()];
        stream.read_exact(&mut interim).unwrap();
        assert_eq!(interim, CONTINUE);
        stream.write_all(b"x").unwrap();
        assert_eq!(read_bodies(&mut stream, 1), ["/1"]);
        fixture.stop();
    }

    #[test]
    fn the_eleventh_connection_is_told_so() {
        let fixture = Fixture::new();
        let mut streams: Vec<UnixStream> = (0..CONNECTIONS_MAX).map(|_| fixture.connect()).collect();
        for stream in &mut streams {
            stream.write_all(b"GET /1 HTTP/1.1\r\n\r\n").unwrap();
            read_bodies(stream, 1);
        }
        let mut answer = Vec::new();
        fixture.connect().read_to_end(&mut answer).unwrap();
        assert_eq!(answer, TOO_MANY_CONNECTIONS);
        streams.pop();
        fixture.stop();
    }

    #[test]
    fn a_client_that_does_not_read_is_not_read_from() {
        let fixture = Fixture::new();
        let mut slow = fixture.connect();
        slow.set_nonblocking(true).unwrap();
        let request = b"GET /1 HTTP/1.1\r\n\r\n".repeat(100);
        let mut sent = 0;
        // Ends only because the server stops reading.
        while let Ok(count) = slow.write(&request) {
            sent += count;
        }
        assert!(sent > 0);
        let mut other = fixture.connect();
        other.write_all(b"GET /2 HTTP/1.1\r\n\r\n").unwrap();
        assert_eq!(read_bodies(&mut other, 1), ["/2"]);
        fixture.stop();
    }
}
