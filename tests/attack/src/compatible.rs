//! A jail of compatible mode, made by the jailer's command line, with a prisoner or a vmm in it.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use stockade_jailer::plan::{Layer, Limits, NamespaceKind};
use stockade_jailer::warden::ProcessEnd;
use stockade_prisoner::{DISK_BYTES, KEEP, compatible, descriptor};
use stockade_supervisor::machine::run_directory::RunDirectory;
use stockade_supervisor::machine::state::{Claim, State};
use stockade_supervisor::request::VmName;

use crate::cell::{PATIENCE, Remains, read_what_is_there};
use crate::error::{AttackError, Step};
use crate::verdict::Condition;

/// The control group that those of sealed jails are in, too.
const PARENT: &str = "stockade";
/// Most bytes of a file: more than a program that is copied has, less than what fills a disk.
const FILE_BYTES: u64 = 16 << 20;
/// What is kept of the words of a jailer that refuses.
const WORDS_BYTES: u64 = 4096;

/// Whose a jail is, and what is in it.
pub(crate) struct Blueprint<'a> {
    pub(crate) name: &'a str,
    pub(crate) jailer: &'a Path,
    /// A prisoner's program, to wait for all that there will be.
    pub(crate) keeper: &'a Path,
    /// Where jails are made.
    pub(crate) base: &'a Path,
    /// What is executed: in a folder, and with one name, as an operator has it.
    pub(crate) program: &'a Path,
    pub(crate) arguments: Vec<String>,
    pub(crate) limits: &'a Limits,
    /// The network namespace that it is in, unless the condition takes that away.
    pub(crate) network: &'a Path,
    pub(crate) condition: &'a Condition,
}

/// The folder of a jail that is not made yet.
pub(crate) struct Site {
    folder: PathBuf,
    root: PathBuf,
    uid: u32,
    /// Who the vmm will be: root, if that layer is taken away.
    owner: u32,
    // Its lease is on the user id, and nobody else has the name.
    _lease: OwnedFd,
    _run_directory: RunDirectory,
}

impl Site {
    /// Makes it, for a user that no other jail has.
    pub(crate) fn prepare(base: &Path, program: &Path, name: &str, condition: &Condition) -> Result<Self, AttackError> {
        let state = State::of_caller();
        state.prepare()?;
        let vm: VmName = name.parse().map_err(AttackError::Name)?;
        let Claim { uid, lease, run_directory } = state.claim(&vm)?;
        let folder = base.join(program.file_name().unwrap_or_default()).join(name);
        let root = folder.join("root");
        let owner = if condition.layers().contains(&Layer::Uid) { 0 } else { uid };
        let site = Self { folder, root, uid, owner, _lease: lease, _run_directory: run_directory };
        std::fs::create_dir_all(&site.root).step("make a jail's folder")?;
        site.give(&site.root)?;
        Ok(site)
    }

    /// What will be the root directory.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Puts a file there that belongs to the vmm.
    pub(crate) fn file(&self, name: &str, content: &[u8]) -> Result<(), AttackError> {
        let path = self.root.join(name);
        std::fs::write(&path, content).step("fill a jail's folder")?;
        self.give(&path)
    }

    /// Puts what a vmm has for disks there: an image that is root's, and a disk that is its own.
    pub(crate) fn disks(&self, image: &Path) -> Result<(), AttackError> {
        std::fs::hard_link(image, self.root.join(compatible::IMAGE)).step("fill a jail's folder")?;
        self.file(compatible::DISK, &vec![1; usize::try_from(DISK_BYTES).unwrap_or(0)])
    }

    /// Gives a path to the vmm's user.
    pub(crate) fn give(&self, path: &Path) -> Result<(), AttackError> {
        chown(path, Some(self.owner), Some(self.owner)).step("fill a jail's folder")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
        let name = self.folder.file_name().unwrap_or_default().to_string_lossy();
        let _ = stockade_jailer::cgroup::sweep(&name);
    }
}

/// A jail that is made.
pub(crate) struct Jail {
    keeper: Child,
    ends: PipeReader,
    output: PipeReader,
    errors: PipeReader,
    start: Option<PipeWriter>,
    pid_file: PathBuf,
    deadline: Instant,
    // Last, as it can be removed only when nobody is in it.
    _site: Site,
}

impl Jail {
    /// Has the jailer make it.
    pub(crate) fn build(site: Site, blueprint: &Blueprint<'_>) -> Result<Self, AttackError> {
        let (start_end, start) = io::pipe().step("make a pipe")?;
        let (output, output_end) = io::pipe().step("make a pipe")?;
        let (errors, errors_end) = io::pipe().step("make a pipe")?;
        let (ends, ends_end) = io::pipe().step("make a pipe")?;
        let mut command = Command::new(blueprint.keeper);
        command.arg(KEEP).arg(blueprint.jailer).args(options(blueprint, site.uid));
        command.arg("--").args(&blueprint.arguments).env_clear().current_dir(&site.root);
        command.stdin(start_end).stdout(output_end).stderr(errors_end);
        let mapping = FdMapping { parent_fd: ends_end.into(), child_fd: descriptor::REPORT };
        command.fd_mappings(vec![mapping]).map_err(io::Error::other).step("hand over descriptors")?;
        let keeper = command.spawn().step("execute stockade-prisoner")?;
        // With it go the ends that the processes have by now.
        drop(command);
        let mut pid_file = blueprint.program.file_name().unwrap_or_default().to_owned();
        pid_file.push(".pid");
        let pid_file = site.root.join(pid_file);
        let deadline = Instant::now() + PATIENCE;
        Ok(Self { keeper, ends, output, errors, start: Some(start), pid_file, deadline, _site: site })
    }

    /// Asks again and again until there is an answer, for as long as there is anybody.
    pub(crate) fn wait_for<T>(&mut self, mut ask: impl FnMut(&Self) -> Option<T>) -> Result<T, AttackError> {
        loop {
            if let Some(answer) = ask(self) {
                return Ok(answer);
            }
            if Instant::now() > self.deadline || !matches!(self.keeper.try_wait(), Ok(None)) {
                let mut words = String::new();
                let _ = rustix::io::ioctl_fionbio(&self.errors, true);
                let _ = (&mut self.errors).take(WORDS_BYTES).read_to_string(&mut words);
                return Err(AttackError::Refused(words.trim().to_owned()));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// Process id of what is in it, as the jailer wrote it down.
    pub(crate) fn pid(&mut self) -> Result<i32, AttackError> {
        self.wait_for(|jail| std::fs::read_to_string(&jail.pid_file).ok()?.parse().ok())
    }

    /// What it writes to standard output.
    pub(crate) fn output(&mut self) -> &mut PipeReader {
        &mut self.output
    }

    /// Lets an attempt begin, and waits for its end and for that of all it leaves behind.
    pub(crate) fn ended(mut self, pid: i32) -> Result<Remains, AttackError> {
        drop(self.start.take());
        let errors = self.errors.try_clone().step("read standard error")?;
        let drain = std::thread::spawn(move || io::copy(&mut &errors, &mut io::sink()));
        while matches!(self.keeper.try_wait(), Ok(None)) {
            if Instant::now() > self.deadline {
                return Err(AttackError::Warden(format!("no end in {} seconds", PATIENCE.as_secs())));
            }
            std::thread::sleep(Duration::from_micros(200));
        }
        let _ = drain.join();
        let mut ends = String::new();
        self.ends.read_to_string(&mut ends).step("hear from stockade-prisoner")?;
        let end = ends.lines().find_map(|line| end_of(line, pid));
        let end = end.ok_or_else(|| AttackError::Warden(format!("nobody saw process {pid} end")))?;
        let report = read_what_is_there(&mut self.output);
        Ok(Remains { end, message: format!("{end:?}"), report, harm: None })
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        // Nothing, if all went well.
        if matches!(self.keeper.try_wait(), Ok(None)) {
            let pid = std::fs::read_to_string(&self.pid_file).ok().and_then(|text| text.parse().ok());
            if let Some(pid) = pid.and_then(rustix::process::Pid::from_raw) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            let _ = self.keeper.kill();
        }
        let _ = self.keeper.wait();
    }
}

/// How process `pid` ended, if this line is about it.
fn end_of(line: &str, pid: i32) -> Option<ProcessEnd> {
    let (process, status) = line.split_once(' ')?;
    let status: i32 = status.parse().ok().filter(|_| process.parse() == Ok(pid))?;
    let signal = status & 0x7f;
    Some(if signal == 0 { ProcessEnd::Exited(status >> 8 & 0xff) } else { ProcessEnd::Signaled(signal) })
}

/// The jailer's options.
fn options(blueprint: &Blueprint<'_>, uid: u32) -> Vec<String> {
    let Blueprint { condition, limits, .. } = blueprint;
    let mut options: Vec<String> = Vec::new();
    let mut add = |option: &str, value: String| options.extend([option.to_owned(), value]);
    add("--id", blueprint.name.to_owned());
    add("--exec-file", blueprint.program.display().to_string());
    add("--uid", uid.to_string());
    add("--gid", uid.to_string());
    add("--chroot-base-dir", blueprint.base.display().to_string());
    add("--parent-cgroup", PARENT.to_owned());
    let (layers, namespaces) = (condition.layers(), condition.namespaces());
    for layer in &layers {
        add("--without", layer.name().to_owned());
    }
    for kind in namespaces.iter().filter(|kind| !matches!(kind, NamespaceKind::Pid | NamespaceKind::Network)) {
        add("--without", format!("{}-namespace", kind.name()));
    }
    if !layers.contains(&Layer::ResourceLimits) {
        add("--resource-limit", format!("fsize={FILE_BYTES}"));
        add("--resource-limit", format!("processes={}", limits.processes + 1));
    }
    if !layers.contains(&Layer::Cgroup) {
        cgroup(limits).into_iter().for_each(|(option, value)| add(option, value));
    }
    if !namespaces.contains(&NamespaceKind::Network) {
        add("--netns", blueprint.network.display().to_string());
    }
    if !namespaces.contains(&NamespaceKind::Pid) {
        options.push("--new-pid-ns".to_owned());
    }
    options
}

/// The limits as files of control groups, of the version that the host has.
fn cgroup(limits: &Limits) -> Vec<(&'static str, String)> {
    const PERIOD_US: u32 = 100_000;
    let quota = limits.cpu_percent * PERIOD_US / 100;
    let value = |file: &str, value: String| ("--cgroup", format!("{file}={value}"));
    if Path::new("/sys/fs/cgroup/memory/cgroup.procs").exists() {
        return vec![
            value("memory.limit_in_bytes", limits.memory_bytes.to_string()),
            value("cpu.cfs_quota_us", quota.to_string()),
            value("pids.max", limits.processes.to_string()),
        ];
    }
    vec![
        ("--cgroup-version", "2".to_owned()),
        value("memory.max", limits.memory_bytes.to_string()),
        value("cpu.max", format!("{quota} {PERIOD_US}")),
        value("pids.max", limits.processes.to_string()),
    ]
}

/// An empty network namespace, for as long as this is open.
pub(crate) fn empty_network() -> Result<File, AttackError> {
    let made = std::thread::spawn(|| {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        File::open("/proc/thread-self/ns/net")
    });
    made.join().unwrap_or_else(|_| Err(io::Error::other("the thread ended"))).step("make a network namespace")
}

/// Copies a program to where an operator would have it.
pub(crate) fn install(program: &Path, folder: &Path, name: &str) -> Result<PathBuf, AttackError> {
    let path = folder.join(name);
    std::fs::copy(program, &path).step("copy a program")?;
    std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).step("copy a program")?;
    Ok(path)
}
