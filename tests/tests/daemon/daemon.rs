//! A daemon of a test, and its clients.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use stockade_tests::guest::{Guest, Protocol};
use stockade_tests::output::Output;
use stockade_tests::{Need, PATIENCE, Scratch, process, program, wait_for};

/// What every test here needs.
pub const NEEDS: &[Need] = &[Need::Kvm, Need::Root];

/// Most lines of a log of daemons that were killed.
const MOST_LINES: usize = 200;

/// A daemon, which is killed with everything that it keeps when the test is over.
pub struct Daemon<'a> {
    scratch: &'a Scratch,
    process: Option<(Child, Output)>,
    /// What those said that came before it.
    history: String,
}

/// What was answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub body: Value,
}

impl Answer {
    /// The body of a success.
    pub fn ok(self) -> Value {
        assert!((200..300).contains(&self.status), "{self:?}");
        self.body
    }

    /// The code of a failure.
    pub fn code(self) -> String {
        assert!(self.status >= 400, "{self:?}");
        for field in ["message", "remedy"] {
            assert!(self.body[field].is_string(), "{self:?}");
        }
        self.body["code"].as_str().unwrap().to_owned()
    }
}

impl<'a> Daemon<'a> {
    /// One that does not run yet.
    pub fn new(scratch: &'a Scratch) -> Self {
        Self { scratch, process: None, history: String::new() }
    }

    /// Starts one with this configuration, and waits until it serves. `$tag` in it is a name that belongs to the test.
    pub fn start(scratch: &'a Scratch, configuration: &str) -> Self {
        let mut daemon = Self::with(scratch, configuration);
        daemon.run();
        daemon
    }

    /// One with this configuration that does not run yet.
    pub fn with(scratch: &'a Scratch, configuration: &str) -> Self {
        let daemon = Self::new(scratch);
        daemon.configure(configuration);
        daemon
    }

    /// Puts another configuration in the place of the one that is there.
    pub fn configure(&self, configuration: &str) {
        let new = self.scratch.file("vm.conf.new", configuration);
        std::fs::rename(new, self.scratch.join("vm.conf")).unwrap();
    }

    /// Starts it (again), and waits until it serves.
    pub fn run(&mut self) {
        self.spawn();
        self.wait_until_it_serves();
    }

    /// Starts it (again) by this command, to which it adds where everything is, and waits until it serves.
    pub fn run_by(&mut self, command: Command) {
        self.spawn_by(command);
        self.wait_until_it_serves();
    }

    /// Starts it (again).
    pub fn spawn(&mut self) {
        let mut command = Command::new(program("stockaded"));
        command.arg("--binaries").arg(stockade_tests::distribution());
        self.spawn_by(command);
    }

    fn spawn_by(&mut self, mut command: Command) {
        command.arg("-f").arg(self.scratch.join("vm.conf"));
        command.arg("--run-directory").arg(self.run_directory());
        command.arg("--state-directory").arg(self.scratch.join("state"));
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Output::collect(child.stderr.take().unwrap());
        self.process = Some((child, log));
    }

    /// Waits until it serves.
    pub fn wait_until_it_serves(&self) {
        let served = || self.try_request("GET", "version", None).filter(|answer| answer.status == 200);
        wait_for("the daemon to serve", || {
            assert!(self.is_alive(), "{}", self.log());
            served()
        });
    }

    fn is_alive(&self) -> bool {
        process::status_field(self.pid(), "State").is_some_and(|state| !state.starts_with('Z'))
    }

    pub fn run_directory(&self) -> PathBuf {
        self.scratch.join("run")
    }

    pub fn socket(&self) -> PathBuf {
        self.run_directory().join("control.sock")
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.process.as_ref().unwrap().0.id()).unwrap()
    }

    pub fn log(&self) -> String {
        self.process.as_ref().map(|(_, log)| log.text()).unwrap_or_default()
    }

    /// Kills it, and waits until it is gone.
    pub fn kill(&mut self) {
        let (mut child, log) = self.process.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        self.history.push_str(&log.text());
        self.history.push_str("killed\n");
    }

    /// Waits until it is gone after a signal that kills.
    pub fn wait_for_death(&mut self) {
        let (mut child, _) = self.process.take().unwrap();
        child.wait().unwrap();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).unwrap();
    }

    /// Waits for its own end. Returns its exit code.
    pub fn wait(&mut self) -> i32 {
        let (mut child, log) = self.process.take().unwrap();
        let status = wait_for("the daemon to end", || child.try_wait().unwrap());
        status.code().unwrap_or_else(|| panic!("{status:?}: {}", log.text()))
    }

    pub fn get(&self, path: &str) -> Answer {
        self.request("GET", path, None)
    }

    pub fn post(&self, path: &str) -> Answer {
        self.request("POST", path, None)
    }

    pub fn post_json(&self, path: &str, body: Value) -> Answer {
        self.request("POST", path, Some(body))
    }

    fn request(&self, method: &str, path: &str, body: Option<Value>) -> Answer {
        self.try_request(method, path, body).unwrap_or_else(|| panic!("no answer to {method} {path}: {}", self.log()))
    }

    /// One request on a connection of its own; nothing if that breaks off.
    pub fn try_request(&self, method: &str, path: &str, body: Option<Value>) -> Option<Answer> {
        let mut stream = UnixStream::connect(self.socket()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(http(method, path, body).as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        answer(&text)
    }

    /// What is known of a virtual machine.
    pub fn vm(&self, name: &str) -> Value {
        self.get(&format!("vms/{name}")).ok()
    }

    pub fn state(&self, name: &str) -> String {
        self.vm(name)["state"].as_str().unwrap().to_owned()
    }

    /// Waits until it is in this state.
    pub fn wait_for_state(&self, name: &str, state: &str) -> Value {
        let what = format!("{name} to be {state}: {}", self.log());
        wait_for(&what, || Some(self.vm(name)).filter(|vm| vm["state"] == state))
    }

    /// Ends it at once.
    pub fn force(&self, name: &str) -> Value {
        self.post_json(&format!("vms/{name}/stop"), json!({ "mode": "force" })).ok()["exit"].clone()
    }

    /// The console so far.
    pub fn console(&self, id: &Value) -> String {
        let path = self.run_directory().join("daemon/consoles").join(id.to_string());
        let bytes = std::fs::read(path).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(8..).unwrap_or_default()).into_owned()
    }

    /// Names of what is in a folder below the run directory.
    pub fn entries(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.run_directory().join(folder)).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Ends everything that the daemon keeps.
impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log: Vec<_> = self.history.lines().collect();
            let log = log.iter().skip(log.len().saturating_sub(MOST_LINES)).copied().collect::<Vec<_>>().join("\n");
            eprintln!("the daemon's log:\n{log}\n{}", self.log());
        }
        if self.process.is_some() {
            // Answered once everything is gone.
            let _ = self.try_request("POST", "reset", None);
            self.kill();
        }
    }
}

pub fn http(method: &str, path: &str, body: Option<Value>) -> String {
    let head = format!("{method} /v1/{path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    let Some(body) = body.map(|body| body.to_string()) else { return format!("{head}\r\n") };
    format!("{head}content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

pub fn answer(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let body = if body.is_empty() { Value::Null } else { serde_json::from_str(body).ok()? };
    Some(Answer { status, body })
}

/// A configuration of virtual machines: name, guest, and what is in their blocks besides.
pub fn configuration(scratch: &Scratch, vms: &[(&str, Guest, &str)]) -> String {
    let vm = |(name, guest, more): &(&str, Guest, &str)| {
        let kernel = scratch.file(&format!("{name}.kernel"), guest.image(Protocol::Linux64));
        format!("vm \"{name}\" {{\n    boot \"{}\"\n    memory 64M\n    {more}\n}}\n", kernel.display())
    };
    vms.iter().map(vm).collect()
}
