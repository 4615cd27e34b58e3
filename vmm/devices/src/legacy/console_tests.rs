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
