//! One start of a guest, timed step by step.

use std::io::Read;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use crate::client::Client;
use crate::contestant::{Contestant, Running};
use crate::error::{Error, at};
use crate::footprint::{self, Footprint};

/// Memory of the guest.
pub const GUEST_MIB: u64 = 128;

/// How long the guest sleeps already when memory is measured.
const SETTLE: Duration = Duration::from_millis(20);
/// How long the vmm may take until it listens.
const PATIENCE: Duration = Duration::from_secs(10);
/// Time between two attempts to connect.
const POLL: Duration = Duration::from_micros(20);

/// What one start took.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Round {
    /// From before the process was made to its first answer.
    #[serde(rename = "spawn_to_api_us", serialize_with = "microseconds")]
    pub api: Duration,
    /// Two requests: the machine and what it boots.
    #[serde(rename = "configure_us", serialize_with = "microseconds")]
    pub configure: Duration,
    /// From the request to start to the guest's first byte.
    #[serde(rename = "start_to_first_byte_us", serialize_with = "microseconds")]
    pub first_byte: Duration,
    /// The three together.
    #[serde(rename = "total_us", serialize_with = "microseconds")]
    pub total: Duration,
    /// From the request to pause the halted guest to the answer.
    #[serde(rename = "pause_us", serialize_with = "microseconds")]
    pub pause: Duration,
    /// Memory while the guest is halted.
    #[serde(flatten)]
    pub footprint: Footprint,
    /// Threads with a system call filter.
    pub filtered_threads: usize,
    /// Threads.
    pub threads: usize,
}

fn microseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX))
}

/// Starts a guest with the contestant, measures, and kills it.
pub fn run(contestant: &Contestant, scratch: &Path) -> Result<Round, Error> {
    let folder = tempfile::Builder::new().prefix("round-").tempdir_in(scratch);
    let folder = folder.map_err(at("make a folder in", scratch))?;
    let prepared = contestant.prepare(folder.path())?;
    let kernel = prepared.kernel.clone();
    let spawned = Instant::now();
    let mut running = prepared.spawn()?;
    let round = start(&mut running, spawned, &kernel);
    if round.is_err() {
        // That the vmm died says more than that its socket was closed.
        std::thread::sleep(SETTLE);
        running.expect_alive()?;
    }
    running.end()?;
    round
}

fn start(running: &mut Running, spawned: Instant, kernel: &Path) -> Result<Round, Error> {
    let mut client = connect(running)?;
    client.request("/", None)?;
    let answered = Instant::now();
    client.request("/machine-config", Some(&json!({ "vcpu_count": 1, "mem_size_mib": GUEST_MIB })))?;
    client.request("/boot-source", Some(&json!({ "kernel_image_path": kernel, "boot_args": "" })))?;
    let configured = Instant::now();
    client.send("PUT", "/actions", &json!({ "action_type": "InstanceStart" }).to_string())?;
    wait_for_first_byte(running)?;
    let ran = Instant::now();
    client.receive("PUT /actions")?;

    std::thread::sleep(SETTLE);
    let pid = running.vmm_pid()?;
    let footprint = footprint::measure(pid)?;
    let (filtered_threads, threads) = footprint::filtered_threads(pid)?;
    let settled = Instant::now();
    client.send("PATCH", "/vm", &json!({ "state": "Paused" }).to_string())?;
    client.receive("PATCH /vm")?;
    Ok(Round {
        pause: settled.elapsed(),
        api: answered - spawned,
        configure: configured - answered,
        first_byte: ran - configured,
        total: ran - spawned,
        footprint,
        filtered_threads,
        threads,
    })
}

fn connect(running: &mut Running) -> Result<Client, Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(client) = Client::connect(&running.socket)? {
            return Ok(client);
        }
        running.expect_alive()?;
        if Instant::now() > deadline {
            return Err(running.silent("does not listen"));
        }
        std::thread::sleep(POLL);
    }
}

/// Reads the console, and what the vmm itself may write there, up to the guest's byte.
fn wait_for_first_byte(running: &mut Running) -> Result<(), Error> {
    let mut buffer = [0; 4096];
    loop {
        let count = running.wait_for_output()?.read(&mut buffer).map_err(at("read the console of", &running.vmm))?;
        if count == 0 {
            return Err(running.silent("ended before the guest wrote"));
        }
        if buffer.iter().take(count).any(|byte| *byte == one_page_guest::FIRST_BYTE) {
            return Ok(());
        }
    }
}
