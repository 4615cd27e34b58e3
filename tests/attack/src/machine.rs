//! A real vmm that runs a guest in its jail, one of whose threads is taken over for an attempt.

use std::fs::Metadata;
use std::io::{self, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::json;
use stockade_jailer::warden::ProcessEnd;
use stockade_prisoner::{INJECTED, Phase, compatible, descriptor};

use crate::cell::{Cell, PATIENCE, Remains};
use crate::compatible::{Jail, Site};
use crate::error::{AttackError, Step};
use crate::program::Program;
use crate::takeover::{Stop, Thread};
use crate::targets::Targets;

/// Numbers of a sealed vmm's own descriptors, behind those of the prisoner.
mod number {
    pub(super) const KERNEL: i32 = 20;
    pub(super) const CONFIG: i32 = 21;
    pub(super) const API: i32 = 22;
}
const MEMORY_MIB: u32 = 16;
/// Where a compatible vmm finds its files.
const KERNEL: &str = "kernel";
const CONFIG: &str = "config";

/// A configuration, with the paths of kernel, image and disk.
fn configuration(kernel: &str, [image, disk]: [&str; 2], console: Option<&str>) -> String {
    let drive = |id: &str, path: &str, is_read_only: bool| json!({ "drive_id": id, "path_on_host": path, "is_root_device": false, "is_read_only": is_read_only });
    let mut configuration = json!({
        "boot-source": { "kernel_image_path": kernel, "boot_args": "" },
        "machine-config": { "vcpu_count": 1, "mem_size_mib": MEMORY_MIB },
        "drives": [drive("image", image, true), drive("disk", disk, false)],
    });
    if let (Some(path), Some(fields)) = (console, configuration.as_object_mut()) {
        fields.insert("serial".to_owned(), json!({ "serial_out_path": path }));
    }
    configuration.to_string()
}

/// Descriptors, by the numbers that they get.
type Inheritance = Vec<(i32, OwnedFd)>;

/// Where a sealed vmm's API listens.
pub(crate) fn api_of(name: &str) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("{name}-api"))
}

/// Arguments of a sealed vmm with this kernel, and what it inherits beside what a prisoner does.
pub(crate) fn sealed_vmm(name: &str, kernel: &[u8]) -> Result<(Vec<String>, Inheritance), AttackError> {
    let configuration = configuration("fd:kernel", ["fd:image", "fd:disk"], Some("fd:console"));
    let listener = api_of(name).and_then(|address| UnixListener::bind_addr(&address)).step("listen for the API")?;
    let more = vec![
        (number::KERNEL, file(kernel)?),
        (number::CONFIG, file(configuration.as_bytes())?),
        (number::API, listener.into()),
    ];
    let mut arguments = ["--id", name, "--api-sock", "fd:api", "--config-file", "fd:config"].map(String::from).to_vec();
    for (name, number) in [
        ("kvm", descriptor::KVM),
        ("console", descriptor::CONSOLE),
        ("image", descriptor::IMAGE),
        ("disk", descriptor::DISK),
        ("kernel", number::KERNEL),
        ("config", number::CONFIG),
        ("api", number::API),
    ] {
        arguments.extend(["--fd".to_owned(), format!("{name}={number}")]);
    }
    Ok((arguments, more))
}

/// Arguments of a compatible vmm, whose files are put in its jail.
pub(crate) fn compatible_vmm(site: &Site) -> Result<Vec<String>, AttackError> {
    site.file(KERNEL, &one_page_guest::image())?;
    let configuration = configuration(KERNEL, [compatible::IMAGE, compatible::DISK], None);
    site.file(CONFIG, configuration.as_bytes())?;
    Ok(["--api-sock", "run/api", "--config-file", CONFIG].map(String::from).to_vec())
}

fn file(content: &[u8]) -> Result<OwnedFd, AttackError> {
    let mut file = tempfile::tempfile().step("make a file")?;
    file.write_all(content).and_then(|()| file.rewind()).step("make a file")?;
    Ok(file.into())
}

/// Waits for the guest's first byte on the console that a warden keeps.
pub(crate) fn await_guest(cell: &Cell) -> Result<(), AttackError> {
    let deadline = Instant::now() + PATIENCE;
    while !cell.console().ends_with(&[one_page_guest::FIRST_BYTE]) {
        if !cell.is_alive() || Instant::now() > deadline {
            return Err(AttackError::Takeover("the guest says nothing"));
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Ok(())
}

/// The same on standard output.
pub(crate) fn await_guest_of(jail: &mut Jail) -> Result<(), AttackError> {
    let output = jail.output();
    let timeout = Timespec::try_from(PATIENCE).ok();
    poll(&mut [PollFd::new(output, PollFlags::IN)], timeout.as_ref()).step("wait for the guest")?;
    let mut byte = [0];
    match output.read(&mut byte).step("wait for the guest")? {
        1 if byte == [one_page_guest::FIRST_BYTE] => Ok(()),
        _ => jail.wait_for(|_| None),
    }
}

/// Has a thread of a vmm make an attempt, and ends that vmm. What is left of its jail is for others to say.
pub(crate) fn attack(
    process: i32,
    phase: Phase,
    program: &Program,
    attempt: &str,
    targets: &Targets,
    image: &Path,
) -> Result<Seen, AttackError> {
    let thread = Thread::take(process, thread_of(process, phase)?)?;
    let held = held(process, image, &targets.folder().join("disk")).step("look at the descriptors of stockade-vmm")?;
    attack_thread(thread, program, attempt, targets, &held)
}

/// Has a thread that was taken over make an attempt, and ends its process. What of its descriptors is what, `held` says.
pub(crate) fn attack_thread(
    thread: Thread,
    program: &Program,
    attempt: &str,
    targets: &Targets,
    held: &str,
) -> Result<Seen, AttackError> {
    let said = serde_json::to_string(targets.said()).map_err(io::Error::from).step("say what to attack")?;
    thread.load(program, &["stockade-prisoner", INJECTED, attempt, &said, held])?;
    thread.filter()?;
    let seen = match thread.go_on()? {
        Stop::Trap(report) => Seen { report, end: None },
        Stop::Executed => {
            Seen { report: br#"{"outcome":"succeeded","detail":"another program runs"}"#.to_vec(), end: None }
        }
        Stop::Exited(code) => Seen { report: Vec::new(), end: Some(ProcessEnd::Exited(code)) },
        Stop::Killed(signal) => Seen { report: Vec::new(), end: Some(ProcessEnd::Signaled(signal)) },
    };
    if seen.end.is_none() {
        thread.end()?;
    }
    Ok(seen)
}

/// What an attempt in a thread came to.
#[derive(Debug)]
pub(crate) struct Seen {
    report: Vec<u8>,
    /// How the process ended, if not because it was over.
    end: Option<ProcessEnd>,
}

impl Seen {
    /// The same, with what is left of the jail.
    pub(crate) fn in_jail(self, remains: Remains) -> Remains {
        let end = self.end.unwrap_or(ProcessEnd::Exited(0));
        Remains { report: self.report, end, ..remains }
    }
}

/// The thread that is in this phase, once it has all its filters: the jailer's, for most the one that the main thread had before, and
/// its own.
fn thread_of(process: i32, phase: Phase) -> Result<i32, AttackError> {
    let (name, filters) = match phase {
        Phase::Api => (Some("fc_api"), 2),
        Phase::Vcpu => (Some("fc_vcpu 0"), 3),
        Phase::Launch | Phase::Configure | Phase::Run => (None, 3),
    };
    let is_it = |path: &Path| {
        let status = std::fs::read_to_string(path.join("status")).unwrap_or_default();
        let field = |name: &str| Some(status.lines().find_map(|line| line.strip_prefix(name))?.trim());
        let number = field("Seccomp_filters:").and_then(|number| number.parse::<u32>().ok());
        field("Name:").is_some_and(|found| name.is_none_or(|name| name == found)) && number == Some(filters)
    };
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let threads = std::fs::read_dir(format!("/proc/{process}/task")).step("look at the threads of stockade-vmm")?;
        for path in threads.filter_map(|entry| Some(entry.ok()?.path())) {
            let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            if let Some(number) = number.filter(|number| name.is_some() || *number == process)
                && is_it(&path)
            {
                return Ok(number);
            }
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    Err(AttackError::Takeover("it does not get its filters"))
}

/// Which of the vmm's descriptors a prisoner is to find under which number, as [`INJECTED`] has it.
fn held(process: i32, image: &Path, disk: &Path) -> io::Result<String> {
    let (image, disk) = (image.metadata()?, disk.metadata()?);
    let kvm = Path::new("/dev/kvm").metadata()?;
    let is = |one: &Metadata, other: &Metadata| (one.dev(), one.ino()) == (other.dev(), other.ino());
    // Standard input, and what a cell has for every prisoner.
    let not_console = [0, descriptor::REPORT, descriptor::START].map(|number| number.to_string());
    let mut held = Vec::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        let path = entry?.path();
        // One that is closed meanwhile.
        let (Ok(file), Ok(link)) = (path.metadata(), path.read_link()) else { continue };
        let own = path.file_name().unwrap_or_default().to_string_lossy();
        let number = if is(&file, &image) {
            descriptor::IMAGE
        } else if is(&file, &disk) || link == Path::new("/disk") {
            descriptor::DISK
        } else if file.rdev() == kvm.rdev() {
            descriptor::KVM
        } else if link.to_string_lossy().starts_with("pipe:") && not_console.iter().all(|number| *number != own) {
            descriptor::CONSOLE
        } else {
            continue;
        };
        held.push(format!("{number}={own}"));
    }
    Ok(held.join(","))
}
