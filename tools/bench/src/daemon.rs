//! Many virtual machines of one daemon at once: how fast they start, what they take, and how long clients wait meanwhile.
//!
//! The daemon has folders of its own, and is gone with all that it keeps when this is over. Processor time is that of the
//! daemon, and of every vmm and warden since it was born, which the load of the host changes less than the time on the wall.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use comfy_table::presets::UTF8_HORIZONTAL_ONLY;
use comfy_table::{CellAlignment, Table};
use serde::Serialize;
use stockade_api::request::{ResetScope, StopMode};
use stockade_api::{VmReference, VmSummary};
use stockade_client::{Client, ClientError};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::error::{Error, at};
use crate::footprint::{self, processor_time};
use crate::report::{decimals, median, milliseconds};

/// Memory of each guest.
const GUEST_MIB: u64 = 32;
/// How often the status is asked for.
const LOOKS: u32 = 50;
/// How long the daemon may take until it serves, and to do anything.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is to be measured.
#[derive(Debug)]
pub struct Load<'a> {
    /// `stockaded`, with Stockade's other programs beside it.
    pub daemon: &'a Path,
    /// How many virtual machines.
    pub vms: u32,
    /// How many starts are under way at a time.
    pub at_once: u32,
}

/// What was measured. Times of `processor_*` and memory are of one virtual machine.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    vms: u32,
    guest_mib: u64,
    starts_at_once: u32,
    starts_a_second: f64,
    start_median_ms: f64,
    processor_vmm_ms: f64,
    processor_warden_ms: f64,
    processor_daemon_ms: f64,
    private_vmm_kib: f64,
    private_warden_kib: f64,
    private_daemon_kib: f64,
    status_of_all_median_ms: f64,
    status_of_all_most_ms: f64,
    status_of_one_median_ms: f64,
    status_command_median_ms: f64,
    stops_a_second: f64,
}

/// Starts the virtual machines, looks at them, and stops them.
pub fn measure(load: &Load<'_>) -> Result<Report, Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(at("make a runtime for", load.daemon))?;
    let scratch = tempfile::Builder::new().prefix("stockade-bench-").tempdir();
    let scratch = scratch.map_err(at("make a folder in", &std::env::temp_dir()))?;
    let daemon = Daemon::start(load, scratch.path(), runtime)?;
    let mut report = Report { vms: load.vms, guest_mib: GUEST_MIB, starts_at_once: load.at_once, ..Report::default() };
    daemon.measure_starts(load, &mut report)?;
    daemon.measure_memory(&mut report)?;
    daemon.measure_status(&mut report)?;
    report.stops_a_second = daemon.stop_all(load)?;
    Ok(report)
}

/// A daemon, and what it keeps. Both are gone when this is dropped.
struct Daemon {
    process: Child,
    program: PathBuf,
    client: Client,
    runtime: Runtime,
}

impl Daemon {
    fn start(load: &Load<'_>, folder: &Path, runtime: Runtime) -> Result<Self, Error> {
        let kernel = folder.join("kernel");
        fs::write(&kernel, one_page_guest::image()).map_err(at("write", &kernel))?;
        let configuration = folder.join("vm.conf");
        let vm = |number| {
            let kernel = kernel.display();
            format!("vm \"{}\" {{\n\tboot \"{kernel}\"\n\tmemory {GUEST_MIB}M\n\tdisable\n}}\n", name(number))
        };
        let text: String = (0..load.vms).map(vm).collect();
        fs::write(&configuration, text).map_err(at("write", &configuration))?;
        let log = folder.join("log");
        let log_file = fs::File::create(&log).map_err(at("write", &log))?;
        let binaries = load.daemon.parent().unwrap_or(Path::new("."));
        let process = Command::new(load.daemon)
            .arg("-f")
            .arg(&configuration)
            .arg("--run-directory")
            .arg(folder.join("run"))
            .arg("--state-directory")
            .arg(folder.join("state"))
            .arg("--binaries")
            .arg(binaries)
            .stdin(Stdio::null())
            .stderr(log_file)
            .spawn()
            .map_err(at("execute", load.daemon))?;
        let client = Client::new(folder.join("run/control.sock"));
        let mut daemon = Self { process, program: load.daemon.to_owned(), client, runtime };
        let deadline = Instant::now() + PATIENCE;
        while daemon.runtime.block_on(daemon.client.version()).is_err() {
            let has_ended = daemon.process.try_wait().is_ok_and(|status| status.is_some());
            if has_ended || Instant::now() > deadline {
                let log = fs::read_to_string(&log).unwrap_or_default().trim().to_owned();
                return Err(Error::Silent { vmm: load.daemon.to_owned(), when: "never served".to_owned(), log });
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(daemon)
    }

    fn measure_starts(&self, load: &Load<'_>, report: &mut Report) -> Result<(), Error> {
        let before = self.own_processor_time()?;
        let begun = Instant::now();
        let times = self.each(load, |client, vm| async move { client.start(&vm).await.map(drop) })?;
        report.starts_a_second = f64::from(load.vms) / begun.elapsed().as_secs_f64();
        report.start_median_ms = median(times.into_iter().map(milliseconds).collect());
        report.processor_daemon_ms =
            milliseconds(self.own_processor_time()?.saturating_sub(before)) / f64::from(load.vms);
        Ok(())
    }

    fn measure_memory(&self, report: &mut Report) -> Result<(), Error> {
        let vms = self.list()?;
        let count = vms.len() as f64;
        for vm in vms.iter().filter_map(|vm| vm.pid).filter_map(|pid| u32::try_from(pid).ok()) {
            let warden = footprint::parent(vm)?;
            report.private_vmm_kib += footprint::private_kib(vm)? as f64 / count;
            report.private_warden_kib += footprint::private_kib(warden)? as f64 / count;
            report.processor_vmm_ms += milliseconds(processor_time(vm)?) / count;
            report.processor_warden_ms += milliseconds(processor_time(warden)?) / count;
        }
        for pid in self.processes()? {
            report.private_daemon_kib += footprint::private_kib(pid)? as f64 / count;
        }
        Ok(())
    }

    fn measure_status(&self, report: &mut Report) -> Result<(), Error> {
        let timed = |work: &dyn Fn() -> Result<(), Error>| -> Result<Vec<f64>, Error> {
            let time = |_| {
                let begun = Instant::now();
                work().map(|()| milliseconds(begun.elapsed()))
            };
            (0..LOOKS).map(time).collect()
        };
        let all = timed(&|| self.list().map(drop))?;
        report.status_of_all_most_ms = all.iter().copied().fold(0.0, f64::max);
        report.status_of_all_median_ms = median(all);
        report.status_of_one_median_ms =
            median(timed(&|| self.ask(self.client.show(&VmReference::Name(name(0)))).map(drop))?);
        let command = self.program.with_file_name("stockade");
        report.status_command_median_ms = median(timed(&|| {
            let mut status = Command::new(&command);
            let status = status.arg("status").arg("--socket").arg(self.client.socket()).stdout(Stdio::null()).status();
            let status = status.map_err(at("execute", &command))?;
            let failed = || at("execute", &command)(std::io::Error::other(status.to_string()));
            if status.success() { Ok(()) } else { Err(failed()) }
        })?);
        Ok(())
    }

    /// Stops all, and says how many in a second.
    fn stop_all(&self, load: &Load<'_>) -> Result<f64, Error> {
        let begun = Instant::now();
        self.each(load, |client, vm| async move { client.stop(&vm, StopMode::Force).await.map(drop) })?;
        Ok(f64::from(load.vms) / begun.elapsed().as_secs_f64())
    }

    /// Does something with each virtual machine, several at a time. Returns how long each took.
    fn each<F: Future<Output = Result<(), ClientError>> + Send + 'static>(
        &self,
        load: &Load<'_>,
        act: impl Fn(Client, VmReference) -> F,
    ) -> Result<Vec<Duration>, Error> {
        self.runtime.block_on(async {
            let (mut under_way, mut times) = (JoinSet::new(), Vec::new());
            let mut left = 0..load.vms;
            loop {
                while under_way.len() < load.at_once.max(1) as usize
                    && let Some(number) = left.next()
                {
                    let work = act(self.client.clone(), VmReference::Name(name(number)));
                    under_way.spawn(async move {
                        let begun = Instant::now();
                        work.await.map(|()| begun.elapsed())
                    });
                }
                let Some(done) = under_way.join_next().await else { return Ok(times) };
                let done = done.map_err(|error| self.failed(error))?;
                times.push(done.map_err(|error| self.failed(error))?);
            }
        })
    }

    fn list(&self) -> Result<Vec<VmSummary>, Error> {
        self.ask(self.client.list())
    }

    fn ask<T>(&self, request: impl Future<Output = Result<T, ClientError>>) -> Result<T, Error> {
        self.runtime.block_on(request).map_err(|error| self.failed(error))
    }

    fn failed(&self, error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        at("ask", &self.program)(std::io::Error::other(error))
    }

    fn own_processor_time(&self) -> Result<Duration, Error> {
        self.processes()?.into_iter().map(processor_time).sum()
    }

    /// The daemon's own processes: its parent, and its roles.
    fn processes(&self) -> Result<Vec<u32>, Error> {
        let parent = self.process.id();
        let mut processes = vec![parent];
        processes.extend(footprint::children(parent)?.into_iter().filter(|pid| {
            let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            command.starts_with(b"stockaded: ")
        }));
        Ok(processes)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Answered once nothing is left.
        let reset =
            self.runtime.block_on(async { tokio::time::timeout(PATIENCE, self.client.reset(ResetScope::All)).await });
        if !matches!(reset, Ok(Ok(()))) {
            eprintln!("stockade-bench: virtual machines of the daemon may be left");
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn name(number: u32) -> String {
    format!("bench-{}-{number}", std::process::id())
}

impl Report {
    /// Everything.
    pub fn to_json(&self) -> String {
        format!("{:#}\n", serde_json::json!(self))
    }
}

/// One row a figure, with its limit if it has one.
impl std::fmt::Display for Report {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut table = Table::new();
        table.load_preset(UTF8_HORIZONTAL_ONLY).set_header(["", "measured", "limit"]);
        let mut row = |name: &str, value: f64, limit: &str| {
            table.add_row([name.to_owned(), decimals(value), limit.to_owned()]);
        };
        row("starts a second", self.starts_a_second, "at least 50");
        row("start, ms, median", self.start_median_ms, "");
        row("processor time of a start: vmm, ms", self.processor_vmm_ms, "");
        row("processor time of a start: jailer and warden, ms", self.processor_warden_ms, "");
        row("processor time of a start: daemon, ms", self.processor_daemon_ms, "");
        row("private memory of a vmm, its guest's used pages included, KiB", self.private_vmm_kib, "");
        row("private memory of a warden, KiB", self.private_warden_kib, "");
        row("both, KiB", self.private_vmm_kib + self.private_warden_kib, "below 3072");
        row("the daemon's private memory, KiB a virtual machine", self.private_daemon_kib, "");
        row("status of all, ms, median", self.status_of_all_median_ms, "below 20");
        row("status of all, ms, most", self.status_of_all_most_ms, "");
        row("status of one, ms, median", self.status_of_one_median_ms, "");
        row("stockade status, ms, median", self.status_command_median_ms, "below 20");
        row("stops a second", self.stops_a_second, "");
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        writeln!(formatter, "{table}")?;
        let Self { vms, guest_mib, starts_at_once, .. } = self;
        write!(formatter, "{vms} one-page guests with {guest_mib} MiB each, {starts_at_once} starts at a time.")
    }
}
