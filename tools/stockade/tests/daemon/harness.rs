//! A command line with a daemon of the test's own.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use serde_json::Value;
use stockade_control::Limits;
use stockade_control::fake::{Server, Settings};
use tempfile::TempDir;

/// `stockade` with these arguments, and no daemon that it would find by itself.
pub fn stockade<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stockade"));
    command.args(arguments).env_remove("STOCKADE_SOCKET").stdin(Stdio::null());
    command
}

/// What came of a command line.
#[derive(Debug)]
pub struct Finished {
    pub code: i32,
    pub output: String,
    pub error: String,
}

impl Finished {
    pub fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let code = status.code().unwrap_or_else(|| panic!("{status:?}"));
        Self { code, output: text(stdout), error: text(stderr) }
    }

    /// It succeeded; returns what it printed.
    #[track_caller]
    pub fn done(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.output
    }

    /// It succeeded; returns the document that it printed.
    #[track_caller]
    pub fn document(self) -> Value {
        serde_json::from_str(&self.done()).unwrap()
    }

    /// It failed with this code, and one line that has these parts.
    #[track_caller]
    pub fn failed(&self, code: i32, parts: &[&str]) {
        assert_eq!(self.code, code, "{self:?}");
        assert_eq!(self.output, "", "{self:?}");
        assert_eq!(self.error.lines().count(), 1, "{self:?}");
        assert!(self.error.starts_with("stockade: "), "{self:?}");
        for part in parts {
            assert!(self.error.contains(part), "{part:?} is not in {self:?}");
        }
    }
}

/// A daemon in memory.
pub struct Daemon {
    folder: TempDir,
    _server: Server,
}

impl Daemon {
    /// One that knows `web`, which is root's, and `db`, which is not.
    pub fn start() -> Self {
        Self::with(Settings { configured: vec![("web".into(), 0), ("db".into(), 1000)], ..Settings::default() })
    }

    pub fn with(settings: Settings) -> Self {
        let folder = TempDir::new().unwrap();
        let server = Server::start(&folder.path().join("socket"), settings, Limits::default()).unwrap();
        Self { folder, _server: server }
    }

    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = stockade(arguments);
        command.env("STOCKADE_SOCKET", self.folder.path().join("socket"));
        command
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        Finished::of(&mut self.command(arguments))
    }
}

/// What a [`Script`] says to a request.
type Answer = dyn Fn(&Asked) -> Vec<u8> + Send + Sync;

/// A request, as it came.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Method and target.
    pub line: String,
    pub body: String,
}

/// A daemon that says what the test says.
pub struct Script {
    folder: TempDir,
    asked: Arc<Mutex<Vec<Asked>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Script {
    pub fn start(answer: impl Fn(&Asked) -> Vec<u8> + Send + Sync + 'static) -> Self {
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join("socket")).unwrap();
        let (asked, over) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (log, end) = (Arc::clone(&asked), Arc::clone(&over));
        let answer: Arc<Answer> = Arc::new(answer);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if end.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                // Who asks twice at once is answered twice at once.
                std::thread::spawn(move || {
                    let stream = stream.unwrap();
                    let asked = read(&stream).unwrap();
                    log.lock().unwrap().push(asked.clone());
                    // A client that has seen enough is gone.
                    let _ = (&stream).write_all(&answer(&asked));
                });
            }
        });
        Self { folder, asked, over, thread: Some(thread) }
    }

    /// One that answers everything with this document.
    pub fn saying(document: &Value) -> Self {
        let answer = http(200, &document.to_string());
        Self::start(move |_| answer.clone())
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Finished {
        Finished::of(stockade(arguments).env("STOCKADE_SOCKET", self.socket()))
    }

    /// What it was asked.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the thread.
        drop(UnixStream::connect(self.socket()));
        drop(self.thread.take().map(JoinHandle::join));
    }
}

fn read(stream: &UnixStream) -> io::Result<Asked> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut length = 0;
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        match header.trim_end().split_once(": ") {
            None => break,
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => length = value.parse().unwrap(),
            Some(_) => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let line = line.trim_end().trim_end_matches(" HTTP/1.1").to_owned();
    Ok(Asked { line, body: String::from_utf8(body).unwrap() })
}

/// A response.
pub fn http(status: u16, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).into()
}

/// A virtual machine of this name.
pub fn vm(name: &str) -> Value {
    serde_json::json!({
        "id": 7, "name": name, "state": "running", "generation": 1, "owner": { "uid": 0, "gid": null }, "run_by": 0,
        "cpus": 2, "memory_mib": 512, "disks": 0, "interfaces": [], "configured": true, "pid": std::process::id(), "jail": null,
        "started_ms": 1, "last_exit": null, "last_error": null,
    })
}

/// The program as a user who owns nothing; `folder` gets a copy of it, because the original may be out of reach.
pub fn as_nobody<S: AsRef<OsStr>>(folder: &Path, arguments: impl IntoIterator<Item = S>, socket: &Path) -> Finished {
    const NOBODY: u32 = 65_534;
    let program = folder.join("stockade");
    std::fs::copy(env!("CARGO_BIN_EXE_stockade"), &program).unwrap();
    std::fs::set_permissions(folder, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut command = Command::new(program);
    command.args(arguments).env("STOCKADE_SOCKET", socket).current_dir("/").uid(NOBODY).gid(NOBODY);
    Finished::of(&mut command)
}

/// A socket's folder that is gone when the test is.
pub fn empty_folder() -> TempDir {
    TempDir::new().unwrap()
}

pub fn at(folder: &Path, arguments: &[&str]) -> Finished {
    Finished::of(stockade(arguments).arg("--socket").arg(folder.join("socket")))
}
