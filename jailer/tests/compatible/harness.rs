//! A jailer's command line, and the jail that comes of it.

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;
use stockade_tests::Scratch;

/// A jail that is to be made.
#[derive(Clone)]
pub(crate) struct Jail {
    pub(crate) id: String,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) program: PathBuf,
    /// How the program is named to the jailer.
    pub(crate) exec_file: PathBuf,
    pub(crate) base: PathBuf,
    more: Vec<OsString>,
    vmm: Vec<OsString>,
}

impl Jail {
    /// One for the program that takes the vmm's place, which does what `words` say.
    pub(crate) fn of_tenant(scratch: &Scratch, words: &str) -> Self {
        Self::new(scratch, &jailer().with_file_name("examples").join("tenant"), words)
    }

    /// One for a copy of `program`, which has no other name.
    pub(crate) fn new(scratch: &Scratch, program: &Path, words: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let uid = 0x7200_0000 + (std::process::id() % 0x10_0000) * 16 + number;
        let base = scratch.join(&format!("base-{number}"));
        std::fs::create_dir(&base).unwrap();
        let copy = scratch.join(program.file_name().unwrap().to_str().unwrap());
        if !copy.exists() {
            std::fs::copy(program, &copy).unwrap();
        }
        let vmm = words.split_whitespace().map(OsString::from).collect();
        Self {
            id: scratch.vm_name(),
            uid,
            gid: uid + 1,
            exec_file: copy.clone(),
            program: copy,
            base,
            more: Vec::new(),
            vmm,
        }
    }

    /// Adds options.
    pub(crate) fn with(mut self, options: &str) -> Self {
        self.more.extend(options.split_whitespace().map(OsString::from));
        self
    }

    /// Where the jail's folder is.
    pub(crate) fn root(&self) -> PathBuf {
        self.base.join(self.program.file_name().unwrap()).join(&self.id).join("root")
    }

    /// Makes the jail's folder before the jailer does, for the vmm's user.
    pub(crate) fn prefill(&self) -> PathBuf {
        let root = self.root();
        std::fs::create_dir_all(&root).unwrap();
        self.give(&root);
        root
    }

    /// Gives a path to the vmm's user.
    pub(crate) fn give(&self, path: &Path) {
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid)).unwrap();
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(jailer());
        let (uid, gid) = (self.uid.to_string(), self.gid.to_string());
        command.args(["--id", &self.id, "--uid", &uid, "--gid", &gid, "--exec-file"]).arg(&self.exec_file);
        command.arg("--chroot-base-dir").arg(&self.base).args(&self.more).arg("--").args(&self.vmm);
        command.stdin(Stdio::null());
        command
    }

    /// Starts the jailer and waits for the end of what it becomes.
    pub(crate) fn run(&self) -> Output {
        self.command().output().unwrap()
    }

    /// The same for what reports in JSON.
    pub(crate) fn report(&self) -> Value {
        let output = self.run();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {output:?}"))
    }

    /// Starts the jailer.
    pub(crate) fn start(&self) -> Running {
        Running(self.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// What the jailer says when there is to be no vmm; nothing is left then but what was there before.
    pub(crate) fn refused(&self) -> String {
        let before = tree(&self.base);
        let output = self.run();
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert_eq!(tree(&self.base), before, "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// What the pid file says, once it is there.
    pub(crate) fn pid(&self) -> i32 {
        let mut name = self.program.file_name().unwrap().to_owned();
        name.push(".pid");
        let path = self.root().join(name);
        stockade_tests::wait_for("the pid file", || {
            std::fs::read_to_string(&path).ok().filter(|text| !text.is_empty()).map(|text| text.parse().unwrap())
        })
    }

    /// Waits until the process is the vmm, of which its filter is the last sign.
    pub(crate) fn confined(&self) -> i32 {
        let pid = self.pid();
        let name: String = self.program.file_name().unwrap().to_string_lossy().chars().take(15).collect();
        stockade_tests::wait_for("the vmm", || {
            let is_there = stockade_tests::process::status_field(pid, "Name")? == name;
            is_there.then_some(())
        });
        pid
    }
}

/// A jail that fails at its last step, when every privilege is gone: execve(2) refuses a user more processes than it may have.
/// The other is a process of that user.
pub(crate) fn too_many_processes(scratch: &Scratch) -> (Running, Jail) {
    let other = Jail::of_tenant(scratch, "sleep");
    let running = other.start();
    other.confined();
    let mut jail = Jail::of_tenant(scratch, "exit 0").with("--resource-limit processes=0");
    (jail.uid, jail.gid) = (other.uid, other.gid);
    (running, jail)
}

/// Something is mounted here until this is dropped.
pub(crate) struct Mounted(PathBuf);

impl Mounted {
    pub(crate) fn new(source: &Path, kind: Option<&str>, flags: MsFlags, target: &Path) -> Self {
        mount(Some(source), target, kind, flags, None::<&str>).unwrap();
        Self(target.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A process that is killed when dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn jailer() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_stockade-jailer"))
}

/// Every file below `folder`, with its owner and mode.
pub(crate) fn tree(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            let (uid, gid, mode) = (metadata.uid(), metadata.gid(), metadata.permissions().mode());
            found.push(format!("{} {uid}:{gid} {mode:o} {}", entry.path().display(), metadata.len()));
            if metadata.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    found.sort();
    found
}
