//! Harness for tests that start the real binaries on the real KVM.
//!
//! A test is one call of [`test()`] with what it [needs](Need) of the host. It gets a [`Scratch`] folder, which also gives its
//! VMs their names, and when it returns, everything that it caused must be gone: [`leak`] compares the host with what it was.
//!
//! | module | for |
//! |---|---|
//! | [`guest`] | flat guests: a page of assembly each, and images to boot them from |
//! | [`vmm`], [`api`] | a `stockade-vmm` process, and its API byte by byte |
//! | [`memory`], [`puppet`], [`virtio`] | a guest that does what the test says, and device drivers written on top of it |
//! | [`image`] | root disks with files in them |
//! | [`terminal`] | a terminal to type at |
//! | [`violate`] | a thread of a running vmm that breaks its filter |
//! | [`leftovers`] | what tests left that were killed |
//! | [`process`] | what `/proc` says about a process |
//!
//! Waiting is bounded by [`PATIENCE`] everywhere, which no working machine comes near; nothing else depends on time.
// A harness reports what went wrong by panicking: that is the failure of the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![forbid(unsafe_code)]

pub mod api;
pub mod guest;
pub mod image;
pub mod leak;
pub mod leftovers;
pub mod memory;
pub mod output;
pub mod process;
pub mod puppet;
pub mod terminal;
pub mod violate;
pub mod virtio;
pub mod vmm;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long the harness waits for anything before it gives up.
pub const PATIENCE: Duration = Duration::from_secs(150);

/// What a test needs of the host. A test that misses something is skipped, and says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// A usable `/dev/kvm`.
    Kvm,
    /// To be root: building jails, mounting.
    Root,
    /// A mounted hierarchy of control groups, version 2, with or without controllers.
    Cgroup2,
}

impl Need {
    /// Why the host does not have it; `None` if it has.
    pub fn missing(self) -> Option<String> {
        match self {
            Self::Kvm => std::fs::OpenOptions::new()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .err()
                .map(|error| format!("needs /dev/kvm: {error}")),
            Self::Root => (!nix::unistd::geteuid().is_root()).then(|| "needs root".into()),
            Self::Cgroup2 => process::cgroup2().is_none().then(|| "needs control groups, version 2".into()),
        }
    }
}

/// Held while a test of this process runs.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// Runs a test: checks its needs, runs it, and checks that nothing is left of it.
///
/// Tests in one process run one after the other, because a leak could not be blamed otherwise; tests in different processes
/// run side by side.
pub fn test(needs: &[Need], body: impl FnOnce(&Scratch)) {
    if let Some(reason) = needs.iter().find_map(|need| need.missing()) {
        return skip(&reason);
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let before = leak::Host::observe();
    let scratch = Scratch::new();
    body(&scratch);
    drop(scratch);
    before.expect_unchanged();
}

/// Reports the running test as skipped: on standard error, and in the file that `STOCKADE_SKIPS` names, for `tools/test`.
fn skip(reason: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or("a test"));
    eprint!("skipped {line}");
    if let Some(file) = std::env::var_os("STOCKADE_SKIPS") {
        use std::io::Write;
        let mut file = std::fs::OpenOptions::new().append(true).open(file).expect("open the file in STOCKADE_SKIPS");
        file.write_all(line.as_bytes()).expect("write to the file in STOCKADE_SKIPS");
    }
}

/// A folder for one test, removed with it, and names for its VMs.
#[derive(Debug)]
pub struct Scratch {
    folder: tempfile::TempDir,
    names: AtomicU32,
    /// Shows others that this process lives.
    _claim: leftovers::Claim,
}

impl Scratch {
    fn new() -> Self {
        leftovers::sweep();
        loop {
            let prefix = format!("{}-", leak::own_tag());
            let folder = tempfile::Builder::new().prefix(&prefix).tempdir().expect("make a folder");
            // Others may have taken it for left behind until it was locked.
            if let Some(claim) = leftovers::Claim::on(folder.path()) {
                return Self { folder, names: AtomicU32::new(0), _claim: claim };
            }
        }
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The path of `name` in the folder.
    pub fn join(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file in the folder.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, content).expect("write a file");
        path
    }

    /// A name for a VM that no other has.
    pub fn vm_name(&self) -> String {
        format!("{}-{}", leak::own_tag(), self.names.fetch_add(1, Ordering::Relaxed))
    }
}

/// Path of a program that `tools/build` made: in the folder that `STOCKADE_DIST` names, or in `target/dist`.
pub fn program(name: &str) -> PathBuf {
    let path = distribution().join(name);
    assert!(path.exists(), "{} is missing; tools/build makes it", path.display());
    path
}

/// The folder that `tools/build` fills.
pub fn distribution() -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate is in a workspace");
    std::env::var_os("STOCKADE_DIST").map_or_else(|| workspace.join("target/dist"), PathBuf::from)
}

/// Asks again and again until there is an answer.
pub fn wait_for<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
