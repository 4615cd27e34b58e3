//! Sealed mode: one process becomes the vmm in its jail, the other its warden.

use std::convert::Infallible;
use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{OpenOptionsExt, chown, fchown};
use std::path::Path;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid};
use serde::{Deserialize, Serialize};
use stockade_confinement::{JailKind, Record};

use crate::cgroup::Cgroup;
use crate::confirm::confirm;
use crate::console::Ring;
use crate::control::Control;
use crate::error::{JailError, Step};
use crate::folder::{Contents, Folder};
use crate::jail::{self, Jail};
use crate::plan::{Authority, Detached, Layer, NamespaceKind, Plan, Tracing, WARDEN_GID};
use crate::reports::Reports;
use crate::supervisor::Supervisor;
use crate::tracer::Tracer;
use crate::warden::{Event, LayerReport};
use crate::watch::Watch;
use crate::{sys, unveil, user_namespace};

/// What the process in the jail says to its warden before it is the vmm. After `Confined`, silence means that it is.
#[derive(Debug, Serialize, Deserialize)]
enum Progress {
    /// What is in force.
    Confined(Vec<LayerReport>),
    /// It can't go on.
    Failed { layer: Option<Layer>, step: String, cause: String },
}

/// The descriptors of a plan, taken over.
struct Descriptors {
    executable: OwnedFd,
    inherited: Vec<OwnedFd>,
    held: Vec<OwnedFd>,
    console: OwnedFd,
    reports: Option<Reports>,
    ring: Option<OwnedFd>,
}

/// Builds the jail of `plan`, executes the vmm in it, and stays as its warden. Whatever there is to say goes to the plan's control
/// socket.
///
/// # Errors
/// There is no control socket to say it to.
pub fn run(plan: &Plan) -> io::Result<()> {
    let mut supervisor = supervisor(plan)?;
    let refused = |error: JailError| Event::Refused { layer: error.layer, message: error.explain() };
    if plan.authority == Authority::User
        && let Err(error) = user_namespace::enter().step("make a user namespace")
    {
        supervisor.tell(&refused(error));
        return Ok(());
    }
    let cgroup = match make_cgroup(plan) {
        Ok(cgroup) => cgroup,
        Err(error) => {
            supervisor.tell(&refused(error));
            return Ok(());
        }
    };
    match start(plan, cgroup.as_ref()) {
        Ok(Started { watch, confinement }) => {
            supervisor.tell(&Event::Confined { pid: watch.pid(), at_us: monotonic_us(), confinement });
            watch.until_the_end(&mut supervisor, cgroup.as_ref());
        }
        Err(error) => {
            cgroup.iter().for_each(|cgroup| drop(cgroup.remove()));
            supervisor.tell(&refused(error));
        }
    }
    Ok(())
}

fn supervisor(plan: &Plan) -> io::Result<Supervisor> {
    let control = Control::new(sys::inherited(plan.control)?);
    let Some(detached) = &plan.detached else { return Ok(Supervisor::attached(control)) };
    let listener = sys::inherited(detached.listener)?;
    rustix::io::ioctl_fionbio(&listener, true)?;
    Ok(Supervisor::detached(control, listener, sys::inherited(detached.journal)?))
}

/// A vmm that runs, and its warden, who is confined too.
struct Started {
    watch: Watch,
    confinement: Vec<LayerReport>,
}

/// Splits off the vmm and confines both it and this process, the warden.
fn start(plan: &Plan, cgroup: Option<&Cgroup>) -> Result<Started, JailError> {
    let Descriptors { executable, inherited, held, console, reports, ring } =
        take_over(plan).step("take over descriptors")?;
    let ring = console_ring(plan, ring).step("make the console's file")?;
    let run_directory = Folder::open(&plan.run_directory, Contents::Removed).step("open the run directory")?;
    if plan.wants_namespace(NamespaceKind::Pid) {
        unshare(CloneFlags::CLONE_NEWPID).layer(Layer::Namespaces, "make a PID namespace")?;
    }
    rustix::io::ioctl_fionbio(&console, true).step("prepare the console")?;
    let console = File::from(console);
    let (progress, progress_end) = io::pipe().step("make a pipe")?;
    let (gate, gate_end) = io::pipe().step("make a pipe")?;
    let child = match sys::split(cgroup.and_then(Cgroup::birthplace)).step("fork")? {
        ForkResult::Child => {
            drop((console, held, progress, ring, run_directory, reports, gate_end));
            become_vmm(plan, cgroup, &executable, &inherited, Threshold { progress: progress_end, gate })
        }
        ForkResult::Parent { child } => child,
    };
    // What is the vmm's alone must end with it.
    drop((executable, inherited, progress_end, gate));
    let traced = match plan.tracing {
        _ if !plan.wants(Layer::Seccomp) => Tracer::of_unfiltered(child),
        Tracing::Warden => Tracer::of_filtered(child),
        Tracing::Another => Tracer::left_to_another(child),
    };
    let tracer = traced.step("watch the vmm").inspect_err(|_| end(child))?;
    let mut watch = Watch::new(tracer, console, ring, held, run_directory).with_reports(reports);
    match confine(plan, cgroup, &mut watch, progress, gate_end) {
        Ok(confinement) => Ok(Started { watch, confinement }),
        Err(error) => {
            watch.give_up();
            Err(error)
        }
    }
}

/// Sees the vmm into its jail, and confines this process. Threads of the vmm that wait for their tracer wait no longer than
/// one of the steps takes.
fn confine(
    plan: &Plan,
    cgroup: Option<&Cgroup>,
    watch: &mut Watch,
    progress: PipeReader,
    gate: PipeWriter,
) -> Result<Vec<LayerReport>, JailError> {
    let confinement = await_confinement(watch, progress, gate)?;
    let launch_filters = confirm(Pid::from_raw(watch.pid()), plan)?;
    watch.tracer().pass();
    record(watch, plan, &confinement, launch_filters.saturating_add(1)).step("record what is in force")?;
    watch.tracer().pass();
    confine_warden(plan, cgroup, watch)?;
    Ok(confinement)
}

fn make_cgroup(plan: &Plan) -> Result<Option<Cgroup>, JailError> {
    let make = || Cgroup::create(&plan.id, plan.owner(), &plan.limits);
    plan.wants(Layer::Cgroup).then(make).transpose().layer(Layer::Cgroup, "make the control group")
}

fn take_over(plan: &Plan) -> io::Result<Descriptors> {
    let detached = plan.detached.as_ref();
    let held = detached.map(|detached| detached.held.as_slice()).unwrap_or_default();
    let reports =
        |detached: &Detached| Reports::new(sys::inherited(detached.events)?, sys::inherited(detached.diagnostics)?);
    Ok(Descriptors {
        executable: sys::inherited(plan.executable)?,
        inherited: plan.descriptors.iter().map(|number| sys::inherited(*number)).collect::<io::Result<_>>()?,
        held: held.iter().chain([&plan.lease]).map(|number| sys::inherited(*number)).collect::<io::Result<_>>()?,
        console: sys::inherited(plan.console)?,
        reports: detached.map(reports).transpose()?,
        ring: detached.map(|detached| sys::inherited(detached.console_ring)).transpose()?,
    })
}

fn console_ring(plan: &Plan, ring: Option<OwnedFd>) -> io::Result<Ring> {
    let ring = if let Some(ring) = ring {
        Ring::resume(ring.into(), plan.console_ring_bytes)?
    } else {
        let ring = Ring::create(&plan.run_directory.join("console"), plan.console_ring_bytes)?;
        fchown(ring.file(), Some(plan.owner()), Some(plan.owner()))?;
        ring
    };
    // The supervisor made it for the leased user.
    chown(&plan.run_directory, Some(plan.owner()), Some(plan.owner()))?;
    Ok(ring)
}

/// Writes down for `stockade inspect` what is in force, where neither the vmm nor its warden can change it.
fn record(watch: &Watch, plan: &Plan, layers: &[LayerReport], filters: u32) -> io::Result<()> {
    let record = Record {
        id: plan.id.clone(),
        pid: watch.pid(),
        identity: stockade_confinement::identity(watch)?,
        uid: plan.uid,
        gid: plan.uid,
        jail: JailKind::Sealed { warden: Pid::this().as_raw(), limits: plan.limits.clone(), filters },
        layers: layers.to_vec(),
    };
    let path = plan.run_directory.join(Record::FILE);
    let mut file = File::options().write(true).create_new(true).mode(Record::MODE).open(path)?;
    file.write_all(&serde_json::to_vec(&record)?)
}

/// The child's part, of which there is no return.
fn become_vmm(
    plan: &Plan,
    cgroup: Option<&Cgroup>,
    executable: &OwnedFd,
    inherited: &[OwnedFd],
    mut threshold: Threshold,
) -> ! {
    let Err(error) = enter(plan, cgroup, executable, inherited, &mut threshold);
    let failed = Progress::Failed { layer: error.layer, step: error.step, cause: error.source.to_string() };
    // A warden that does not hear it sees the process end.
    let _ = threshold.say(&failed);
    std::process::exit(1)
}

fn enter(
    plan: &Plan,
    cgroup: Option<&Cgroup>,
    executable: &OwnedFd,
    inherited: &[OwnedFd],
    threshold: &mut Threshold,
) -> Result<Infallible, JailError> {
    let inherited: Vec<_> = inherited.iter().map(AsFd::as_fd).collect();
    Jail::new(plan).isolate(cgroup)?.empty_root()?.limit(&inherited)?.drop_privileges()?.unveil(executable)?.execute(
        executable,
        &inherited,
        |reports| {
            threshold.say(&Progress::Confined(reports.to_vec()))?;
            threshold.pass()
        },
    )
}

/// Where the child leaves the jailer's program for the vmm's.
struct Threshold {
    progress: PipeWriter,
    gate: PipeReader,
}

impl Threshold {
    fn say(&mut self, message: &Progress) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.progress.write_all(&line)
    }

    /// Waits until the warden watches, so that it sees what the vmm does from the first instruction on.
    fn pass(&mut self) -> io::Result<()> {
        self.gate.read_exact(&mut [0])
    }
}

/// Hears out the child until it is the vmm, which closes its end, or gives up.
fn await_confinement(
    watch: &mut Watch,
    mut progress: PipeReader,
    mut gate: PipeWriter,
) -> Result<Vec<LayerReport>, JailError> {
    const STEP: &str = "hear from the vmm's process";
    // One that has ended has said why.
    let _ = gate.write_all(&[0]);
    let mut text = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        watch.tracer().pass();
        if !progress_before_change(watch.tracer(), &progress).step(STEP)? {
            continue;
        }
        match progress.read(&mut chunk).step(STEP)? {
            0 => break,
            length => text.extend_from_slice(chunk.get(..length).unwrap_or_default()),
        }
    }
    let messages = serde_json::Deserializer::from_slice(&text).into_iter::<Progress>();
    match messages.last() {
        Some(Ok(Progress::Confined(reports))) => Ok(reports),
        Some(Ok(Progress::Failed { layer, step, cause })) => {
            Err(JailError { layer, step, source: io::Error::other(cause) })
        }
        _ => Err(io::Error::from(io::ErrorKind::UnexpectedEof)).step(STEP),
    }
}

/// Waits until there is progress or something happened to the child, and returns whether it was the former.
fn progress_before_change(tracer: &Tracer, progress: &PipeReader) -> io::Result<bool> {
    let mut descriptors = [progress.as_fd(), tracer.changes()].map(|source| PollFd::new(source, PollFlags::POLLIN));
    match poll(&mut descriptors, PollTimeout::NONE) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error.into()),
    }
    let [progress, _] = descriptors;
    Ok(progress.revents().is_some_and(|events| !events.is_empty()))
}

/// The warden may do no more than its vmm, but for removing what was made for it.
fn confine_warden(plan: &Plan, cgroup: Option<&Cgroup>, watch: &mut Watch) -> Result<(), JailError> {
    std::env::set_current_dir("/").step("leave the folder")?;
    if plan.wants(Layer::ResourceLimits) {
        jail::set_resource_limits(plan).layer(Layer::ResourceLimits, "limit the warden's resources")?;
    }
    if plan.wants(Layer::Capabilities) {
        jail::forbid_capabilities().layer(Layer::Capabilities, "empty the warden's capability sets")?;
    }
    if plan.wants(Layer::Uid) {
        jail::become_user(plan.uid, plan.uid, &[WARDEN_GID]).layer(Layer::Uid, "make the warden another user")?;
    }
    if plan.wants(Layer::Capabilities) {
        jail::give_up_capabilities().layer(Layer::Capabilities, "give up the warden's capabilities")?;
    }
    prctl::set_no_new_privs().step("set no_new_privs")?;
    prctl::set_dumpable(false).step("forbid to trace the warden")?;
    if plan.wants(Layer::Landlock) {
        let folders = cgroup.map(Cgroup::folders).unwrap_or_default();
        let folders: Vec<&Path> = folders.iter().map(Folder::path).chain([plan.run_directory.as_path()]).collect();
        let enforced = unveil::all_but_folders(&folders, watch.tracer().folder()).map_err(io::Error::other);
        enforced.layer(Layer::Landlock, "hide everything from the warden but what it removes")?;
    }
    if plan.wants(Layer::Seccomp) {
        seccomp_filters::pledge(seccomp_filters::Role::Warden)
            .map_err(io::Error::other)
            .layer(Layer::Seccomp, "install the warden's filter")?;
    }
    Ok(())
}

fn end(child: Pid) {
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
}

fn monotonic_us() -> u64 {
    let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) else { return 0 };
    let seconds = u64::try_from(now.tv_sec()).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec()).unwrap_or(0);
    seconds.saturating_mul(1_000_000).saturating_add(nanoseconds / 1000)
}
