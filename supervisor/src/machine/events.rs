//! Reads what the vmm reports: JSON lines on the `events` pipe. The vmm may have been taken over by its guest, so lines are
//! bounded, and what is in them is shown with care.

use std::io;
use std::os::fd::OwnedFd;

use stockade_vmm_api::event::Event;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// Most bytes in a line.
const MAX_LINE_BYTES: usize = 64 * 1024;

/// The reading end of the `events` pipe.
#[derive(Debug)]
pub(super) struct EventLines {
    pipe: pipe::Receiver,
    /// Bytes that are not a whole line yet.
    buffer: Vec<u8>,
}

/// The vmm wrote something that is no event.
#[derive(Debug, thiserror::Error)]
pub(super) enum EventError {
    #[error("read the vmm's events")]
    Read(#[source] io::Error),
    #[error("the vmm sent a line that is no event")]
    Malformed,
}

impl EventLines {
    pub(super) fn new(pipe: OwnedFd) -> io::Result<Self> {
        Ok(Self { pipe: pipe::Receiver::from_owned_fd(pipe)?, buffer: Vec::new() })
    }

    /// The next event; `None` when the vmm closed the pipe, which it does by ending. Dropping the future loses nothing.
    pub(super) async fn next(&mut self) -> Result<Option<Event>, EventError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return serde_json::from_slice(&line).map(Some).map_err(|_| EventError::Malformed);
            }
            if self.buffer.len() >= MAX_LINE_BYTES {
                return Err(EventError::Malformed);
            }
            if self.pipe.read_buf(&mut self.buffer).await.map_err(EventError::Read)? == 0 {
                return if self.buffer.is_empty() { Ok(None) } else { Err(EventError::Malformed) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use stockade_vmm_api::event::EventKind;

    use super::*;

    async fn events(bytes: &[u8]) -> (Vec<EventKind>, Result<(), EventError>) {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut lines = EventLines::new(reader.into()).unwrap();
        writer.write_all(bytes).unwrap();
        drop(writer);
        let mut events = Vec::new();
        loop {
            match lines.next().await {
                Ok(Some(event)) => events.push(event.kind),
                Ok(None) => return (events, Ok(())),
                Err(error) => return (events, Err(error)),
            }
        }
    }

    #[tokio::test]
    async fn lines_become_events() {
        let (events, end) =
            events(b"{\"at_us\":1,\"event\":\"launched\"}\n{\"at_us\":2,\"event\":\"failed\",\"message\":\"m\"}\n")
                .await;
        assert_eq!(events, [EventKind::Launched, EventKind::Failed { message: "m".into() }]);
        assert!(end.is_ok());
    }

    #[tokio::test]
    async fn anything_else_is_malformed() {
        for bytes in [&b"hello\n"[..], b"{\"at_us\":1,\"event\":\"launched\"}", b"\n", &[b'x'; MAX_LINE_BYTES]] {
            assert!(matches!(events(bytes).await, (_, Err(EventError::Malformed))));
        }
    }
}
