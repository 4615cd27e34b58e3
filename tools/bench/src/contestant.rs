//! A vmm that takes part, alone or in a jail, and how it is started.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{PipeReader, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::error::{Error, at};
use crate::sealed::{self, Warden};

/// Name of every VM here, and of its folder in a chroot jail.
const ID: &str = "bench";
/// User and group of a jailed vmm: nobody's.
const JAILED_ID: u32 = 65_534;
/// How long a guest may take to write something, milliseconds.
const PATIENCE_MS: u16 = 10_000;
/// What is read of a vmm's words: as many as a pipe holds.
const LOG_BYTES: usize = 64 << 10;

/// The jail that a vmm runs in, by the program that builds it.
#[derive(Debug, Clone)]
pub enum Jail {
    /// Firecracker's kind, and Stockade's compatible one: a folder that becomes the root directory.
    Chroot(PathBuf),
    /// Stockade's own: see [`sealed`].
    Sealed(PathBuf),
}

/// A vmm.
#[derive(Debug)]
pub struct Contestant {
    /// Whose it is, and whether it is in a jail.
    pub name: String,
    /// The program.
    pub vmm: PathBuf,
    jail: Option<Jail>,
    arguments: Vec<String>,
}

/// Everything that is made before the clock starts.
#[derive(Debug)]
pub struct Prepared {
    /// What the vmm calls the kernel.
    pub kernel: PathBuf,
    command: Command,
    socket: PathBuf,
    warden: Option<Warden>,
    log: PipeReader,
    vmm: PathBuf,
}

/// A started vmm; killed when dropped.
#[derive(Debug)]
pub struct Running {
    /// The program, for messages.
    pub vmm: PathBuf,
    /// Its API socket, as it is called outside of a jail.
    pub socket: PathBuf,
    child: Child,
    warden: Option<Warden>,
    console: File,
    log: PipeReader,
}

impl Contestant {
    /// Finds the programs.
    pub fn new(owner: &str, vmm: &Path, arguments: &[String], jail: Option<Jail>) -> Result<Self, Error> {
        // Processes in a jail have another working directory.
        let absolute = |path: &Path| path.canonicalize().map_err(at("find", path));
        let (place, jail) = match jail {
            None => ("unjailed", None),
            Some(Jail::Chroot(jailer)) => ("chroot jail", Some(Jail::Chroot(absolute(&jailer)?))),
            Some(Jail::Sealed(jailer)) => ("sealed jail", Some(Jail::Sealed(absolute(&jailer)?))),
        };
        Ok(Self { name: format!("{owner}, {place}"), vmm: absolute(vmm)?, jail, arguments: arguments.to_vec() })
    }

    /// The jailer's program.
    pub fn jailer(&self) -> Option<&Path> {
        self.jail.as_ref().map(|(Jail::Chroot(jailer) | Jail::Sealed(jailer))| jailer.as_path())
    }

    /// Puts the kernel where the vmm finds it, and writes the command line.
    pub fn prepare(&self, folder: &Path) -> Result<Prepared, Error> {
        let (mut command, kernel, socket, warden) = match &self.jail {
            None => {
                let (command, kernel, socket) = self.alone(folder)?;
                (command, kernel, socket, None)
            }
            Some(Jail::Chroot(jailer)) => {
                let (command, kernel, socket) = self.in_chroot(jailer, folder)?;
                (command, kernel, socket, None)
            }
            Some(Jail::Sealed(jailer)) => {
                write_kernel(&folder.join("kernel"))?;
                let (command, warden) = sealed::prepare(jailer, &self.vmm, &self.arguments, folder)?;
                (command, "fd:kernel".into(), folder.join("api"), Some(warden))
            }
        };
        // No file: a sealed vmm may not make one larger, and is sent a signal each time it tries.
        let (log, output) = std::io::pipe().map_err(at("make a pipe for", &self.vmm))?;
        command.env_clear().stdin(Stdio::null()).stderr(output);
        Ok(Prepared { kernel, command, socket, warden, log, vmm: self.vmm.clone() })
    }

    fn alone(&self, folder: &Path) -> Result<(Command, PathBuf, PathBuf), Error> {
        let (kernel, socket) = (folder.join("kernel"), folder.join("api"));
        write_kernel(&kernel)?;
        let mut command = Command::new(&self.vmm);
        command.args(["--id", ID, "--api-sock"]).arg(&socket).args(&self.arguments);
        Ok((command, kernel, socket))
    }

    /// As Firecracker's jailer has it: the jail is the folder `BASE/PROGRAM/ID/root`, and may be filled beforehand.
    fn in_chroot(&self, jailer: &Path, folder: &Path) -> Result<(Command, PathBuf, PathBuf), Error> {
        let name = self.vmm.file_name().unwrap_or_default();
        let root = folder.join(name).join(ID).join("root");
        std::fs::create_dir_all(&root).map_err(at("create", &root))?;
        write_kernel(&root.join("kernel"))?;
        let program = self.installed(folder.parent().unwrap_or(folder), name)?;
        let mut command = Command::new(jailer);
        let (user, base) = (JAILED_ID.to_string(), folder);
        command.args(["--id", ID, "--uid", &user, "--gid", &user, "--exec-file"]).arg(program);
        command.arg("--chroot-base-dir").arg(base).args(["--", "--api-sock", "/api"]).args(&self.arguments);
        Ok((command, "/kernel".into(), root.join("api")))
    }

    /// The program as an operator installs it once: a jailer may refuse one that has other names, or that others can write to.
    fn installed(&self, scratch: &Path, name: &OsStr) -> Result<PathBuf, Error> {
        let place = scratch.join(&self.name);
        let program = place.join(name);
        if !place.exists() {
            std::fs::create_dir(&place).map_err(at("create", &place))?;
            std::fs::copy(&self.vmm, &program).map_err(at("copy", &self.vmm))?;
            // Pages that are not on the disk yet would count as changed by whoever maps them.
            File::open(&program).and_then(|copy| copy.sync_all()).map_err(at("write", &program))?;
        }
        Ok(program)
    }
}

fn write_kernel(path: &Path) -> Result<(), Error> {
    std::fs::write(path, one_page_guest::image()).map_err(at("write", path))?;
    // Whoever the vmm runs as in its jail.
    std::fs::set_permissions(path, Permissions::from_mode(0o444)).map_err(at("set the mode of", path))
}

impl Prepared {
    /// Starts the process.
    pub fn spawn(mut self) -> Result<Running, Error> {
        let (console, writer) = std::io::pipe().map_err(at("make a pipe for", &self.vmm))?;
        let child = self.command.stdout(writer).spawn().map_err(at("start", &self.vmm))?;
        // The command holds the pipe's other end, without which the pipe never ends.
        drop(self.command);
        let console = File::from(std::os::fd::OwnedFd::from(console));
        Ok(Running { vmm: self.vmm, socket: self.socket, child, warden: self.warden, console, log: self.log })
    }
}

impl Running {
    /// Process id of the vmm: unless there is a warden, a jailer executes it in its own place.
    pub fn vmm_pid(&self) -> Result<u32, Error> {
        self.warden.as_ref().map_or_else(|| Ok(self.child.id()), Warden::confined)
    }

    /// An error if the process is gone.
    pub fn expect_alive(&mut self) -> Result<(), Error> {
        match self.child.try_wait().map_err(at("wait for", &self.vmm))? {
            Some(status) => Err(self.silent(format!("ended early with {status}"))),
            None => Ok(()),
        }
    }

    /// The console, which is standard output, and its vmm for messages.
    pub fn wait_for_output(&mut self) -> Result<&mut File, Error> {
        let mut descriptors = [PollFd::new(self.console.as_fd(), PollFlags::POLLIN)];
        match poll(&mut descriptors, PollTimeout::from(PATIENCE_MS)) {
            Ok(0) => Err(self.silent("runs, but its guest writes nothing")),
            Ok(_) => Ok(&mut self.console),
            Err(error) => Err(at("wait for the console of", &self.vmm)(error.into())),
        }
    }

    /// An error with the vmm's own words.
    pub fn silent(&self, when: impl Into<String>) -> Error {
        let mut text = vec![0; LOG_BYTES];
        let mut ready = [PollFd::new(self.log.as_fd(), PollFlags::POLLIN)];
        let is_ready = poll(&mut ready, PollTimeout::ZERO).is_ok_and(|count| count > 0);
        let count = if is_ready { (&self.log).read(&mut text).unwrap_or(0) } else { 0 };
        text.truncate(count);
        Error::Silent {
            vmm: self.vmm.clone(),
            when: when.into(),
            log: String::from_utf8_lossy(&text).trim().to_owned(),
        }
    }

    /// Kills it and waits until it is gone.
    pub fn end(mut self) -> Result<(), Error> {
        if let Some(warden) = self.warden.take() {
            warden.end()?;
            self.child.wait().map_err(at("wait for", &self.vmm))?;
            return Ok(());
        }
        self.child.kill().map_err(at("kill", &self.vmm))?;
        self.child.wait().map_err(at("wait for", &self.vmm))?;
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
