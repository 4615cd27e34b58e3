//! Runs attempts, each in a jail of its own, several at once.

use std::fs::File;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use stockade_jailer::plan::{Limits, Tracing};
use stockade_jailer::warden::ProcessEnd;
use stockade_prisoner::compatible::STREAM;
use stockade_prisoner::{ATTEMPT, COMPATIBLE, Description, Group, LIST, Report};
use stockade_supervisor::installation::Installation;

use crate::cell::{Blueprint, Cell, LIMITS, LIMITS_OF_OTHERS, Remains, path_of};
use crate::compatible::{self, Jail, Site};
use crate::error::{AttackError, Step};
use crate::machine;
use crate::program::Program;
use crate::targets::Targets;
use crate::verdict::{Condition, Entry, Mode, Outcome, Verdict};

/// Names of programs where an operator would have them.
const PRISONER: &str = "stockade-prisoner";
const IMAGE: &str = "image";
/// Where jails of compatible mode are.
const JAILS: &str = "jails";
const VMM: &str = "stockade-vmm";

/// How often, and after how long, a jail is made again whose user had too many processes.
const RETRIES: u32 = 20;
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// How signals are numbered that end a prisoner rightly: a filter's, and that of a control group without memory.
const SIGSYS: i32 = 31;
const SIGKILL: i32 = 9;
const SIGXFSZ: i32 = 25;

/// Told how many of how many attempts are over.
pub type Progress<'a> = &'a (dyn Fn(usize, usize) + Sync);

/// The hostile suite of one installation.
#[derive(Debug)]
pub struct Suite {
    jailer: File,
    prisoner: File,
    vmm: File,
    /// The prisoner as it is loaded into a vmm.
    program: Program,
    /// Programs and jails of compatible mode, which takes paths.
    folder: tempfile::TempDir,
    network: File,
    prefix: String,
    attempts: Vec<Description>,
    jails: AtomicU32,
}

/// Attempts that are still to be made.
type Jobs<'a> = Mutex<std::vec::IntoIter<(&'a Description, &'a Condition)>>;

impl Suite {
    /// The suite of an installation. Names of all that it makes begin with `prefix`: letters, digits and `-`.
    ///
    /// # Errors
    /// If the caller is not root, or a program is missing.
    pub fn open(installation: &Installation, prefix: &str) -> Result<Self, AttackError> {
        if !geteuid().is_root() {
            return Err(AttackError::NotRoot);
        }
        let (jailer, prisoner) = (installation.open_jailer()?, installation.open_prisoner()?);
        let vmm = installation.open_vmm()?;
        let listed =
            Command::new(path_of(&prisoner)).arg(LIST).env_clear().output().step("execute stockade-prisoner")?;
        let attempts = serde_json::from_slice(&listed.stdout).map_err(AttackError::List)?;
        let file = std::fs::read(path_of(&prisoner)).step("read stockade-prisoner")?;
        let program = Program::parse(file).ok_or(AttackError::Takeover("stockade-prisoner is no static program"))?;
        let folder = tempfile::Builder::new().prefix(&format!("attack-{prefix}-")).tempdir().step("make a folder")?;
        compatible::install(&path_of(&prisoner), folder.path(), PRISONER)?;
        compatible::install(&path_of(&prisoner), folder.path(), IMAGE)?;
        compatible::install(&path_of(&vmm), folder.path(), VMM)?;
        let network = compatible::empty_network()?;
        let jails = AtomicU32::new(0);
        allow_descriptors();
        Ok(Self { jailer, prisoner, vmm, program, folder, network, prefix: prefix.to_owned(), attempts, jails })
    }

    /// The attempts.
    pub fn attempts(&self) -> &[Description] {
        &self.attempts
    }

    /// Whether the host can run the guests of vmms whose threads are taken over.
    pub fn has_machines(&self) -> bool {
        File::options().read(true).write(true).open("/dev/kvm").is_ok()
    }

    /// Every jail of this mode that nothing is taken away of.
    pub fn conditions(&self, mode: Mode) -> Vec<Condition> {
        let threads = if self.has_machines() { Condition::every_thread(mode) } else { Vec::new() };
        let plain = (mode == Mode::Compatible).then(Condition::plain);
        Condition::every_phase(mode).into_iter().chain(threads).chain(plain).collect()
    }

    /// Makes every attempt in every one of these jails. The verdicts are in the order of conditions, then attempts.
    ///
    /// # Errors
    /// What keeps it from judging; nothing is left then.
    pub fn run(&self, conditions: &[Condition], progress: Progress<'_>) -> Result<Vec<Verdict>, AttackError> {
        let jobs: Vec<_> = conditions
            .iter()
            .flat_map(|condition| self.attempts.iter().map(move |attempt| (attempt, condition)))
            .collect();
        self.make(jobs, progress)
    }

    /// Makes these attempts alone, each in its jail. One that there isn't is left out.
    ///
    /// # Errors
    /// As [`run`](Self::run).
    pub fn run_selected(
        &self,
        selection: &[(&str, Condition)],
        progress: Progress<'_>,
    ) -> Result<Vec<Verdict>, AttackError> {
        let jobs = selection.iter().filter_map(|(name, condition)| Some((self.attempt(name)?, condition)));
        self.make(jobs.collect(), progress)
    }

    fn attempt(&self, name: &str) -> Option<&Description> {
        self.attempts.iter().find(|attempt| attempt.name == name)
    }

    fn make(&self, jobs: Vec<(&Description, &Condition)>, progress: Progress<'_>) -> Result<Vec<Verdict>, AttackError> {
        let order: Vec<_> = jobs.clone();
        let (total, done) = (jobs.len(), AtomicUsize::new(0));
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(total.max(1));
        let jobs: Jobs<'_> = Mutex::new(jobs.into_iter());
        let verdicts = Mutex::new(Vec::new());
        let failed = std::thread::scope(|scope| {
            let work = || -> Result<(), AttackError> {
                let mut worker = Worker { suite: self, targets: None };
                while let Some((attempt, condition)) = next(&jobs) {
                    let (name, condition) = (attempt.name.clone(), condition.clone());
                    let outcome = match worker.attempt_again(attempt, &condition) {
                        Ok(outcome) => outcome,
                        Err(source) => {
                            stop(&jobs);
                            return Err(AttackError::Attempt { attempt: name, condition, source: Box::new(source) });
                        }
                    };
                    let verdict = Verdict { attempt: name, condition, outcome };
                    lock(&verdicts).push(verdict);
                    progress(done.fetch_add(1, Ordering::Relaxed) + 1, total);
                }
                Ok(())
            };
            let threads: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            threads.into_iter().filter_map(|thread| thread.join().ok()).find_map(Result::err)
        });
        if let Some(error) = failed {
            return Err(error);
        }
        let mut verdicts = verdicts.into_inner().unwrap_or_default();
        verdicts.sort_by_key(|verdict| {
            order
                .iter()
                .position(|(attempt, condition)| attempt.name == verdict.attempt && **condition == verdict.condition)
        });
        Ok(verdicts)
    }

    pub(crate) fn name(&self) -> String {
        format!("{}-{}", self.prefix, self.jails.fetch_add(1, Ordering::Relaxed))
    }

    /// The prisoner's program, as it is loaded into others.
    pub(crate) fn program(&self) -> &Program {
        &self.program
    }

    pub(crate) fn jailer(&self) -> PathBuf {
        path_of(&self.jailer)
    }

    pub(crate) fn vmm(&self) -> PathBuf {
        path_of(&self.vmm)
    }

    pub(crate) fn prisoner(&self) -> PathBuf {
        path_of(&self.prisoner)
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn next<'a>(jobs: &Jobs<'a>) -> Option<(&'a Description, &'a Condition)> {
    lock(jobs).next()
}

/// Nobody is to begin with anything more.
fn stop(jobs: &Jobs<'_>) {
    *lock(jobs) = Vec::new().into_iter();
}

/// What is taken away from a jail is not to be missing already: as many descriptors as there can be.
fn allow_descriptors() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    // More is not to be had otherwise; the report shows what was.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
}

/// Makes one attempt after the other, against targets of its own.
struct Worker<'a> {
    suite: &'a Suite,
    targets: Option<Targets>,
}

impl Worker<'_> {
    /// Makes an attempt, later if that is what it takes: where jails lack a layer, a user's last processes can outlive its lease.
    fn attempt_again(&mut self, attempt: &Description, condition: &Condition) -> Result<Outcome, AttackError> {
        for _ in 0..RETRIES {
            match self.attempt(attempt, condition) {
                Err(error) if error.is_passing() => std::thread::sleep(RETRY_PAUSE),
                made => return made,
            }
        }
        self.attempt(attempt, condition)
    }

    fn attempt(&mut self, attempt: &Description, condition: &Condition) -> Result<Outcome, AttackError> {
        let mut targets = match self.targets.take() {
            Some(targets) => targets,
            None => Targets::make(&self.suite.name(), &self.suite.jailer(), &self.suite.prisoner())?,
        };
        let remains = self.run(&mut targets, attempt, condition)?;
        let harm = targets.harm()?;
        if harm.is_none() {
            self.targets = Some(targets);
        }
        Ok(judge(&remains, harm))
    }

    /// Makes an attempt, and says what is left of its jail.
    fn run(&self, targets: &mut Targets, attempt: &Description, condition: &Condition) -> Result<Remains, AttackError> {
        match (condition.mode, condition.entry) {
            (Mode::Sealed, Entry::Program) => self.in_sealed_jail(targets, attempt, condition),
            (Mode::Sealed, Entry::Thread) => self.in_sealed_vmm(targets, attempt, condition),
            (Mode::Compatible, entry) => self.in_compatible_jail(targets, attempt, condition, entry),
        }
    }

    fn in_sealed_jail(
        &self,
        targets: &Targets,
        attempt: &Description,
        condition: &Condition,
    ) -> Result<Remains, AttackError> {
        let (descriptors, _peer) = targets.descriptors()?;
        let cell = Cell::build(Blueprint {
            name: &self.suite.name(),
            jailer: &self.suite.jailer(),
            program: &self.suite.prisoner(),
            arguments: words(ATTEMPT, attempt, condition, targets)?,
            limits: limits(attempt).clone(),
            without: condition.layers(),
            shared_namespaces: condition.namespaces(),
            tracing: Tracing::Warden,
            descriptors,
        })?;
        cell.ended()
    }

    fn in_sealed_vmm(
        &self,
        targets: &mut Targets,
        attempt: &Description,
        condition: &Condition,
    ) -> Result<Remains, AttackError> {
        let (mut descriptors, _peer) = targets.descriptors()?;
        let name = self.suite.name();
        let (arguments, more) = machine::sealed_vmm(&name, &one_page_guest::image())?;
        descriptors.extend(more);
        let cell = Cell::build(Blueprint {
            name: &name,
            jailer: &self.suite.jailer(),
            program: &self.suite.vmm(),
            arguments,
            limits: limits(attempt).clone(),
            without: condition.layers(),
            shared_namespaces: condition.namespaces(),
            tracing: Tracing::Another,
            descriptors,
        })?;
        machine::await_guest(&cell)?;
        targets.allow_use_of_disk()?;
        let program = &self.suite.program;
        let seen = machine::attack(
            cell.pid(),
            condition.phase,
            program,
            &attempt.name,
            targets,
            &targets.folder().join("image"),
        )?;
        Ok(seen.in_jail(cell.ended()?))
    }

    fn in_compatible_jail(
        &self,
        targets: &Targets,
        attempt: &Description,
        condition: &Condition,
        entry: Entry,
    ) -> Result<Remains, AttackError> {
        let suite = self.suite;
        let (name, folder) = (suite.name(), suite.folder.path());
        let (base, image) = (folder.join(JAILS), folder.join(IMAGE));
        let program = folder.join(if entry == Entry::Thread { VMM } else { PRISONER });
        let site = Site::prepare(&base, &program, &name, condition)?;
        site.disks(&image)?;
        let listener = UnixListener::bind(site.root().join(STREAM)).step("listen for a prisoner")?;
        site.give(&site.root().join(STREAM))?;
        let arguments = match entry {
            Entry::Program => words(COMPATIBLE, attempt, condition, targets)?,
            Entry::Thread => machine::compatible_vmm(&site)?,
        };
        let mut jail = Jail::build(
            site,
            &compatible::Blueprint {
                name: &name,
                jailer: &suite.jailer(),
                keeper: &suite.prisoner(),
                base: &base,
                program: &program,
                arguments,
                limits: limits(attempt),
                network: &path_of(&suite.network),
                condition,
            },
        )?;
        if entry == Entry::Thread {
            machine::await_guest_of(&mut jail)?;
            let pid = jail.pid()?;
            let seen = machine::attack(pid, condition.phase, &suite.program, &attempt.name, targets, &image)?;
            return Ok(seen.in_jail(jail.ended(pid)?));
        }
        listener.set_nonblocking(true).step("listen for a prisoner")?;
        let (peer, _) = jail.wait_for(|_| listener.accept().ok())?;
        targets.betray(&peer)?;
        let pid = jail.pid()?;
        jail.ended(pid)
    }
}

/// What a prisoner hears.
fn words(
    mode: &str,
    attempt: &Description,
    condition: &Condition,
    targets: &Targets,
) -> Result<Vec<String>, AttackError> {
    let said = serde_json::to_string(targets.said()).map_err(std::io::Error::from).step("say what to attack")?;
    Ok(vec![mode.to_owned(), attempt.name.clone(), condition.phase.name().to_owned(), said])
}

/// Little processor time only for those who want much.
fn limits(attempt: &Description) -> &'static Limits {
    if attempt.group == Group::Resources { &LIMITS } else { &LIMITS_OF_OTHERS }
}

/// What came of an attempt, from what is left of its jail and of its targets.
pub(crate) fn judge(remains: &Remains, harm: Option<String>) -> Outcome {
    let harm: Vec<_> = remains.harm.iter().cloned().chain(harm).collect();
    let reported = serde_json::from_slice(&remains.report);
    match reported {
        Ok(Report::Succeeded(by)) => Outcome::Succeeded(std::iter::once(by).chain(harm).collect::<Vec<_>>().join("; ")),
        _ if !harm.is_empty() => Outcome::Succeeded(harm.join("; ")),
        Ok(Report::Refused(by)) => Outcome::Refused(by),
        Ok(Report::Absent(what)) => Outcome::Absent(what),
        Err(_) => match remains.end {
            ProcessEnd::Signaled(SIGSYS) => Outcome::Refused("killed by its filter".into()),
            ProcessEnd::Signaled(SIGKILL) => Outcome::Refused("killed for want of memory".into()),
            ProcessEnd::Signaled(SIGXFSZ) => Outcome::Refused("killed for a file that is too large".into()),
            _ => Outcome::Undecided(remains.message.clone()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(end: ProcessEnd, report: &str, harm: Option<&str>) -> Outcome {
        let remains = Remains { end, message: "ended".into(), report: report.into(), harm: None };
        judge(&remains, harm.map(String::from))
    }

    #[test]
    fn what_became_of_the_targets_counts_more_than_words() {
        let refused = r#"{"outcome":"refused","detail":"EPERM"}"#;
        let succeeded = r#"{"outcome":"succeeded","detail":"read"}"#;
        let exited = ProcessEnd::Exited(0);
        assert_eq!(judged(exited, refused, None), Outcome::Refused("EPERM".into()));
        assert_eq!(judged(exited, succeeded, None), Outcome::Succeeded("read".into()));
        assert!(judged(exited, refused, Some("a file was changed")).is_success());
        assert!(judged(ProcessEnd::Signaled(SIGSYS), "", Some("a file was changed")).is_success());
        assert!(judged(ProcessEnd::Signaled(SIGSYS), "", None).is_failure());
        for silent in [exited, ProcessEnd::Exited(1), ProcessEnd::Signaled(11)] {
            let outcome = judged(silent, "", None);
            assert!(!outcome.is_success() && !outcome.is_failure(), "{outcome}");
        }
    }
}
