//! Jailers alone: from the start of one, or of ten at once, to the first byte of what they execute, on a host with few mounts and
//! with 300 more.
//!
//! All of it happens in a mount namespace of this program, so that the host never sees the mounts, and they end with it. Each
//! jailer executes the same [`probe`], and all take turns with the probe without a jailer: what a jailer takes more than that is its
//! own time. The folder of jails is on the same file system as that of temporary files.

use std::fs::{self, File, Permissions};
use std::io::{PipeReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use crate::error::{Error, at};
use crate::probe;
use crate::report::{decimals, median, milliseconds};
use crate::sealed::{self, Warden};

/// Jailers that are started at once, and mounts beside those of the host.
const CELLS: [(usize, usize); 4] = [(1, 0), (10, 0), (1, 300), (10, 300)];
/// Name of the program in the vmm's place.
const PROGRAM: &str = "probe";
/// User and group of what is executed: nobody's.
const JAILED_ID: &str = "65534";
/// How long a jailer may take, milliseconds.
const PATIENCE_MS: u16 = 10_000;

/// A jailer, and the mode in which it is measured.
#[derive(Debug)]
pub struct Contestant {
    name: String,
    jailer: PathBuf,
    mode: Mode,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Chroot,
    Sealed,
    /// No jail, and no jailer.
    None,
}

/// What was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    program_bytes: usize,
    rounds: u32,
    cells: Vec<Cell>,
}

#[derive(Debug, Serialize)]
struct Cell {
    at_once: usize,
    mounts_beside: usize,
    contestants: Vec<Entry>,
}

#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    /// From the first start to the last byte.
    median_ms: f64,
    /// How much of that the jailer takes, if there is one.
    own_ms: Option<f64>,
    rounds_ms: Vec<f64>,
}

/// The jailers that take part.
pub fn contestants(own: &Path, peer: Option<&Path>) -> Result<Vec<Contestant>, Error> {
    let absolute = |path: &Path| path.canonicalize().map_err(at("find", path));
    let contestant = |name: &str, jailer, mode| Contestant { name: name.to_owned(), jailer, mode };
    let own = absolute(own)?;
    let mut all = vec![contestant("stockade, chroot jail", own.clone(), Mode::Chroot)];
    all.push(contestant("stockade, sealed jail", own, Mode::Sealed));
    if let Some(peer) = peer {
        all.push(contestant("peer, chroot jail", absolute(peer)?, Mode::Chroot));
    }
    all.push(contestant("no jailer", PROGRAM.into(), Mode::None));
    Ok(all)
}

/// Measures them, with a program as large as `vmm`.
pub fn measure(contestants: &[Contestant], vmm: &Path, rounds: u32) -> Result<Report, Error> {
    let bytes = fs::metadata(vmm).map_err(at("look at", vmm))?.len();
    let program_bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
    let scratch = tempfile::Builder::new().prefix("stockade-bench-").tempdir();
    let scratch = scratch.map_err(at("make a folder in", &std::env::temp_dir()))?;
    let site = Site::new(scratch.path(), program_bytes)?;
    leave_host()?;
    let mut cells = Vec::new();
    let mut mounted = 0;
    for (at_once, mounts_beside) in CELLS {
        site.mount(mounted..mounts_beside)?;
        mounted = mounted.max(mounts_beside);
        cells.push(site.cell(contestants, at_once, mounts_beside, rounds)?);
    }
    Ok(Report { program_bytes, rounds, cells })
}

/// Whatever is mounted from now on ends with this process.
fn leave_host() -> Result<(), Error> {
    let root = Path::new("/");
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| at("leave the mount namespace of", root)(errno.into()))?;
    let (none, private) = (None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(none, root, none, private, none).map_err(|errno| at("make private the mounts below", root)(errno.into()))
}

/// Where it happens.
struct Site<'a> {
    folder: &'a Path,
    program: PathBuf,
}

impl<'a> Site<'a> {
    fn new(folder: &'a Path, bytes: usize) -> Result<Self, Error> {
        for name in ["program", "base", "mounts", "sealed"] {
            let path = folder.join(name);
            fs::create_dir(&path).map_err(at("create", &path))?;
        }
        // Whoever a program runs as in its jail.
        fs::set_permissions(folder, Permissions::from_mode(0o755)).map_err(at("set the mode of", folder))?;
        let program = folder.join("program").join(PROGRAM);
        fs::write(&program, probe::image(bytes)).map_err(at("write", &program))?;
        fs::set_permissions(&program, Permissions::from_mode(0o755)).map_err(at("set the mode of", &program))?;
        Ok(Self { folder, program })
    }

    /// All are below one, with which they go.
    fn mount(&self, numbers: std::ops::Range<usize>) -> Result<(), Error> {
        let above = self.folder.join("mounts");
        for number in numbers {
            let path = if number == 0 { above.clone() } else { above.join(number.to_string()) };
            if number > 0 {
                fs::create_dir(&path).map_err(at("create", &path))?;
            }
            mount(Some("bench"), &path, Some("tmpfs"), MsFlags::empty(), None::<&str>)
                .map_err(|errno| at("mount", &path)(errno.into()))?;
        }
        Ok(())
    }

    fn cell(
        &self,
        contestants: &[Contestant],
        at_once: usize,
        mounts_beside: usize,
        rounds: u32,
    ) -> Result<Cell, Error> {
        let mut times: Vec<(&Contestant, Vec<f64>)> = contestants.iter().map(|one| (one, Vec::new())).collect();
        // The first one reads programs and makes what later ones find; it is not counted.
        for (contestant, _) in &times {
            self.round(contestant, at_once)?;
        }
        for number in 0..rounds {
            let mut order: Vec<_> = times.iter_mut().collect();
            if number % 2 == 1 {
                order.reverse();
            }
            for (contestant, done) in order {
                done.push(milliseconds(self.round(contestant, at_once)?));
            }
        }
        let without = times.iter().filter(|(contestant, _)| contestant.mode == Mode::None);
        let without_ms: f64 = without.map(|(_, rounds_ms)| median(rounds_ms.clone())).sum();
        let entry = |(contestant, rounds_ms): (&Contestant, Vec<f64>)| {
            let median_ms = median(rounds_ms.clone());
            let own_ms = (contestant.mode != Mode::None).then_some(median_ms - without_ms);
            Entry { name: contestant.name.clone(), median_ms, own_ms, rounds_ms }
        };
        Ok(Cell { at_once, mounts_beside, contestants: times.into_iter().map(entry).collect() })
    }

    /// Starts jailers, and returns what the last of them took, counted from the first.
    fn round(&self, contestant: &Contestant, at_once: usize) -> Result<Duration, Error> {
        let (mut heard, said) = std::io::pipe().map_err(at("make a pipe for", &contestant.jailer))?;
        let mut started = Started { mode: contestant.mode, children: Vec::new(), wardens: Vec::new() };
        let mut commands = Vec::new();
        for number in 0..at_once {
            let (mut command, warden) = self.command(contestant, number)?;
            started.wardens.extend(warden);
            let said = said.try_clone().map_err(at("make a pipe for", &contestant.jailer))?;
            let log = File::create(self.log(number)).map_err(at("create", &self.log(number)))?;
            command.env_clear().stdin(Stdio::null()).stdout(said).stderr(log);
            commands.push(command);
        }
        drop(said);
        let begin = Instant::now();
        for command in &mut commands {
            started.children.push(command.spawn().map_err(at("start", &contestant.jailer))?);
        }
        for _ in 0..at_once {
            self.hear(contestant, &mut heard)?;
        }
        let took = begin.elapsed();
        // Theirs are the other ends of the wardens' sockets.
        drop(commands);
        started.wardens.iter().try_for_each(Warden::finish)?;
        for child in &mut started.children {
            child.wait().map_err(at("wait for", &contestant.jailer))?;
        }
        drop(started);
        self.clear()?;
        Ok(took)
    }

    fn command(&self, contestant: &Contestant, number: usize) -> Result<(Command, Option<Warden>), Error> {
        if contestant.mode == Mode::Sealed {
            let folder = self.folder.join("sealed").join(number.to_string());
            fs::create_dir(&folder).map_err(at("create", &folder))?;
            let (command, warden) = sealed::prepare_alone(&contestant.jailer, &self.program, &folder, number)?;
            return Ok((command, Some(warden)));
        }
        if contestant.mode == Mode::None {
            return Ok((Command::new(&self.program), None));
        }
        let mut command = Command::new(&contestant.jailer);
        let id = format!("bench-{number}");
        command.args(["--id", &id, "--uid", JAILED_ID, "--gid", JAILED_ID, "--exec-file"]).arg(&self.program);
        command.arg("--chroot-base-dir").arg(self.folder.join("base")).arg("--");
        Ok((command, None))
    }

    fn log(&self, number: usize) -> PathBuf {
        self.folder.join(format!("log-{number}"))
    }

    fn hear(&self, contestant: &Contestant, heard: &mut PipeReader) -> Result<(), Error> {
        let mut ready = [PollFd::new(std::os::fd::AsFd::as_fd(heard), PollFlags::POLLIN)];
        let count = poll(&mut ready, PollTimeout::from(PATIENCE_MS));
        let count = count.map_err(|errno| at("wait for", &contestant.jailer)(errno.into()))?;
        let mut byte = [0];
        let read = if count == 0 { 0 } else { heard.read(&mut byte).map_err(at("hear from", &contestant.jailer))? };
        if read == 1 && byte == [probe::BYTE] {
            return Ok(());
        }
        let logs = (0..).map(|number| fs::read_to_string(self.log(number))).map_while(Result::ok);
        let log = logs.map(|text| text.trim().to_owned()).find(|text| !text.is_empty()).unwrap_or_default();
        Err(Error::Silent { vmm: contestant.jailer.clone(), when: "executed nothing".to_owned(), log })
    }

    fn clear(&self) -> Result<(), Error> {
        for name in ["base", "sealed"] {
            let path = self.folder.join(name);
            fs::remove_dir_all(&path).and_then(|()| fs::create_dir(&path)).map_err(at("empty", &path))?;
        }
        Ok(())
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        // Fails if nothing is mounted there yet. A folder with mounts in it could not be removed.
        let _ = umount2(&self.folder.join("mounts"), MntFlags::MNT_DETACH);
    }
}

/// Jailers, and what they have become. Ended when dropped, if they are not yet.
struct Started {
    mode: Mode,
    children: Vec<Child>,
    wardens: Vec<Warden>,
}

impl Drop for Started {
    fn drop(&mut self) {
        // A warden that nobody listens to ends its vmm, and removes what was made for it.
        self.wardens.clear();
        for child in &mut self.children {
            if self.mode != Mode::Sealed {
                // Fails if it has ended already.
                let _ = child.kill();
            }
            let _ = child.wait();
        }
    }
}

impl Report {
    /// Everything, round by round.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", serde_json::json!(self))
    }
}

/// Two rows a cell; the times of each but the first are followed by how many times the first's they are.
impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut table = Table::new();
        table.load_preset(UTF8_HORIZONTAL_ONLY);
        let Some(first) = self.cells.first() else { return Ok(()) };
        let headings = first.contestants.iter().enumerate().flat_map(|(index, entry)| {
            let ratio = (index > 0 && entry.own_ms.is_some()).then(|| "ratio".to_owned());
            [Some(entry.name.clone()), ratio].into_iter().flatten()
        });
        table.set_header(["median, ms".to_owned()].into_iter().chain(headings));
        for Cell { at_once, mounts_beside, contestants } in &self.cells {
            let cell = format!("{at_once} at once, {mounts_beside} more mounts");
            for (name, time) in [
                (format!("{cell}: all"), (|entry| Some(entry.median_ms)) as fn(&Entry) -> Option<f64>),
                ("  the jailer's own".to_owned(), |entry| entry.own_ms),
            ] {
                let mut row = vec![name];
                let first = contestants.first().and_then(time).unwrap_or(f64::NAN);
                for (index, entry) in contestants.iter().enumerate() {
                    row.push(time(entry).map_or_else(String::new, decimals));
                    let ratio = time(entry).filter(|_| index > 0 && entry.own_ms.is_some());
                    row.extend(ratio.map(|time| format!("{:.2}", time / first)));
                }
                table.add_row(row);
            }
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(formatter, "{table}")?;
        let kib = self.program_bytes / 1024;
        write!(
            formatter,
            "{} rounds each, of a program of {kib} KiB that does nothing, after one uncounted.",
            self.rounds
        )
    }
}
