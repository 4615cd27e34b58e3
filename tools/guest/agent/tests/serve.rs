//! The agent serves a host that is this test, over a socket pair.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Mutex;
use std::thread::JoinHandle;

use stockade_agent::{Agent, ServeError};
use stockade_guest_protocol::{
    Channel, Command, Decoder, End, GuestMessage, HostMessage, MAX_CHANNELS, MAX_DATA_BYTES, Renewal, Setup, Stream,
    Task, TerminalSize, VERSION, WINDOW_BYTES, encode,
};

type Served = Result<(), ServeError>;

/// The host's end of a session.
struct Host {
    socket: UnixStream,
    decoder: Decoder,
    agent: Option<JoinHandle<Served>>,
}

/// What came from one channel.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    started: bool,
    output: Vec<u8>,
    error: Vec<u8>,
    ended: Vec<Stream>,
    input_closed: bool,
    /// `exited 0`, `signaled 9` or `failed 127: why`.
    end: String,
}

impl Host {
    fn raw() -> Self {
        let (host, guest) = UnixStream::pair().unwrap();
        let prepare = |setup: &Setup<'_>| if setup.hostname == "bad" { Err("no".to_owned()) } else { Ok(()) };
        let agent = std::thread::spawn(move || Agent::new(prepare).serve(guest.into()));
        Self { socket: host, decoder: Decoder::new(), agent: Some(agent) }
    }

    fn greeted() -> Self {
        let mut host = Self::raw();
        host.send(&HostMessage::Hello { version: VERSION });
        host.receive(|message| assert_eq!(*message, GuestMessage::Hello { version: VERSION }));
        host
    }

    fn send(&mut self, message: &HostMessage<'_>) {
        let mut frame = Vec::new();
        encode(message, &mut frame).unwrap();
        self.socket.write_all(&frame).unwrap();
    }

    fn receive<T>(&mut self, look: impl FnOnce(&GuestMessage<'_>) -> T) -> T {
        loop {
            if let Some(message) = self.decoder.next::<GuestMessage<'_>>().unwrap() {
                return look(&message);
            }
            let length = self.socket.read(self.decoder.space()).unwrap();
            assert_ne!(length, 0, "the agent hung up");
            self.decoder.filled(length);
        }
    }

    fn start(&mut self, channel: Channel, arguments: &[&str]) {
        self.run(channel, Command { arguments: as_bytes(arguments), ..plain() });
    }

    fn run(&mut self, channel: Channel, command: Command<'_>) {
        self.send(&HostMessage::Start { channel, task: Task::Command(command) });
    }

    /// Takes messages until so many channels have ended, and grants credit as they come.
    fn outcomes(&mut self, count: usize) -> BTreeMap<Channel, Outcome> {
        let mut outcomes: BTreeMap<Channel, Outcome> = BTreeMap::new();
        while outcomes.values().filter(|outcome| !outcome.end.is_empty()).count() < count {
            let grant = self.receive(|message| take(&mut outcomes, message));
            if let Some((channel, stream, bytes)) = grant {
                self.send(&HostMessage::Credit { channel, stream, bytes });
            }
        }
        outcomes
    }

    fn outcome(&mut self) -> Outcome {
        self.outcomes(1).into_values().find(|outcome| !outcome.end.is_empty()).unwrap()
    }

    /// How serving ended, once the host has hung up or asked for it.
    fn served(mut self) -> Served {
        let agent = self.agent.take().unwrap();
        drop(self.socket);
        agent.join().unwrap()
    }
}

fn take(outcomes: &mut BTreeMap<Channel, Outcome>, message: &GuestMessage<'_>) -> Option<(Channel, Stream, u32)> {
    match message {
        GuestMessage::Started { channel } => outcomes.entry(*channel).or_default().started = true,
        GuestMessage::Data { channel, stream, bytes } => {
            let outcome = outcomes.entry(*channel).or_default();
            assert!(!outcome.ended.contains(stream) && !bytes.is_empty());
            let to = if *stream == Stream::Error { &mut outcome.error } else { &mut outcome.output };
            to.extend_from_slice(bytes);
            return Some((*channel, *stream, bytes.len().try_into().unwrap()));
        }
        GuestMessage::EndOfOutput { channel, stream } => outcomes.entry(*channel).or_default().ended.push(*stream),
        GuestMessage::InputClosed { channel } => outcomes.entry(*channel).or_default().input_closed = true,
        GuestMessage::Credit { .. } => {}
        GuestMessage::Ended { channel, end } => {
            let outcome = outcomes.entry(*channel).or_default();
            // A terminal has no stream for errors.
            assert!(!outcome.started || outcome.ended.contains(&Stream::Output));
            assert!(outcome.error.is_empty() || outcome.ended.contains(&Stream::Error));
            outcome.end = match end {
                End::Exited(code) => format!("exited {code}"),
                End::Signaled(signal) => format!("signaled {signal}"),
                End::Failed { code, reason } => format!("failed {code}: {reason}"),
            };
        }
        other => panic!("{other:?}"),
    }
    None
}

fn plain<'a>() -> Command<'a> {
    Command { arguments: Vec::new(), environment: Vec::new(), directory: None, terminal: None }
}

fn as_bytes<'a>(arguments: &[&'a str]) -> Vec<&'a [u8]> {
    arguments.iter().map(|argument| argument.as_bytes()).collect()
}

#[test]
fn streams_are_separate_and_the_code_comes_back() {
    let mut host = Host::greeted();
    host.start(7, &["sh", "-c", "read line; echo got $line; echo err >&2; exit 3"]);
    host.send(&HostMessage::Data { channel: 7, bytes: b"input\n" });
    let outcome = host.outcome();
    assert_eq!((outcome.output.as_slice(), outcome.error.as_slice()), (&b"got input\n"[..], &b"err\n"[..]));
    assert_eq!(outcome.end, "exited 3");
    host.send(&HostMessage::PowerOff);
    host.served().unwrap();
}

#[test]
fn environment_directory_and_name_are_as_asked() {
    let mut host = Host::greeted();
    let script = "echo $0 $A $HOME $TERM; pwd; echo $PATH | grep -c /sbin";
    host.run(
        0,
        Command {
            arguments: as_bytes(&["sh", "-c", script]),
            environment: as_bytes(&["A=1 2", "TERM=other"]),
            directory: Some(b"/usr"),
            terminal: None,
        },
    );
    assert_eq!(host.outcome().output, b"sh 1 2 /root other\n/usr\n1\n");
    // Nothing of the agent's own environment, and no descriptor but those that every program of this test gets.
    host.start(0, &["sh", "-c", "env | cut -d= -f1 | sort | tr '\\n' ' '"]);
    assert_eq!(host.outcome().output, b"HOME PATH PWD TERM ");
    host.start(0, &["ls", "/proc/self/fd"]);
    let expected = std::process::Command::new("ls").arg("/proc/self/fd").output().unwrap().stdout;
    assert_eq!(String::from_utf8(host.outcome().output).unwrap(), String::from_utf8(expected).unwrap());
}

#[test]
fn commands_that_cannot_run_say_why() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("script");
    std::fs::write(&script, "#!/no/such/interpreter\n").unwrap();
    let mut permissions = std::fs::metadata(&script).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o755);
    std::fs::set_permissions(&script, permissions).unwrap();

    let mut host = Host::greeted();
    for (arguments, expected) in [
        (&["no-such-command"][..], "failed 127: no-such-command: command not found"),
        (&["/no/such/file"], "failed 127: /no/such/file: command not found"),
        (&["/etc"], "failed 126: /etc: is a directory"),
        (&["/etc/passwd"], "failed 126: /etc/passwd: permission denied"),
        (&[script.to_str().unwrap()], "failed 126: "),
    ] {
        host.start(1, arguments);
        let outcome = host.outcome();
        assert!(outcome.end.starts_with(expected), "{}", outcome.end);
        assert!(!outcome.started);
    }
    host.run(1, Command { arguments: as_bytes(&["true"]), directory: Some(b"/missing"), ..plain() });
    let outcome = host.outcome();
    assert!(outcome.end.starts_with("failed 125: working directory /missing: "), "{}", outcome.end);
}

#[test]
fn signals_end_commands() {
    let mut host = Host::greeted();
    host.start(0, &["sh", "-c", "echo ready; exec sleep 1000"]);
    while !host.receive(|message| matches!(message, GuestMessage::Data { .. })) {}
    host.send(&HostMessage::Signal { channel: 0, signal: 15 });
    let outcome = host.outcome();
    assert_eq!(outcome.end, "signaled 15");
}

#[test]
fn commands_run_at_once() {
    let mut host = Host::greeted();
    for channel in 0..20 {
        host.start(channel, &["sh", "-c", "read line; echo $line"]);
    }
    for channel in (0..20).rev() {
        host.send(&HostMessage::Data { channel, bytes: format!("{channel}\n").as_bytes() });
    }
    for (channel, outcome) in host.outcomes(20) {
        assert_eq!(outcome.output, format!("{channel}\n").into_bytes());
        assert_eq!(outcome.end, "exited 0");
    }
}

#[test]
fn many_bytes_come_back_as_they_were() {
    let mut host = Host::greeted();
    host.start(0, &["cat"]);
    let bytes: Vec<u8> = (0..4_000_000u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let (mut sent, mut credit, mut back) = (0, WINDOW_BYTES as usize, Vec::new());
    loop {
        while sent < bytes.len() && credit > 0 {
            let length = credit.min(MAX_DATA_BYTES).min(bytes.len() - sent);
            host.send(&HostMessage::Data { channel: 0, bytes: &bytes[sent..sent + length] });
            (sent, credit) = (sent + length, credit - length);
            if sent == bytes.len() {
                host.send(&HostMessage::EndOfInput { channel: 0 });
            }
        }
        let mut grant = 0;
        let ended = host.receive(|message| {
            match message {
                GuestMessage::Credit { bytes, .. } => credit += *bytes as usize,
                GuestMessage::Data { bytes, .. } => {
                    back.extend_from_slice(bytes);
                    grant = bytes.len();
                }
                _ => {}
            }
            matches!(message, GuestMessage::Ended { .. })
        });
        if ended {
            break;
        }
        if grant > 0 {
            host.send(&HostMessage::Credit { channel: 0, stream: Stream::Output, bytes: grant.try_into().unwrap() });
        }
    }
    assert!(back == bytes);
}

#[test]
fn a_reader_that_stalls_stops_its_own_stream_only() {
    let mut host = Host::greeted();
    host.start(0, &["cat", "/dev/zero"]);
    let mut received = 0;
    while received < WINDOW_BYTES as usize {
        received +=
            host.receive(|message| if let GuestMessage::Data { bytes, .. } = message { bytes.len() } else { 0 });
    }
    host.start(1, &["echo", "meanwhile"]);
    assert_eq!(host.outcome().output, b"meanwhile\n");
    // The host reads no more: a broken pipe.
    host.send(&HostMessage::Close { channel: 0, stream: Stream::Output });
    assert_eq!(host.outcome().end, "signaled 13");
}

#[test]
fn input_that_nobody_reads_is_closed() {
    let mut host = Host::greeted();
    host.start(0, &["sh", "-c", "exec <&-; echo closed; read line <&2; sleep 0.1"]);
    assert!(host.outcome().input_closed);
}

#[test]
fn output_is_over_soon_after_the_command() {
    let mut host = Host::greeted();
    host.start(0, &["sh", "-c", "(exec sleep 1000) & echo $!"]);
    let outcome = host.outcome();
    assert_eq!(outcome.end, "exited 0");
    let id: i32 = String::from_utf8(outcome.output).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(id), nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn a_terminal_has_a_size_and_a_session_of_its_own() {
    let mut host = Host::greeted();
    let size = |rows, columns| TerminalSize { rows, columns };
    let script = "stty size; test -t 0 -a -t 1 -a -t 2 && echo all; read line; stty size; cat; kill -INT $$";
    host.run(0, Command { arguments: as_bytes(&["sh", "-c", script]), terminal: Some(size(7, 11)), ..plain() });
    let mut seen = Vec::new();
    while !seen.ends_with(b"all\r\n") {
        host.receive(|message| {
            if let GuestMessage::Data { bytes, .. } = message {
                seen.extend_from_slice(bytes);
            }
        });
    }
    assert_eq!(seen, b"7 11\r\nall\r\n");
    host.send(&HostMessage::Resize { channel: 0, size: size(30, 100) });
    host.send(&HostMessage::Data { channel: 0, bytes: b"go\n" });
    host.send(&HostMessage::EndOfInput { channel: 0 });
    let outcome = host.outcome();
    assert_eq!(String::from_utf8_lossy(&outcome.output), "go\r\n30 100\r\n");
    assert_eq!((outcome.error, outcome.end.as_str()), (Vec::new(), "signaled 2"));
}

#[test]
fn files_travel_both_ways() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("tree")).unwrap();
    std::fs::write(folder.path().join("tree/file"), [5; 100_000]).unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();

    let mut host = Host::greeted();
    host.send(&HostMessage::Start { channel: 0, task: Task::Send { path: &path("tree") } });
    let archive = host.outcome();
    assert_eq!(archive.end, "exited 0");
    host.send(&HostMessage::Start { channel: 1, task: Task::Receive { path: &path("copy") } });
    for bytes in archive.output.chunks(MAX_DATA_BYTES) {
        host.send(&HostMessage::Data { channel: 1, bytes });
    }
    host.send(&HostMessage::EndOfInput { channel: 1 });
    assert_eq!(host.outcome().end, "exited 0");
    assert_eq!(std::fs::read(folder.path().join("copy/file")).unwrap(), [5; 100_000]);

    host.send(&HostMessage::Start { channel: 0, task: Task::Send { path: "/no/such/file" } });
    assert!(host.outcome().end.starts_with("failed 125: in the guest, read /no/such/file: No such file"));
    host.send(&HostMessage::Start { channel: 0, task: Task::Receive { path: &path("cut") } });
    host.send(&HostMessage::Signal { channel: 0, signal: 9 });
    assert!(host.outcome().end.starts_with("failed 125: "));
}

#[test]
fn setup_is_answered_once() {
    let mut host = Host::greeted();
    host.send(&HostMessage::Setup(Setup { hostname: "good", root: None }));
    host.receive(|message| assert_eq!(*message, GuestMessage::Ready));
    host.send(&HostMessage::Setup(Setup { hostname: "good", root: None }));
    assert!(host.served().unwrap_err().to_string().contains("setup"));

    let mut host = Host::greeted();
    host.send(&HostMessage::Setup(Setup { hostname: "bad", root: None }));
    host.receive(|message| assert_eq!(*message, GuestMessage::Refused { reason: "no" }));
    host.start(0, &["true"]);
    assert!(host.served().unwrap_err().to_string().contains("refused"));
}

/// Ends that the host keeps for clones.
static CLONES: Mutex<Vec<UnixStream>> = Mutex::new(Vec::new());

#[test]
fn a_held_agent_goes_on_in_a_clone() {
    let (mut first, guest) = UnixStream::pair().unwrap();
    let (second, clone) = UnixStream::pair().unwrap();
    CLONES.lock().unwrap().push(clone);
    let agent = std::thread::spawn(move || {
        let renew = |renewal: &Renewal<'_>| if renewal.entropy == b"bad" { Err("no".to_owned()) } else { Ok(()) };
        let connect = || CLONES.lock().unwrap().pop().map(Into::into).ok_or_else(|| "nobody".to_owned());
        Agent::new(|_| Ok(())).with_renewal(renew, connect).serve(guest.into())
    });
    let mut frames = Vec::new();
    encode(&HostMessage::Hello { version: VERSION }, &mut frames).unwrap();
    encode(&HostMessage::Hold, &mut frames).unwrap();
    first.write_all(&frames).unwrap();
    let mut host = Host { socket: first, decoder: Decoder::new(), agent: None };
    host.receive(|message| assert_eq!(*message, GuestMessage::Hello { version: VERSION }));
    host.receive(|message| assert_eq!(*message, GuestMessage::Held));
    drop(host);

    let mut host = Host { socket: second, decoder: Decoder::new(), agent: Some(agent) };
    host.send(&HostMessage::Hello { version: VERSION });
    host.receive(|message| assert_eq!(*message, GuestMessage::Hello { version: VERSION }));
    host.send(&HostMessage::Renew(Renewal { unix_time_ns: 1, entropy: b"good" }));
    host.send(&HostMessage::Setup(Setup { hostname: "good", root: None }));
    host.receive(|message| assert_eq!(*message, GuestMessage::Ready));
    host.start(0, &["true"]);
    assert_eq!(host.outcome().end, "exited 0");
    // One that has run something is no more cloned, and without a host it ends.
    assert!(host.served().is_err());
}

#[test]
fn what_is_out_of_order_about_clones_ends_the_session() {
    let renew = HostMessage::Renew(Renewal { unix_time_ns: 1, entropy: b"good" });
    let setup = HostMessage::Setup(Setup { hostname: "good", root: None });
    for (second, part) in [(&renew, "renewal"), (&HostMessage::Hold, "hold")] {
        let mut host = Host::greeted();
        host.send(&setup);
        host.receive(|message| assert_eq!(*message, GuestMessage::Ready));
        host.send(second);
        assert!(host.served().unwrap_err().to_string().contains(part));
    }
    let mut host = Host::greeted();
    host.send(&HostMessage::Hold);
    host.receive(|message| assert_eq!(*message, GuestMessage::Held));
    host.start(0, &["true"]);
    assert!(host.served().unwrap_err().to_string().contains("held"));
}

#[test]
fn a_host_that_breaks_the_protocol_is_left() {
    let command = |channel| HostMessage::Start {
        channel,
        task: Task::Command(Command { arguments: as_bytes(&["sleep", "1000"]), ..plain() }),
    };
    let window = [0; MAX_DATA_BYTES];
    let data = |bytes| HostMessage::Data { channel: 0, bytes };
    let overspent = [vec![command(0)], vec![data(&window[..]); 10]].concat();
    let cases: [&[HostMessage<'_>]; 7] = [
        &[HostMessage::Hello { version: VERSION }],
        &[command(0), command(0)],
        &[command(0), data(b"")],
        &[command(0), HostMessage::EndOfInput { channel: 0 }, data(b"x"), data(b"x")],
        &[command(0), HostMessage::Credit { channel: 0, stream: Stream::Output, bytes: 1 }],
        &[command(0), HostMessage::Close { channel: 0, stream: Stream::Input }],
        &overspent,
    ];
    for (index, messages) in cases.into_iter().enumerate() {
        let mut host = Host::greeted();
        for message in messages {
            let mut frame = Vec::new();
            encode(message, &mut frame).unwrap();
            let _ = host.socket.write_all(&frame);
        }
        let _ = host.socket.shutdown(std::net::Shutdown::Write);
        let result = host.agent.take().unwrap().join().unwrap();
        let broke = result.unwrap_err().to_string();
        // After the end of its input `sleep` has a closed pipe, so what follows is lost, and that is no violation.
        if index != 3 {
            assert!(broke.starts_with("the host broke the protocol: "), "case {index}: {broke}");
        }
    }

    for (bytes, reason) in
        [(&[0; 4][..], "broke the protocol"), (&[255; 4], "broke the protocol"), (&[2, 0], "is gone")]
    {
        let mut host = Host::raw();
        host.socket.write_all(bytes).unwrap();
        host.socket.shutdown(std::net::Shutdown::Write).unwrap();
        let error = host.agent.take().unwrap().join().unwrap().unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
    }
    let mut host = Host::raw();
    host.send(&HostMessage::Hello { version: VERSION + 1 });
    let error = host.agent.take().unwrap().join().unwrap().unwrap_err().to_string();
    assert!(error.contains("speaks version"), "{error}");
}

#[test]
fn commands_do_not_outlive_the_host() {
    let mut host = Host::greeted();
    host.start(0, &["sh", "-c", "echo $$; exec sleep 1000"]);
    let mut id = String::new();
    while id.is_empty() {
        host.receive(|message| {
            if let GuestMessage::Data { bytes, .. } = message {
                id = String::from_utf8_lossy(bytes).trim().to_owned();
            }
        });
    }
    assert!(host.served().unwrap_err().to_string().contains("is gone"));
    // Killed, and as nobody waits for it any more, at most a zombie of this process.
    let state = loop {
        let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        let state = stat.rsplit(") ").next().unwrap().chars().next().unwrap();
        if state == 'Z' {
            break state;
        }
        std::thread::yield_now();
    };
    assert_eq!(state, 'Z');
}

#[test]
fn channels_are_limited() {
    let mut host = Host::greeted();
    let channels = u32::try_from(MAX_CHANNELS).unwrap();
    for channel in 0..=channels {
        host.start(channel, &["cat"]);
    }
    let outcomes = host.outcomes(1);
    assert!(outcomes[&channels].end.starts_with("failed 125: the session has 256 channels"));
}
