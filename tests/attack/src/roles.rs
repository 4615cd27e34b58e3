//! Attempts that start from a process of the daemon, for the day that a client takes one over by what it writes.
//!
//! The daemon is a real one, with folders of its own, and the attempts are those that a taken-over vmm makes: the prisoner's
//! program is loaded into the role by ptrace(2), and has what the role has, which is its user, its root, its filter and its channel to
//! the daemon. A role lasts for one attempt; the daemon starts it again. What a role may *say* to the daemon is another matter, and
//! one of the daemon's own tests.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use stockade_confinement::{Process, Record, Status, identity};
use stockade_jailer::warden::ProcessEnd;
use stockade_prisoner::Description;
use stockade_supervisor::inspection::ROLES;
use stockade_supervisor::installation::Installation;

use crate::cell::{PATIENCE, Remains};
use crate::error::{AttackError, Step};
use crate::machine::attack_thread;
use crate::suite::{Progress, Suite, judge, lock};
use crate::takeover::Thread;
use crate::targets::Targets;
use crate::verdict::Outcome;

/// Between two looks at a role that is starting.
const GLANCE: Duration = Duration::from_millis(2);

/// What came of an attempt in a role of the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compromise {
    /// The role.
    pub role: String,
    /// Name of the attempt.
    pub attempt: String,
    /// What came of it.
    pub outcome: Outcome,
}

impl Compromise {
    /// Whether it came to nothing that says anything.
    pub fn is_undecided(&self) -> bool {
        !self.outcome.is_success() && !self.outcome.is_failure()
    }
}

impl fmt::Display for Compromise {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} (from {}) {}", self.attempt, self.role, self.outcome)
    }
}

impl Suite {
    /// Makes every attempt from this role of a daemon that is started for it.
    ///
    /// # Errors
    /// What keeps it from judging; nothing is left then.
    pub fn compromise(
        &self,
        installation: &Installation,
        role: &str,
        progress: Progress<'_>,
    ) -> Result<Vec<Compromise>, AttackError> {
        let jobs = Mutex::new(self.attempts().iter());
        let (total, done, found) = (self.attempts().len(), AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || -> Result<(), AttackError> {
            let daemon = Daemon::start(installation, &self.name())?;
            let mut attacker = Attacker { suite: self, daemon, role, targets: None, before: 0 };
            // Not in the condition of the loop, where the lock would be held until its end.
            while let Some(attempt) = { lock(&jobs).next() } {
                let outcome = attacker.attempt(attempt)?;
                lock(&found).push(Compromise { role: role.to_owned(), attempt: attempt.name.clone(), outcome });
                progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
            }
            Ok(())
        };
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        let failed = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).find_map(Result::err)
        });
        let mut found = found.into_inner().unwrap_or_default();
        found.sort_by_key(|one| self.attempts().iter().position(|attempt| attempt.name == one.attempt));
        failed.map_or(Ok(found), Err)
    }
}

struct Attacker<'a> {
    suite: &'a Suite,
    daemon: Daemon,
    role: &'a str,
    targets: Option<Targets>,
    /// The life of the role that the last attempt ended.
    before: u64,
}

impl Attacker<'_> {
    fn attempt(&mut self, attempt: &Description) -> Result<Outcome, AttackError> {
        let mut targets = match self.targets.take() {
            Some(targets) => targets,
            None => Targets::make(&self.suite.name(), &self.suite.jailer(), &self.suite.prisoner())?,
        };
        let (pid, life) = self.daemon.life_of(self.role, self.before)?;
        self.before = life;
        let seen = attack_thread(Thread::take(pid, pid)?, self.suite.program(), &attempt.name, &targets, "")?;
        let remains = Remains {
            end: ProcessEnd::Exited(0),
            message: "it said nothing".to_owned(),
            report: Vec::new(),
            harm: self.daemon.harm(),
        };
        let harm = targets.harm()?;
        if harm.is_none() {
            self.targets = Some(targets);
        }
        Ok(judge(&seen.in_jail(remains), harm))
    }
}

/// A daemon without virtual machines.
struct Daemon {
    folder: tempfile::TempDir,
    process: Child,
}

impl Daemon {
    fn start(installation: &Installation, name: &str) -> Result<Self, AttackError> {
        let folder = tempfile::Builder::new().prefix(&format!("attack-{name}-")).tempdir().step("make a folder")?;
        let configuration = folder.path().join("vm.conf");
        std::fs::write(&configuration, "").step("write vm.conf")?;
        let mut command = Command::new(installation.daemon());
        command.arg("-f").arg(configuration).arg("--run-directory").arg(folder.path().join("run"));
        command.arg("--state-directory").arg(folder.path().join("state"));
        command.arg("--binaries").arg(installation.directory());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = command.spawn().step("execute stockaded")?;
        Ok(Self { folder, process })
    }

    /// Process id of a role that is confined in full, and the number of its life, which is not this one.
    fn life_of(&mut self, role: &str, before: u64) -> Result<(i32, u64), AttackError> {
        let folder = self.roles().join(role);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if let Some(found) = confined(&folder).filter(|(_, life)| *life != before) {
                return Ok(found);
            }
            if let Some(harm) = self.harm() {
                return Err(io::Error::other(harm)).step("keep a daemon");
            }
            std::thread::sleep(GLANCE);
        }
        Err(AttackError::Takeover("the role does not start"))
    }

    /// What an attempt did to the daemon.
    fn harm(&mut self) -> Option<String> {
        let status = self.process.try_wait().ok().flatten()?;
        Some(format!("the daemon ended: {status}"))
    }

    fn roles(&self) -> PathBuf {
        self.folder.path().join("run").join(ROLES)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The process that the record in this folder is about, once it has its filter.
fn confined(folder: &Path) -> Option<(i32, u64)> {
    let record = Record::read(folder).ok()?;
    let process = Process::open(record.pid).ok()?;
    let is_it = identity(process.descriptor().ok()?).ok()? == record.identity;
    let status = std::fs::read_to_string(format!("/proc/{}/status", record.pid)).ok()?;
    let is_filtered = Status::parse(&status).ok()?.seccomp_filters >= Some(record.filters());
    // Where the kernel counts no processes, the number of the process is all there is.
    let life = record.identity ^ u64::from(record.pid.unsigned_abs()) << 40;
    (is_it && is_filtered).then_some((record.pid, life))
}
