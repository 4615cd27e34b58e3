//! The bytes of one connection.
//!
//! Two things that hyper leaves open are decided here: a client that reads nothing of what it is sent is given up after
//! a while, and hyper's own answers to what it can't parse, which have no body, are held back, so that
//! [`crate::connection`] can write one that has.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Instant, Sleep};

/// One side of a connection, shared with who watches the other side vanish.
pub(crate) struct Wire {
    stream: Rc<UnixStream>,
    write_time: Duration,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    pub(crate) fn new(stream: Rc<UnixStream>, write_time: Duration) -> Self {
        Self { stream, write_time, stalled: None }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.stream.poll_read_ready(context))?;
            match self.stream.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let kept = start_of_bodyless_failure(bytes).unwrap_or(bytes.len());
        if kept == 0 {
            return Poll::Ready(Ok(bytes.len()));
        }
        let (kept, _) = bytes.split_at(kept);
        loop {
            if self.stream.poll_write_ready(context)?.is_pending() {
                return self.stall(context);
            }
            match self.stream.try_write(kept) {
                Ok(count) => {
                    self.stalled = None;
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Does nothing: the connection may still have to say why it ends.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Wire {
    /// Nothing can be written now; an error once that has been so for too long.
    fn stall(&mut self, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let deadline = Instant::now().checked_add(self.write_time).unwrap_or_else(Instant::now);
        let timer = self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        timer.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

/// Where in `bytes` an answer without a body begins that says that something failed, if they end with one.
///
/// Those are hyper's own: every failure that this crate answers has a body. hyper writes a head in one piece, and closes
/// the connection after such a one. In the middle of a body nothing looks like a head: no line of JSON ends with CR LF.
fn start_of_bodyless_failure(bytes: &[u8]) -> Option<usize> {
    const START: &[u8] = b"HTTP/1.1 4";
    let start = bytes.windows(START.len()).rposition(|window| window == START)?;
    let head = std::str::from_utf8(bytes.get(start..)?).ok()?.strip_suffix("\r\n\r\n")?;
    let mut lines = head.split("\r\n").skip(1);
    lines.any(|line| line.eq_ignore_ascii_case("content-length: 0")).then_some(start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_without_a_body_are_held_back() {
        let refusal = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
        assert_eq!(start_of_bodyless_failure(refusal), Some(0));
        let after_another = [b"HTTP/1.1 204 No Content\r\n\r\n", refusal.as_slice()].concat();
        assert_eq!(start_of_bodyless_failure(&after_another), Some(27));
        for kept in [
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}".as_slice(),
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n",
            b"HTTP/1.1 204 No Content\r\n\r\n",
            b"{\"name\":\"HTTP/1.1 400\\r\\ncontent-length: 0\\r\\n\\r\\n\"}",
            b"",
        ] {
            assert_eq!(start_of_bodyless_failure(kept), None, "{}", String::from_utf8_lossy(kept));
        }
    }
}
