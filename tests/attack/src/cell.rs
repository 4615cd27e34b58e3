//! One jail with a prisoner in it, and the supervisor's side of it.

use std::fs::File;
use std::io::{self, PipeReader, Read, Seek, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair};
use stockade_jailer::plan::{self, Layer, Limits, NamespaceKind, Plan, Tracing};
use stockade_jailer::warden::{Event, MAX_PACKET_BYTES, ProcessEnd};
use stockade_prisoner::descriptor;
use stockade_supervisor::machine::run_directory::RunDirectory;
use stockade_supervisor::machine::state::{Claim, State};
use stockade_supervisor::request::VmName;

use crate::error::{AttackError, Step};

/// What a jail may use. The attempts on resources want more of each.
pub(crate) const LIMITS: Limits = Limits { memory_bytes: 64 << 20, processes: 8, cpu_percent: 10 };
/// The same where nobody wants processor time, so that nobody waits for it either.
pub(crate) const LIMITS_OF_OTHERS: Limits = Limits { cpu_percent: 100, ..LIMITS };
/// Console output that is kept.
pub(crate) const RING_BYTES: u32 = 4096;
/// The ring's cursor.
const RING_HEADER_BYTES: u64 = 8;
/// How long an attempt may take, including its jail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// How long a warden may take to undo a jail.
const CLEANUP: Duration = Duration::from_secs(20);

/// Descriptors of the jailer.
mod number {
    pub(super) const EXECUTABLE: i32 = 3;
    pub(super) const LEASE: i32 = 4;
    pub(super) const CONTROL: i32 = 5;
    pub(super) const CONSOLE: i32 = 6;
    pub(super) const PLAN: i32 = 7;
}

/// Whose a jail is, and what is in it.
pub(crate) struct Blueprint<'a> {
    pub(crate) name: &'a str,
    pub(crate) jailer: &'a Path,
    /// What takes the vmm's place, or is it.
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<String>,
    pub(crate) limits: Limits,
    pub(crate) without: Vec<Layer>,
    pub(crate) shared_namespaces: Vec<NamespaceKind>,
    pub(crate) tracing: Tracing,
    /// What it inherits beside the report and the console.
    pub(crate) descriptors: Vec<(i32, OwnedFd)>,
}

/// What is left to say of a jail that was.
pub(crate) struct Remains {
    pub(crate) end: ProcessEnd,
    pub(crate) message: String,
    pub(crate) report: Vec<u8>,
    /// What is not as it should be, in words: more console than is kept, something left behind.
    pub(crate) harm: Option<String>,
}

/// A jail.
pub(crate) struct Cell {
    uid: u32,
    pid: i32,
    report: PipeReader,
    ring: File,
    // Before the folder, as fields are dropped in this order.
    warden: Warden,
    run_directory: RunDirectory,
    deadline: Instant,
}

impl Cell {
    /// Builds it, and sees the prisoner executed in it.
    pub(crate) fn build(blueprint: Blueprint<'_>) -> Result<Self, AttackError> {
        let deadline = Instant::now() + PATIENCE;
        let state = State::of_caller();
        state.prepare()?;
        let name: VmName = blueprint.name.parse().map_err(AttackError::Name)?;
        let Claim { uid, lease, run_directory } = state.claim(&name)?;
        let (control, warden_end) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).step("make a socket")?;
        let (console, console_end) = io::pipe().step("make a pipe")?;
        let (report, report_end) = io::pipe().step("make a pipe")?;
        let mut descriptors = blueprint.descriptors;
        descriptors.push((descriptor::REPORT, report_end.into()));
        descriptors.push((descriptor::CONSOLE, console_end.into()));
        let (start, start_end) = io::pipe().step("make a pipe")?;
        descriptors.push((descriptor::START, start.into()));
        let plan = Plan {
            version: plan::VERSION,
            id: blueprint.name.to_owned(),
            authority: state.authority(),
            uid,
            executable: number::EXECUTABLE,
            arguments: blueprint.arguments,
            descriptors: descriptors.iter().map(|(number, _)| *number).collect(),
            lease: number::LEASE,
            control: number::CONTROL,
            console: number::CONSOLE,
            run_directory: run_directory.path().to_owned(),
            console_ring_bytes: RING_BYTES,
            limits: blueprint.limits,
            without: blueprint.without,
            shared_namespaces: blueprint.shared_namespaces,
            tracing: blueprint.tracing,
            detached: None,
        };
        descriptors.extend([
            (number::EXECUTABLE, File::open(blueprint.program).step("open the program")?.into()),
            (number::LEASE, lease),
            (number::CONTROL, warden_end),
            (number::CONSOLE, console.into()),
            (number::PLAN, plan_file(&plan)?),
        ]);
        let process = execute(blueprint.jailer, descriptors)?;
        let warden = Warden { process, control: Some(control), name: blueprint.name.to_owned() };
        let (pid, ring) = confirm(&warden, &plan, deadline)?;
        // Not before: the attempt could change what the warden looks at, and be over before anybody else looked.
        drop(start_end);
        Ok(Self { uid, pid, report, ring, warden, run_directory, deadline })
    }

    /// Process id of the prisoner on the host.
    pub(crate) fn pid(&self) -> i32 {
        self.pid
    }

    /// Its user id.
    pub(crate) fn uid(&self) -> u32 {
        self.uid
    }

    /// Where it reports.
    pub(crate) fn report(&self) -> &PipeReader {
        &self.report
    }

    /// Its folder.
    pub(crate) fn run_directory(&self) -> &Path {
        self.run_directory.path()
    }

    /// Its control groups, that for memory first.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        let parents = ["memory", "cpu", "pids", ""].map(|controller| root.join(controller).join("stockade"));
        parents.iter().map(|parent| parent.join(&self.warden.name)).filter(|folder| folder.exists()).collect()
    }

    /// Whether the prisoner still runs.
    pub(crate) fn is_alive(&self) -> bool {
        Path::new("/proc").join(self.pid.to_string()).exists()
    }

    /// What is kept of its console, with the ring's cursor before it.
    pub(crate) fn console(&self) -> Vec<u8> {
        std::fs::read(self.run_directory.path().join("console")).unwrap_or_default()
    }

    /// How many bytes were written to its console in all: the ring's cursor.
    pub(crate) fn console_bytes(&self) -> Option<u64> {
        self.console().first_chunk().copied().map(u64::from_le_bytes)
    }

    /// Waits for its end, and until nothing is left of it.
    pub(crate) fn ended(mut self) -> Result<Remains, AttackError> {
        let (end, message) = match self.warden.event(self.deadline)? {
            Event::Ended { end, message, .. } => (end, message),
            other => return Err(AttackError::Warden(format!("{other:?} instead of the prisoner's end"))),
        };
        let left_behind = match self.warden.event(self.deadline)? {
            Event::Cleaned { left_behind } => left_behind,
            other => return Err(AttackError::Warden(format!("{other:?} instead of what was left behind"))),
        };
        self.warden.process.wait().step("wait for the warden")?;
        let mut harm = Vec::new();
        let kept = self.ring.metadata().step("look at the console")?.len();
        if kept > u64::from(RING_BYTES) + RING_HEADER_BYTES {
            harm.push(format!("{kept} bytes of its console were kept"));
        }
        if !left_behind.is_empty() {
            let _ = stockade_jailer::cgroup::sweep(&self.warden.name);
            harm.push(format!("left behind: {}", left_behind.join(", ")));
        }
        let harm = (!harm.is_empty()).then(|| harm.join("; "));
        Ok(Remains { end, message, report: read_what_is_there(&mut self.report), harm })
    }
}

/// A warden, which ends with this.
struct Warden {
    process: Child,
    /// As long as this is open, it goes on.
    control: Option<OwnedFd>,
    /// Name of the jail.
    name: String,
}

impl Warden {
    fn event(&self, deadline: Instant) -> Result<Event, AttackError> {
        let control = self.control.as_ref().ok_or_else(|| AttackError::Warden("it was told to end".into()))?;
        event(control, deadline)
    }
}

impl Drop for Warden {
    fn drop(&mut self) {
        // It kills the prisoner, waits for it, and removes everything.
        drop(self.control.take());
        let deadline = Instant::now() + CLEANUP;
        while matches!(self.process.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.process.kill();
                let _ = self.process.wait();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        // Nothing, if all went well.
        let _ = stockade_jailer::cgroup::sweep(&self.name);
    }
}

fn plan_file(plan: &Plan) -> Result<OwnedFd, AttackError> {
    let mut file = tempfile::tempfile().step("make the plan's file")?;
    let text = serde_json::to_vec(plan).map_err(io::Error::from).step("write the plan")?;
    file.write_all(&text).and_then(|()| file.rewind()).step("write the plan")?;
    Ok(file.into())
}

fn execute(jailer: &Path, descriptors: Vec<(i32, OwnedFd)>) -> Result<Child, AttackError> {
    let mappings = descriptors.into_iter().map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
    let mut command = Command::new(jailer);
    command.args(["sealed", "--plan-fd", &number::PLAN.to_string()]).env_clear().current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    let mapped = command.fd_mappings(mappings);
    mapped.map_err(io::Error::other).step("hand over descriptors")?;
    command.spawn().step("execute stockade-jailer")
}

/// Hears that the jail is complete, and has the layers that were asked for.
fn confirm(warden: &Warden, plan: &Plan, deadline: Instant) -> Result<(i32, File), AttackError> {
    let (pid, confinement) = match warden.event(deadline)? {
        Event::Confined { pid, confinement, .. } => (pid, confinement),
        Event::Refused { message, .. } => return Err(AttackError::Refused(message)),
        other => return Err(AttackError::Warden(format!("{other:?} instead of the jail"))),
    };
    for layer in Layer::ALL {
        let enforced = confinement.iter().any(|report| report.layer == layer && report.enforced);
        if enforced != plan.wants(layer) {
            let state = if enforced { "on" } else { "off" };
            return Err(AttackError::WrongLayers { layer: layer.name(), state });
        }
    }
    Ok((pid, File::open(plan.run_directory.join("console")).step("open the console")?))
}

fn event(control: &OwnedFd, deadline: Instant) -> Result<Event, AttackError> {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).ok();
    let ready = poll(&mut [PollFd::new(control, PollFlags::IN)], timeout.as_ref()).step("wait for the warden")?;
    if ready == 0 {
        return Err(AttackError::Warden(format!("nothing in {} seconds", PATIENCE.as_secs())));
    }
    let mut packet = vec![0; MAX_PACKET_BYTES];
    let (length, _) = recv(control, packet.as_mut_slice(), RecvFlags::empty()).step("hear from the warden")?;
    let packet = packet.get(..length).unwrap_or_default();
    serde_json::from_slice(packet).map_err(|error| AttackError::Warden(error.to_string()))
}

/// Everybody who could write to it is gone, but for processes that an attempt left where there is no PID namespace.
pub(crate) fn read_what_is_there(report: &mut PipeReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    if rustix::io::ioctl_fionbio(&*report, true).is_ok() {
        // An error ends it as the end does; what was read stays.
        let _ = report.read_to_end(&mut bytes);
    }
    bytes
}

/// `file` as a path that does not change with it.
pub(crate) fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()))
}
