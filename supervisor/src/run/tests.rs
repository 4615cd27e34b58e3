//! The story of a run, with a fake machine and a fake agent in it.

use std::io::Read;
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use stockade_guest_protocol::{End, GuestMessage, HostMessage, Setup, Stream, VERSION};
use stockade_vmm_api::exit::ExitReason;
use tempfile::TempDir;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

use super::{Life, Outcome, RunError};
use crate::client::{Client, Notice, Notices};
use crate::machine::fake::{Fake, machine, violation};
use crate::machine::{Machine, MachineEnd};
use crate::phases::{Observer, Phase, PhaseClock};
use crate::request::{Access, BootMode, CommandRequest, Cpus, MemorySize, RootImage, RunRequest};
use crate::session::fake::Peer;

struct Phases(Vec<Phase>);

impl Observer for Phases {
    fn began(&mut self, phase: Phase) {
        self.0.push(phase);
    }
    fn ended(&mut self, _: Phase, _: Duration) {}
}

/// A run that is about to boot, and everybody that it deals with.
struct Stage {
    request: RunRequest,
    machine: Machine,
    agent: UnixStream,
    client: Client,
}

/// The other side of a [`Stage`].
struct Others {
    fake: Fake,
    guest: Peer<UnixStream>,
    notices: mpsc::Sender<Notice>,
    output: std::io::PipeReader,
    error: std::io::PipeReader,
}

fn stage() -> (Stage, Others) {
    let (machine, fake) = machine();
    let (agent, guest) = UnixStream::pair().unwrap();
    let (sender, receiver) = mpsc::channel(8);
    let (output, output_end) = std::io::pipe().unwrap();
    let (error, error_end) = std::io::pipe().unwrap();
    let input = rustix::fs::open("/dev/null", OFlags::RDONLY, Mode::empty()).unwrap();
    let client = Client { input, output: output_end.into(), error: error_end.into(), notices: Notices::new(receiver) };
    let request = RunRequest {
        name: "name".parse().unwrap(),
        cpus: Cpus::default(),
        memory: MemorySize::default(),
        kernel: None,
        initramfs: None,
        root: None,
        command: CommandRequest { arguments: vec!["command".into()], ..CommandRequest::default() },
        copy_in: Vec::new(),
        copy_out: Vec::new(),
        boot: BootMode::IfNeeded,
        without: Vec::new(),
    };
    let others = Others { fake, guest: Peer::new(guest), notices: sender, output, error };
    (Stage { request, machine, agent, client }, others)
}

impl Stage {
    /// The outcome alone: the machine is left to its fate.
    async fn outcome(mut self) -> Result<Outcome, RunError> {
        let mut phases = Phases(Vec::new());
        let mut life =
            Life { request: &self.request, clock: PhaseClock::new(&mut phases), start: None, warnings: Vec::new() };
        life.live(&mut self.machine, self.agent, &[], &mut self.client).await
    }

    async fn live(mut self) -> (Result<Outcome, RunError>, Vec<Phase>, Vec<String>) {
        let mut phases = Phases(Vec::new());
        let mut life =
            Life { request: &self.request, clock: PhaseClock::new(&mut phases), start: None, warnings: Vec::new() };
        let outcome = life.live(&mut self.machine, self.agent, &[], &mut self.client).await;
        let mut warnings = life.warnings;
        warnings.extend(self.machine.remove().await);
        (outcome, phases.0, warnings)
    }
}

impl Others {
    /// The guest boots and is set up, and the command starts.
    async fn boot(&mut self) {
        self.fake.starts();
        self.guest.send(&GuestMessage::Hello { version: VERSION }).await;
        self.guest.expect(&HostMessage::Hello { version: VERSION }).await;
        self.guest.expect_renewal().await;
        self.guest.expect(&HostMessage::Setup(Setup { hostname: "name", root: None })).await;
        self.guest.send(&GuestMessage::Ready).await;
        self.command_starts().await;
    }

    async fn command_starts(&mut self) {
        self.guest.receive(|message| assert!(matches!(message, HostMessage::Start { channel: 0, .. }))).await;
        self.guest.send(&GuestMessage::Started { channel: 0 }).await;
    }

    /// The command says what it has to say, and ends.
    async fn command_ends(&mut self, end: End<'_>) {
        for (stream, bytes) in [(Stream::Output, b"out"), (Stream::Error, b"err")] {
            self.guest.send(&GuestMessage::Data { channel: 0, stream, bytes }).await;
            self.guest.send(&GuestMessage::EndOfOutput { channel: 0, stream }).await;
        }
        self.guest.send(&GuestMessage::Ended { channel: 0, end }).await;
    }

    /// The next signal that the command gets.
    async fn signal(&mut self) -> u8 {
        loop {
            let signal = self.guest.receive(|message| match message {
                HostMessage::Signal { signal, .. } => Some(*signal),
                _ => None,
            });
            if let Some(signal) = signal.await {
                return signal;
            }
        }
    }

    /// The supervisor has had enough, and says so to the warden.
    async fn killed(self) -> TempDir {
        let Self { fake, guest, .. } = self;
        let folder = tokio::task::spawn_blocking(|| fake.obeys_kill()).await.unwrap();
        drop(guest);
        folder
    }
}

/// Three letters.
fn text(mut pipe: std::io::PipeReader) -> String {
    let mut bytes = [0; 3];
    pipe.read_exact(&mut bytes).unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[tokio::test]
async fn a_command_runs_and_its_exit_code_comes_back() {
    let (stage, mut others) = stage();
    let play = async {
        others.boot().await;
        others.command_ends(End::Exited(3)).await;
        let (output, error) = (others.output.try_clone().unwrap(), others.error.try_clone().unwrap());
        others.killed().await;
        (text(output), text(error))
    };
    let ((outcome, phases, warnings), (output, error)) = tokio::join!(stage.live(), play);
    assert_eq!(outcome.unwrap(), Outcome::Exited { code: 3 });
    assert_eq!(phases, [Phase::Kvm, Phase::Load, Phase::Kernel, Phase::Agent, Phase::Command]);
    assert_eq!(warnings, Vec::<String>::new());
    assert_eq!((output, error), ("out".into(), "err".into()));
}

#[tokio::test]
async fn a_command_that_cannot_start_is_no_failure_of_stockade() {
    let (stage, mut others) = stage();
    let play = async {
        others.boot().await;
        others.guest.send(&GuestMessage::Ended { channel: 0, end: End::Failed { code: 127, reason: "x: gone" } }).await;
        others.killed().await
    };
    let ((outcome, ..), _) = tokio::join!(stage.live(), play);
    assert_eq!(outcome.unwrap(), Outcome::NotStarted { code: 127, reason: "x: gone".into() });
}

#[tokio::test]
async fn a_guest_that_panics_under_its_command_is_the_reason() {
    let (stage, mut others) = stage();
    let play = async {
        others.boot().await;
        let Others { fake, guest, .. } = others;
        drop(guest);
        fake.guest_ends(ExitReason::Panicked, "pvpanic")
    };
    let ((outcome, ..), _) = tokio::join!(stage.live(), play);
    let error = outcome.unwrap_err();
    assert!(matches!(&error, RunError::Machine(MachineEnd::Guest { reason: ExitReason::Panicked, .. })), "{error}");
    assert_eq!(error.to_string(), "the guest's kernel panicked: pvpanic");
}

#[tokio::test]
async fn a_guest_that_dies_while_it_boots_is_the_reason() {
    let (stage, mut others) = stage();
    let play = async {
        others.fake.starts();
        others.fake.guest_ends(ExitReason::TripleFault, "at 0")
    };
    let ((outcome, ..), _) = tokio::join!(stage.live(), play);
    assert!(matches!(outcome, Err(RunError::Machine(MachineEnd::Guest { reason: ExitReason::TripleFault, .. }))));
}

#[tokio::test]
async fn a_violated_filter_has_an_exit_code_of_its_own() {
    let (stage, mut others) = stage();
    let play = async {
        others.fake.starts();
        others.fake.vmm_violates(&violation())
    };
    let ((outcome, ..), _) = tokio::join!(stage.live(), play);
    let error = outcome.unwrap_err();
    assert_eq!(error.exit_code(), Outcome::VIOLATED);
    assert!(
        error.to_string().contains("thread \"fc_vcpu 0\" (7) in the role vcpu, phase run, called mount"),
        "{error}"
    );
}

#[tokio::test]
async fn an_agent_that_breaks_the_protocol_is_killed() {
    let (stage, mut others) = stage();
    let play = async {
        others.boot().await;
        others.guest.send(&GuestMessage::Ready).await;
        others.killed().await
    };
    let ((outcome, ..), _) = tokio::join!(stage.live(), play);
    let error = outcome.unwrap_err();
    assert!(error.to_string().contains("broke the protocol"), "{error}");
}

#[tokio::test]
async fn a_signal_while_the_guest_boots_ends_the_run() {
    let (stage, mut others) = stage();
    let play = async {
        others.fake.starts();
        others.notices.send(Notice::Signal(10)).await.unwrap();
        others.notices.send(Notice::Signal(2)).await.unwrap();
        others.killed().await
    };
    let ((outcome, ..), _) = tokio::join!(stage.live(), play);
    assert_eq!(outcome.unwrap(), Outcome::Interrupted { signal: 2 });
}

#[tokio::test]
async fn a_first_signal_reaches_the_command_and_a_second_ends_the_run() {
    let (stage, mut others) = stage();
    let play = async {
        others.boot().await;
        others.notices.send(Notice::Signal(2)).await.unwrap();
        assert_eq!(others.signal().await, 2);
        others.notices.send(Notice::Signal(2)).await.unwrap();
        others.killed().await
    };
    let ((outcome, ..), _) = tokio::join!(stage.live(), play);
    assert_eq!(outcome.unwrap(), Outcome::Interrupted { signal: 2 });
}

#[tokio::test]
async fn a_command_that_ends_after_a_signal_has_its_own_exit_code() {
    let (stage, mut others) = stage();
    let play = async {
        others.boot().await;
        others.notices.send(Notice::Signal(15)).await.unwrap();
        assert_eq!(others.signal().await, 15);
        others.command_ends(End::Signaled(15)).await;
        others.killed().await
    };
    let ((outcome, ..), _) = tokio::join!(stage.live(), play);
    assert_eq!(outcome.unwrap(), Outcome::Signaled { signal: 15 });
}

#[tokio::test(start_paused = true)]
async fn a_command_that_takes_too_long_is_asked_then_killed_with_its_machine() {
    let (mut stage, mut others) = stage();
    stage.request.command.timeout = Some(Duration::from_secs(1));
    let limit = Duration::from_secs(1);
    let play = async {
        others.boot().await;
        assert_eq!(others.signal().await, 15);
        assert_eq!(others.signal().await, 9);
        others
    };
    let (outcome, _others) = tokio::join!(stage.outcome(), play);
    assert_eq!(outcome.unwrap(), Outcome::TimedOut { limit });
}

#[tokio::test]
async fn a_guest_with_a_writable_image_powers_itself_off() {
    let (mut stage, mut others) = stage();
    stage.request.root = Some(RootImage { path: "image".into(), access: Access::ReadWrite });
    let play = async {
        others.fake.starts();
        others.guest.send(&GuestMessage::Hello { version: VERSION }).await;
        others.guest.expect(&HostMessage::Hello { version: VERSION }).await;
        others.guest.expect_renewal().await;
        let is_writable = |message: &HostMessage<'_>| match message {
            HostMessage::Setup(setup) => setup.root.as_ref().is_some_and(|root| root.writable),
            _ => false,
        };
        assert!(others.guest.receive(is_writable).await);
        others.guest.send(&GuestMessage::Ready).await;
        others.command_starts().await;
        others.command_ends(End::Exited(0)).await;
        while !others.guest.receive(|message| *message == HostMessage::PowerOff).await {}
        others.fake.guest_ends(ExitReason::PowerOff, "S5")
    };
    let ((outcome, _, warnings), _) = tokio::join!(stage.live(), play);
    assert_eq!(outcome.unwrap(), Outcome::Exited { code: 0 });
    assert_eq!(warnings, Vec::<String>::new());
}
