//! The host's side of a serial port: drains its output to a descriptor, and feeds it input from another. Runs on the event
//! loop.
//!
//! Both descriptors are made non-blocking for as long as the console lives (the flag is shared with whoever else has the
//! same open file). A regular file can't be polled: it's written at once and read when the guest has room.
//!
//! Syscalls: `read`, `write`, `epoll_ctl`, those of the [rate limiter](crate::rate_limiter), `fcntl` at start and end.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::serial::SerialPort;
use crate::rate_limiter::RateLimiter;
use crate::sys;

/// Bytes in one write.
const CHUNK: usize = 4096;
/// Reads or writes in one turn of the event loop.
const TURN: usize = 16;

/// Why a console can't be built.
#[derive(Debug, thiserror::Error)]
#[error("make console descriptor non-blocking: {0}")]
pub struct ConsoleError(#[source] io::Error);

/// The console of one serial port.
pub struct Console {
    port: Arc<SerialPort>,
    output: Option<Stream>,
    input: Option<Stream>,
    limiter: Option<RateLimiter>,
    /// Bytes taken from the ring, of which the first `sent` are written.
    chunk: Vec<u8>,
    sent: usize,
}

/// A descriptor and what the event loop knows of it.
struct Stream {
    file: File,
    original_flags: libc::c_int,
    is_polled: bool,
}

impl Stream {
    fn new(descriptor: OwnedFd) -> Result<Self, ConsoleError> {
        let flags = sys::status_flags(descriptor.as_fd()).map_err(ConsoleError)?;
        if flags & libc::O_NONBLOCK == 0 {
            sys::set_status_flags(descriptor.as_fd(), flags | libc::O_NONBLOCK).map_err(ConsoleError)?;
        }
        Ok(Self { file: descriptor.into(), original_flags: flags, is_polled: false })
    }

    /// Polls for `events`. A regular file can't be: it never makes one wait.
    fn poll(&mut self, ops: &mut EventOps, events: EventSet) -> bool {
        if !self.is_polled {
            self.is_polled = ops.add(Events::new(&self.file, events)).is_ok();
        }
        self.is_polled
    }

    fn unpoll(&mut self, ops: &mut EventOps) {
        if std::mem::take(&mut self.is_polled)
            && let Err(error) = ops.remove(Events::empty(&self.file))
        {
            log::error!("stop polling console: {error}");
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.original_flags & libc::O_NONBLOCK == 0 {
            // Whoever shares the open file finds it as it was; if that fails there's nobody to tell.
            let _ = sys::set_status_flags(self.file.as_fd(), self.original_flags);
        }
    }
}

impl Console {
    /// Connects descriptors to `port`: where its output goes and where its input comes from, if anywhere. `limiter` limits
    /// the bytes of output; what is over the limit waits in the port's ring, and is dropped when that is full.
    ///
    /// # Errors
    /// If a descriptor can't be made non-blocking.
    pub fn new(
        port: Arc<SerialPort>,
        output: Option<OwnedFd>,
        input: Option<OwnedFd>,
        limiter: Option<RateLimiter>,
    ) -> Result<Self, ConsoleError> {
        let output = output.map(Stream::new).transpose()?;
        let input = input.map(Stream::new).transpose()?;
        if output.is_some() {
            port.line().connect();
        }
        Ok(Self { port, output, input, limiter, chunk: Vec::with_capacity(CHUNK), sent: 0 })
    }

    /// Output that the reader has not taken yet, in bytes. The event loop goes on with it by itself.
    pub fn pending(&self) -> usize {
        self.port.line().waiting_output().saturating_add(self.unsent())
    }

    /// Writes as much pending output as the reader takes at once, whatever the rate limit. For the guest's end; returns
    /// what is left.
    pub fn flush(&mut self) -> usize {
        while self.refill_unlimited() && matches!(self.send(), Sent::All) {}
        self.pending()
    }

    fn unsent(&self) -> usize {
        self.chunk.len().saturating_sub(self.sent)
    }

    /// Whether there is something to send in `chunk`.
    fn refill_unlimited(&mut self) -> bool {
        if self.unsent() == 0 {
            self.refill(CHUNK);
        }
        self.unsent() > 0
    }

    fn refill(&mut self, limit: usize) {
        self.chunk.clear();
        self.sent = 0;
        self.port.line().pop_output(&mut self.chunk, limit);
    }

    fn refill_within_limit(&mut self) -> bool {
        if self.unsent() > 0 {
            return true;
        }
        let waiting = self.port.line().waiting_output().min(CHUNK);
        let allowed = match &mut self.limiter {
            // Nothing waits: the ring has to be found empty, so that it wakes the console again.
            Some(limiter) if waiting > 0 => {
                usize::try_from(limiter.allow_some(u64::try_from(waiting).unwrap_or(0))).unwrap_or(0)
            }
            _ => CHUNK,
        };
        if allowed > 0 {
            self.refill(allowed);
        }
        self.unsent() > 0
    }

    fn send(&mut self) -> Sent {
        let Some(output) = &mut self.output else { return Sent::Gone };
        while let Some(rest) = self.chunk.get(self.sent..).filter(|rest| !rest.is_empty()) {
            match output.file.write(rest) {
                Ok(0) => return Sent::Gone,
                Ok(count) => self.sent = self.sent.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Sent::ReaderIsSlow,
                Err(error) => {
                    log::warn!("write console output: {error}; the guest's further output is dropped");
                    return Sent::Gone;
                }
            }
        }
        Sent::All
    }

    fn pump_output(&mut self, ops: &mut EventOps) {
        for _ in 0..TURN {
            if self.output.is_none() || !self.refill_within_limit() {
                return;
            }
            match self.send() {
                Sent::All => {}
                Sent::ReaderIsSlow => {
                    if !self.output.as_mut().is_some_and(|output| output.poll(ops, EventSet::OUT)) {
                        self.drop_output(ops);
                    }
                    return;
                }
                Sent::Gone => return self.drop_output(ops),
            }
        }
        self.port.line().wake_console();
    }

    fn drop_output(&mut self, ops: &mut EventOps) {
        if let Some(mut output) = self.output.take() {
            output.unpoll(ops);
        }
        let lost = self.port.line().disconnect().saturating_add(self.unsent());
        self.chunk.clear();
        self.sent = 0;
        self.port.line().counters().dropped_bytes.add(u64::try_from(lost).unwrap_or(0));
    }

    fn pump_input(&mut self, ops: &mut EventOps) {
        for _ in 0..TURN {
            let Some(input) = &mut self.input else { return };
            let Some(room) = room_for_input(&self.port) else { return input.unpoll(ops) };
            let mut buffer = [0; 64];
            let Some(buffer) = buffer.get_mut(..room.min(64)) else { return };
            match input.file.read(buffer) {
                Ok(0) => return self.end_input(ops),
                Ok(count) => self.port.receive(buffer.get(..count).unwrap_or_default()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock && input.poll(ops, EventSet::IN) => return,
                Err(error) => {
                    log::warn!("read console input: {error}; the guest gets no more");
                    return self.end_input(ops);
                }
            }
        }
        self.port.line().wake_console();
    }

    fn end_input(&mut self, ops: &mut EventOps) {
        if let Some(mut input) = self.input.take() {
            input.unpoll(ops);
        }
    }

    fn is_output(&self, descriptor: RawFd) -> bool {
        self.output.as_ref().is_some_and(|output| output.file.as_raw_fd() == descriptor)
    }

    fn is_timer(&self, descriptor: RawFd) -> bool {
        self.limiter.as_ref().is_some_and(|limiter| limiter.timer().as_raw_fd() == descriptor)
    }
}

/// How far a write got.
enum Sent {
    All,
    ReaderIsSlow,
    Gone,
}

/// Room for input; if there's none, the port will wake the console when there is.
fn room_for_input(port: &SerialPort) -> Option<usize> {
    let room = |port: &SerialPort| Some(port.input_room()).filter(|&room| room > 0);
    room(port).or_else(|| {
        port.line().wake_on_input_room();
        // The guest may have read all of it just before.
        room(port)
    })
}

impl MutEventSubscriber for Console {
    fn init(&mut self, ops: &mut EventOps) {
        let wake = ops.add(Events::new(self.port.line().wake(), EventSet::IN));
        let timer = self.limiter.as_ref().map(|limiter| ops.add(Events::new(limiter.timer(), EventSet::IN)));
        for result in std::iter::once(wake).chain(timer) {
            if let Err(error) = result {
                log::error!("register console: {error}");
            }
        }
        for stream in self.output.iter_mut().chain(&mut self.input) {
            stream.is_polled = false;
        }
        self.pump_output(ops);
        self.pump_input(ops);
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let descriptor = events.fd();
        if descriptor == self.port.line().wake().as_raw_fd() {
            // Fails only if there was nothing to read, which is the aim.
            let _ = self.port.line().wake().read();
            self.pump_input(ops);
        } else if self.is_timer(descriptor) {
            self.limiter.iter_mut().for_each(RateLimiter::on_timer);
        } else if self.is_output(descriptor) {
            self.output.iter_mut().for_each(|output| output.unpoll(ops));
        } else {
            return self.pump_input(ops);
        }
        self.pump_output(ops);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use event_manager::{EventManager, SubscriberId, SubscriberOps};

    use super::super::output_ring::CAPACITY;
    use super::*;
    use crate::bus::BusDevice;
    use crate::rate_limiter::{BucketConfig, RateLimiterConfig};

    type Loop = EventManager<Arc<Mutex<Console>>>;

    struct Bench {
        port: Arc<SerialPort>,
        console: Arc<Mutex<Console>>,
        events: Loop,
        id: SubscriberId,
    }

    impl Bench {
        fn new(output: Option<OwnedFd>, input: Option<OwnedFd>, limiter: Option<RateLimiter>) -> Self {
            let port = Arc::new(SerialPort::new().unwrap());
            let console = Arc::new(Mutex::new(Console::new(port.clone(), output, input, limiter).unwrap()));
            let mut events = Loop::new().unwrap();
            let id = events.add_subscriber(console.clone());
            Self { port, console, events, id }
        }

        fn send(&self, bytes: &[u8]) {
            bytes.iter().for_each(|&byte| self.port.write(0, &[byte]));
        }

        fn receive(&self) -> Option<u8> {
            let mut status = [0];
            self.port.read(5, &mut status);
            let mut byte = [0];
            (status[0] & 1 != 0).then(|| self.port.read(0, &mut byte)).map(|()| byte[0])
        }

        fn settle(&mut self) {
            while self.events.run_with_timeout(0).unwrap() > 0 {}
        }
    }

    fn text(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index % 251) as u8).collect()
    }

    #[test]
    fn output_arrives_in_order_and_a_slow_reader_loses_only_what_exceeds_the_ring() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut bench = Bench::new(Some(writer.into()), None, None);
        let sent = text(4 * CAPACITY);
        for part in sent.chunks(1000) {
            bench.send(part);
            bench.settle();
        }
        let dropped = bench.port.counters().dropped_bytes.get() as usize;
        assert!(dropped > 0 && dropped < 3 * CAPACITY);
        let mut received = vec![0; sent.len() - dropped];
        let (mut filled, total) = (0, received.len());
        while filled < total {
            let end = total.min(filled + 5000);
            reader.read_exact(&mut received[filled..end]).unwrap();
            filled = end;
            bench.settle();
        }
        assert_eq!(received, sent[..total]);
        assert_eq!(bench.console.lock().unwrap().pending(), 0);
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error() {
        let (reader, writer) = io::pipe().unwrap();
        let mut bench = Bench::new(Some(writer.into()), None, None);
        drop(reader);
        bench.send(b"hello");
        bench.settle();
        bench.send(b"hello");
        bench.settle();
        assert_eq!(bench.port.counters().dropped_bytes.get(), 10);
        assert_eq!(bench.console.lock().unwrap().pending(), 0);
    }

    #[test]
    fn input_follows_the_fifo_and_ends() {
        let (reader, mut writer) = io::pipe().unwrap();
        let mut bench = Bench::new(None, Some(reader.into()), None);
        let sent = text(1000);
        writer.write_all(&sent).unwrap();
        drop(writer);
        let mut received = Vec::new();
        loop {
            bench.settle();
            assert!(bench.port.input_room() < 64 || received.len() == 1000);
            let Some(byte) = bench.receive() else { break };
            received.push(byte);
        }
        assert_eq!(received, sent);
        assert!(bench.console.lock().unwrap().input.is_none());
    }

    #[test]
    fn input_comes_from_a_regular_file_and_output_goes_to_one() {
        let mut input = tempfile::tempfile().unwrap();
        let output = tempfile::NamedTempFile::new().unwrap();
        let sent = text(300);
        input.write_all(&sent).unwrap();
        io::Seek::rewind(&mut input).unwrap();
        let mut bench = Bench::new(Some(output.reopen().unwrap().into()), Some(input.into()), None);
        let mut received = Vec::new();
        loop {
            bench.settle();
            let Some(byte) = bench.receive() else { break };
            received.push(byte);
            bench.send(&[byte]);
        }
        assert_eq!(received, sent);
        assert_eq!(std::fs::read(output.path()).unwrap(), sent);
    }

    #[test]
    fn a_pause_loses_nothing() {
        let (output_reader, output) = io::pipe().unwrap();
        let (input, mut input_writer) = io::pipe().unwrap();
        let mut bench = Bench::new(Some(output.into()), Some(input.into()), None);
        bench.settle();
        let paused = bench.events.remove_subscriber(bench.id).unwrap();
        bench.send(b"while paused");
        input_writer.write_all(b"in").unwrap();
        bench.settle();
        assert_eq!(bench.receive(), None);
        bench.events.add_subscriber(paused);
        bench.settle();
        let mut received = [0; 12];
        (&output_reader).read_exact(&mut received).unwrap();
        assert_eq!(&received, b"while paused");
        assert_eq!((bench.receive(), bench.receive()), (Some(b'i'), Some(b'n')));
    }

    #[test]
    fn output_over_the_limit_waits_and_is_flushed_at_the_end() {
        let bandwidth = Some(BucketConfig { size: 10, one_time_burst: 5, refill_time_ms: 3_600_000 });
        let limiter = RateLimiter::new(RateLimiterConfig { bandwidth, ops: None }).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bench = Bench::new(Some(file.reopen().unwrap().into()), None, limiter);
        bench.send(&[b'x'; 100]);
        bench.settle();
        assert_eq!(std::fs::read(file.path()).unwrap().len(), 15);
        assert_eq!(bench.console.lock().unwrap().flush(), 0);
        assert_eq!(std::fs::read(file.path()).unwrap().len(), 100);
    }

    #[test]
    fn descriptors_are_given_back_as_they_were() {
        let (_reader, writer) = io::pipe().unwrap();
        let shared = writer.try_clone().unwrap();
        let bench = Bench::new(Some(writer.into()), None, None);
        assert_ne!(sys::status_flags(shared.as_fd()).unwrap() & libc::O_NONBLOCK, 0);
        drop(bench);
        assert_eq!(sys::status_flags(shared.as_fd()).unwrap() & libc::O_NONBLOCK, 0);
    }
}
