//! Sessions with an agent that does as it is told here, good or bad.

use stockade_guest_protocol::{
    Command, End, GuestMessage, HostMessage, MAX_DATA_BYTES, Setup, Stream, Task, TerminalSize, VERSION, WINDOW_BYTES,
};
use tokio::io::{AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};

use super::fake::Peer;
use super::{ChannelEnd, Connection, InputClosed, Session, SessionError};

const WINDOW: usize = WINDOW_BYTES as usize;

type HostConnection = Connection<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>;

/// Both ends, before any greeting.
fn ends() -> (impl Future<Output = Result<HostConnection, SessionError>>, Peer<DuplexStream>) {
    let (host, guest) = tokio::io::duplex(4 * WINDOW);
    let (reader, writer) = tokio::io::split(host);
    (Connection::greet(reader, writer), Peer::new(guest))
}

/// A session that was greeted, its end, and its peer.
async fn session() -> (Session, tokio::task::JoinHandle<SessionError>, Peer<DuplexStream>) {
    let (connection, mut peer) = ends();
    peer.send(&GuestMessage::Hello { version: VERSION }).await;
    let connection = connection.await.unwrap();
    peer.expect(&HostMessage::Hello { version: VERSION }).await;
    let (session, driver) = connection.into_session();
    (session, tokio::spawn(driver), peer)
}

fn command<'a>(arguments: &[&'a str]) -> Task<'a> {
    let arguments = arguments.iter().map(|argument| argument.as_bytes()).collect();
    Task::Command(Command { arguments, environment: Vec::new(), directory: None, terminal: None })
}

#[tokio::test]
async fn agents_of_another_version_are_refused() {
    let (connection, mut peer) = ends();
    peer.send(&GuestMessage::Hello { version: VERSION + 1 }).await;
    let error = connection.await.unwrap_err();
    assert!(matches!(error, SessionError::Version(version) if version == VERSION + 1), "{error}");

    let (connection, mut peer) = ends();
    peer.send(&GuestMessage::Ready).await;
    assert!(matches!(connection.await, Err(SessionError::Violation(_))));

    let (connection, peer) = ends();
    drop(peer);
    assert!(matches!(connection.await, Err(SessionError::Lost | SessionError::Socket(_))));
}

#[tokio::test]
async fn a_guest_may_refuse_its_setup() {
    for (answer, accepted) in [(GuestMessage::Ready, true), (GuestMessage::Refused { reason: "no\x1b[2Jdisk" }, false)]
    {
        let (connection, mut peer) = ends();
        peer.send(&GuestMessage::Hello { version: VERSION }).await;
        let mut connection = connection.await.unwrap();
        peer.send(&answer).await;
        let setup = Setup { hostname: "name", root: None };
        let result = connection.set_up(setup.clone()).await.map_err(|error| error.to_string());
        match result {
            Ok(()) => assert!(accepted),
            Err(text) => assert_eq!(text, "the guest could not be prepared: no\u{fffd}[2Jdisk"),
        }
        peer.expect(&HostMessage::Hello { version: VERSION }).await;
        peer.expect(&HostMessage::Setup(setup)).await;
    }
}

#[tokio::test]
async fn a_command_has_streams_signals_and_an_end() {
    let (session, _driver, mut peer) = session().await;
    let mut handle = session.start(command(&["cat"])).unwrap();
    peer.expect(&HostMessage::Start { channel: 0, task: command(&["cat"]) }).await;
    peer.send(&GuestMessage::Started { channel: 0 }).await;
    handle.life.started().await;

    handle.input.write_all(b"in").await.unwrap();
    handle.input.end();
    handle.control.signal(10);
    let size = TerminalSize { rows: 3, columns: 4 };
    handle.control.resize(size);
    peer.expect(&HostMessage::Data { channel: 0, bytes: b"in" }).await;
    peer.expect(&HostMessage::EndOfInput { channel: 0 }).await;
    peer.expect(&HostMessage::Signal { channel: 0, signal: 10 }).await;
    peer.expect(&HostMessage::Resize { channel: 0, size }).await;

    for (stream, bytes) in [(Stream::Output, b"out"), (Stream::Error, b"err")] {
        peer.send(&GuestMessage::Data { channel: 0, stream, bytes }).await;
        peer.send(&GuestMessage::EndOfOutput { channel: 0, stream }).await;
    }
    peer.send(&GuestMessage::Ended { channel: 0, end: End::Signaled(9) }).await;
    assert_eq!(handle.output.next().await.unwrap(), b"out");
    assert_eq!(handle.output.next().await, None);
    assert_eq!(handle.error.next().await.unwrap(), b"err");
    assert_eq!(handle.error.next().await, None);
    assert_eq!(handle.life.ended().await.unwrap(), ChannelEnd::Signaled(9));
}

#[tokio::test]
async fn credit_bounds_both_directions() {
    let (session, _driver, mut peer) = session().await;
    let mut handle = session.start(command(&[])).unwrap();
    peer.expect(&HostMessage::Start { channel: 0, task: command(&[]) }).await;

    // Input stops after a window, and goes on for as much as is granted.
    let bytes = vec![7; WINDOW + 5];
    let writing = tokio::spawn(async move {
        handle.input.write_all(&bytes).await.unwrap();
        handle.input.end();
    });
    for _ in 0..WINDOW / MAX_DATA_BYTES {
        peer.expect(&HostMessage::Data { channel: 0, bytes: &[7; MAX_DATA_BYTES] }).await;
    }
    handle.control.signal(1);
    peer.expect(&HostMessage::Signal { channel: 0, signal: 1 }).await;
    peer.send(&GuestMessage::Credit { channel: 0, bytes: 5 }).await;
    peer.expect(&HostMessage::Data { channel: 0, bytes: &[7; 5] }).await;
    writing.await.unwrap();
    peer.expect(&HostMessage::EndOfInput { channel: 0 }).await;

    // Output is granted again once it was passed on.
    for _ in 0..WINDOW / MAX_DATA_BYTES {
        peer.send(&GuestMessage::Data { channel: 0, stream: Stream::Output, bytes: &[8; MAX_DATA_BYTES] }).await;
    }
    let mut taken = 0;
    while taken < WINDOW {
        taken += handle.output.next().await.unwrap().len();
    }
    handle.output.passed_on(taken);
    peer.expect(&HostMessage::Credit { channel: 0, stream: Stream::Output, bytes: WINDOW_BYTES }).await;
}

#[tokio::test]
async fn either_side_may_close_early() {
    let (session, _driver, mut peer) = session().await;
    let mut handle = session.start(command(&["head"])).unwrap();
    peer.expect(&HostMessage::Start { channel: 0, task: command(&["head"]) }).await;
    peer.send(&GuestMessage::InputClosed { channel: 0 }).await;
    while handle.input.write_all(b"more").await.is_ok() {
        tokio::task::yield_now().await;
    }
    drop(handle.output);
    drop(handle.error);
    loop {
        let close = HostMessage::Close { channel: 0, stream: Stream::Output };
        if peer.receive(|message| *message == close).await {
            break;
        }
    }
    peer.expect(&HostMessage::Close { channel: 0, stream: Stream::Error }).await;
    // What crossed the message on its way is no violation.
    peer.send(&GuestMessage::Data { channel: 0, stream: Stream::Output, bytes: b"late" }).await;
    peer.send(&GuestMessage::Ended { channel: 0, end: End::Exited(0) }).await;
    assert_eq!(handle.life.ended().await.unwrap(), ChannelEnd::Exited(0));
}

#[tokio::test]
async fn everything_fails_when_the_guest_is_gone() {
    let (session, driver, peer) = session().await;
    let mut handle = session.start(command(&["sleep"])).unwrap();
    drop(peer);
    assert!(matches!(driver.await.unwrap(), SessionError::Lost | SessionError::Socket(_)));
    assert!(matches!(handle.life.ended().await, Err(SessionError::Lost)));
    assert_eq!(handle.output.next().await, None);
    assert_eq!(handle.input.write_all(b"x").await, Err(InputClosed));
}

#[tokio::test]
async fn violations_end_the_session() {
    let data = |channel, stream, bytes| GuestMessage::Data { channel, stream, bytes };
    let end = |stream| GuestMessage::EndOfOutput { channel: 0, stream };
    let full = [0; MAX_DATA_BYTES];
    let beyond_the_window = vec![data(0, Stream::Output, &full[..]); WINDOW / MAX_DATA_BYTES + 1];
    let cases: [&[GuestMessage<'_>]; 11] = [
        &[GuestMessage::Hello { version: VERSION }],
        &[GuestMessage::Ready],
        &[GuestMessage::Refused { reason: "" }],
        &[data(1, Stream::Output, b"no such channel")],
        &[data(0, Stream::Input, b"wrong way")],
        &[data(0, Stream::Output, b"")],
        &[end(Stream::Output), data(0, Stream::Output, b"after the end")],
        &[end(Stream::Error), end(Stream::Error)],
        &[GuestMessage::Started { channel: 0 }, GuestMessage::Started { channel: 0 }],
        &[GuestMessage::Credit { channel: 0, bytes: 1 }],
        &beyond_the_window,
    ];
    for messages in cases {
        let (session, driver, mut peer) = session().await;
        let handle = session.start(command(&[])).unwrap();
        for message in messages {
            peer.send(message).await;
        }
        let error = driver.await.unwrap();
        assert!(matches!(error, SessionError::Violation(_)), "{messages:?}: {error}");
        drop(handle);
        peer.hung_up().await;
    }
}

#[tokio::test]
async fn what_is_no_frame_ends_the_session() {
    for bytes in [&[0; 4][..], &[255; 4], &[1, 0, 0, 0, 255], &[9, 0, 0, 0, 3]] {
        let (_session, driver, mut peer) = session().await;
        peer.socket.write_all(bytes).await.unwrap();
        peer.socket.shutdown().await.unwrap();
        let error = driver.await.unwrap();
        assert!(matches!(error, SessionError::Violation(_)), "{bytes:?}: {error}");
    }
}

#[tokio::test]
async fn a_request_that_fits_in_no_frame_is_refused_and_nothing_else() {
    let (session, _driver, mut peer) = session().await;
    let long = "x".repeat(3 << 20);
    assert!(matches!(session.start(command(&[&long])), Err(SessionError::Request(_))));
    session.power_off();
    peer.expect(&HostMessage::PowerOff).await;
}
