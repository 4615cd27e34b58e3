//! Carries bytes between a client and what it is attached to.
//!
//! Each direction has one buffer of [`BUFFER_BYTES`], and reads no more before that has been written: who does not read holds
//! up nobody but who sends to it. After each buffer others have their turn.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::net::unix::pipe::Sender;
use tokio::task::yield_now;

/// Bytes that are under way in one direction.
pub(crate) const BUFFER_BYTES: usize = 16 << 10;
/// How often a client is looked after that may have gone.
const LOOK: Duration = Duration::from_secs(1);

/// Something that bytes are written to.
pub(crate) trait Sink {
    /// Writes as much as goes without waiting, once anything does.
    async fn write(&self, bytes: &[u8]) -> io::Result<usize>;

    /// Says that nothing more comes.
    fn finish(&self);
}

impl Sink for UnixStream {
    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.writable().await?;
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    fn finish(&self) {
        // One that is gone needs not be told.
        let _ = rustix::net::shutdown(self, rustix::net::Shutdown::Write);
    }
}

/// A fifo, which stays open for who comes later.
impl Sink for Sender {
    async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.writable().await?;
            match self.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
        }
    }

    fn finish(&self) {}
}

/// Carries bytes between `client`, who has sent `early` already, and `socket`, until both have ended what they send, or one
/// is gone.
pub(crate) async fn relay(client: &UnixStream, early: &[u8], socket: OwnedFd) -> io::Result<()> {
    let socket = StdStream::from(socket);
    socket.set_nonblocking(true)?;
    let socket = UnixStream::from_std(socket)?;
    let both = async { tokio::try_join!(pump(client, early, &socket), pump(&socket, &[], client)) };
    tokio::select! {
        ended = both => ended.map(drop),
        () = hung_up(client) => Ok(()),
    }
}

/// Carries `early`, and then everything that comes from `source`, to `sink`.
pub(crate) async fn pump(source: &UnixStream, early: &[u8], sink: &impl Sink) -> io::Result<()> {
    send(sink, early).await?;
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = receive(source, &mut buffer).await?;
        if count == 0 {
            sink.finish();
            return Ok(());
        }
        send(sink, buffer.get(..count).unwrap_or_default()).await?;
        yield_now().await;
    }
}

/// Reads what there is, once there is something; nothing at the end.
async fn receive(source: &UnixStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        source.readable().await?;
        match source.try_read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return read,
        }
    }
}

/// Writes all of it.
pub(crate) async fn send(sink: &impl Sink, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = sink.write(bytes).await?;
        bytes = bytes.get(count..).unwrap_or_default();
    }
    Ok(())
}

/// Ready once the other side has closed the connection, not only what it sends.
pub(crate) async fn hung_up(stream: &UnixStream) {
    loop {
        tokio::time::sleep(LOOK).await;
        // Ready at once: the state is what the kernel last reported, and can be had without asking it.
        match stream.ready(Interest::READABLE | Interest::WRITABLE).await {
            Ok(state) if !state.is_write_closed() => {}
            Ok(_) | Err(_) => return,
        }
    }
}
