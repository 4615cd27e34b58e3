//! A jail around a prisoner, as its supervisor sees it.

use std::fs::File;
use std::io::{self, PipeReader, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use command_fds::{CommandFdExt, FdMapping};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::Pid;
use serde_json::Value;
use stockade_jailer::plan::{self, Authority, Layer, Limits, Plan, Tracing, WARDEN_GID};
use stockade_jailer::violation::{ForbiddenCall, Violation};
use stockade_jailer::warden::{Event, LayerReport, MAX_PACKET_BYTES, ProcessEnd};

/// Descriptors as the jailer gets them.
const EXECUTABLE: i32 = 3;
const LEASE: i32 = 4;
const CONTROL: i32 = 5;
const CONSOLE: i32 = 6;
const PLAN: i32 = 7;
/// Those of the prisoner: its reports, and the guest's console.
const REPORT: i32 = 8;
const CONSOLE_END: i32 = 9;

/// A jail, and the supervisor's side of it.
pub struct Jail {
    pub warden: Child,
    pub control: Option<OwnedFd>,
    pub report: PipeReader,
    pub id: String,
    pub uid: u32,
    pub parent: tempfile::TempDir,
}

impl Jail {
    pub fn build(words: &str) -> Self {
        Self::build_with(words, |_| {})
    }

    pub fn build_with(words: &str, change: impl FnOnce(&mut Plan)) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        assert!(nix::unistd::geteuid().is_root(), "run as root: only root builds jails");
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("test-{}-{number}", std::process::id());
        // Not among those that are leased at any time.
        let uid = WARDEN_GID + 0x10_0000 + (std::process::id() % 0x10_0000) * 16 + number;
        let parent = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o1770)).tempdir().unwrap();
        std::fs::set_permissions(&parent, PermissionsExt::from_mode(0o1770)).unwrap();
        chown(parent.path(), Some(0), Some(WARDEN_GID)).unwrap();
        let run_directory = parent.path().join(&id);
        std::fs::create_dir(&run_directory).unwrap();
        std::fs::set_permissions(&run_directory, PermissionsExt::from_mode(0o700)).unwrap();
        chown(&run_directory, Some(uid), Some(uid)).unwrap();

        let mut plan = Plan {
            version: plan::VERSION,
            authority: Authority::Root,
            id: id.clone(),
            uid,
            executable: EXECUTABLE,
            arguments: words.split_whitespace().map(String::from).collect(),
            descriptors: vec![REPORT, CONSOLE_END],
            lease: LEASE,
            control: CONTROL,
            console: CONSOLE,
            run_directory,
            console_ring_bytes: 4096,
            limits: Limits { memory_bytes: 64 << 20, processes: 8, cpu_percent: 150 },
            without: Vec::new(),
            shared_namespaces: Vec::new(),
            tracing: Tracing::Warden,
            detached: None,
        };
        change(&mut plan);
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&serde_json::to_vec(&plan).unwrap()).unwrap();
        file.rewind().unwrap();
        let jailer = Path::new(env!("CARGO_BIN_EXE_stockade-jailer"));
        let prisoner = jailer.with_file_name("examples").join("prisoner");
        let (control, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap();
        let (console, console_end) = io::pipe().unwrap();
        let (report, report_end) = io::pipe().unwrap();
        let descriptors: [(i32, OwnedFd); 7] = [
            (EXECUTABLE, File::open(prisoner).unwrap().into()),
            (LEASE, tempfile::tempfile().unwrap().into()),
            (CONTROL, theirs),
            (CONSOLE, console.into()),
            (PLAN, file.into()),
            (REPORT, report_end.into()),
            (CONSOLE_END, console_end.into()),
        ];
        let mappings = descriptors.map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd });
        let mut command = Command::new(jailer);
        command.args(["sealed", "--plan-fd", &PLAN.to_string()]).stdin(Stdio::null());
        let warden = command.fd_mappings(mappings.into()).unwrap().spawn().unwrap();
        Self { warden, control: Some(control), report, id, uid, parent }
    }

    /// What the warden says next; none when it is gone.
    pub fn event(&self) -> Option<Event> {
        let mut packet = vec![0; MAX_PACKET_BYTES];
        let control = self.control.as_ref().unwrap();
        let length = recv(control.as_raw_fd(), &mut packet, MsgFlags::empty()).unwrap();
        (length > 0).then(|| serde_json::from_slice(&packet[..length]).unwrap())
    }

    pub fn confined(&self) -> (Pid, Vec<LayerReport>) {
        match self.event() {
            Some(Event::Confined { pid, confinement, .. }) => (Pid::from_raw(pid), confinement),
            other => panic!("{other:?}"),
        }
    }

    pub fn report(&mut self) -> Value {
        let mut text = String::new();
        self.report.read_to_string(&mut text).unwrap();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub fn send(&self, packet: &[u8]) {
        send(self.control.as_ref().unwrap().as_raw_fd(), packet, MsgFlags::MSG_NOSIGNAL).unwrap();
    }

    pub fn cgroups(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let parents = ["", "memory", "cpu", "pids"].map(|controller| root.join(controller).join("stockade"));
        parents.iter().map(|parent| parent.join(&self.id)).filter(|folder| folder.exists()).collect()
    }

    pub fn run_directory(&self) -> PathBuf {
        self.parent.path().join(&self.id)
    }

    /// Hears the end, and checks that nothing is left.
    pub fn ended(self) -> (ProcessEnd, String) {
        let (end, message, violation) = self.ended_with();
        assert_eq!(violation, None, "{message}");
        (end, message)
    }

    pub fn ended_with(mut self) -> (ProcessEnd, String, Option<Violation>) {
        let Some(Event::Ended { end, message, violation }) = self.event() else {
            panic!("the vmm's end was not reported")
        };
        assert_eq!(self.event(), Some(Event::Cleaned { left_behind: Vec::new() }));
        assert_eq!(self.event(), None);
        assert!(self.warden.wait().unwrap().success());
        self.expect_nothing_left();
        (end, message, violation)
    }

    /// Hears of a forbidden system call, which was the end.
    pub fn violated(self) -> ForbiddenCall {
        self.confined();
        match self.ended_with() {
            (ProcessEnd::Signaled(31), message, Some(Violation::Call(call))) => {
                assert_eq!(message, format!("killed for a system call that its filter forbids: {call}"));
                *call
            }
            other => panic!("{other:?}"),
        }
    }

    pub fn refused(mut self) -> (Option<Layer>, String) {
        let Some(Event::Refused { layer, message }) = self.event() else { panic!("it was not refused") };
        assert_eq!(self.event(), None);
        self.warden.wait().unwrap();
        assert_eq!(self.cgroups(), [] as [PathBuf; 0]);
        assert_eq!(processes_of(self.uid), [] as [String; 0]);
        (layer, message)
    }

    pub fn expect_nothing_left(&self) {
        assert_eq!(self.cgroups(), [] as [PathBuf; 0]);
        assert!(!self.run_directory().exists());
        assert_eq!(processes_of(self.uid), [] as [String; 0]);
    }
}

/// Every process of user `uid`.
pub fn processes_of(uid: u32) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap());
    let numbers = entries.filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok());
    let owned = numbers.filter(|entry| entry.metadata().is_ok_and(|metadata| metadata.uid() == uid));
    owned.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

pub fn status_of(pid: Pid, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

pub fn wait_for_end(pid: Pid) {
    while Path::new(&format!("/proc/{pid}")).exists() {
        std::thread::yield_now();
    }
}
