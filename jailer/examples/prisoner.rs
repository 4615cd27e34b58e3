//! Takes the vmm's place in a jail, and tells what it finds there. Its arguments are what it does, one after the other:
//!
//! | words | |
//! |---|---|
//! | `report N` | writes what it is, as JSON, to descriptor N |
//! | `attempt N PID` | tries what a vmm in a stranger's hands would, also against process PID, and writes what came of it |
//! | `say N TEXT` | writes TEXT to descriptor N |
//! | `mount` | makes a system call that no vmm needs |
//! | `violate WHO` | starts threads as a vmm has them, each under its filter, of which WHO makes a system call that it must not: |
//! | | `launch`, `configure` or `run` for the main thread, `api`, `vcpu`, or `all` at the same time |
//! | `signals N` | gets signals from itself, and writes to descriptor N how many of 1500 came |
//! | `flood` | gets signals from itself, for ever |
//! | `sleep` | waits for ever |
//! | `exit N` | ends with this code |
//!
//! Before that, it confirms what its jailer says confines it, as a vmm does.

use std::fs::File;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::IntoRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier};

use caps::CapSet;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, kill, raise, sigaction};
use nix::unistd::{Pid, Uid, chroot, getgroups, getpid, getppid, getresgid, getresuid, sethostname, setuid};
use rustix::thread::set_thread_res_uid;
use seccomp_filters::{Role, pledge};
use serde_json::{Value, json};
use stockade_confinement::Expectation;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut argument = || words.next().ok_or("an argument is missing");
        match word {
            "report" => write(argument()?, report()?.to_string().as_bytes())?,
            "attempt" => {
                let number = argument()?;
                write(number, attempts(argument()?.parse()?).to_string().as_bytes())?;
            }
            "say" => write(argument()?, argument()?.as_bytes())?,
            "mount" => mount(Some("x"), "/", Some("tmpfs"), MsFlags::empty(), None::<&str>)?,
            "violate" => violate(argument()?)?,
            "signals" => {
                count_signals()?;
                (0..1500).try_for_each(|_| raise(Signal::SIGUSR1))?;
                write(argument()?, SIGNALS.load(Ordering::Relaxed).to_string().as_bytes())?;
            }
            "flood" => {
                count_signals()?;
                loop {
                    raise(Signal::SIGUSR1)?;
                }
            }
            "sleep" => loop {
                std::thread::park();
            },
            // What a vmm hears from its jailer.
            "--confined" => argument()?.parse::<Expectation>()?.confirm()?,
            "--no-seccomp" => {}
            "exit" => std::process::exit(argument()?.parse()?),
            other => return Err(format!("not a word of mine: {other}").into()),
        }
    }
    Ok(())
}

/// PR_GET_MDWE(2const). True as well where the kernel does not know how, which is before Linux 6.3.
fn refuses_executable_memory() -> bool {
    const GET_MDWE: libc::c_int = 66;
    const NONE: libc::c_ulong = 0;
    // SAFETY: takes no pointer, and changes nothing.
    unsafe { libc::prctl(GET_MDWE, NONE, NONE, NONE, NONE) != 0 }
}

/// How many signals came.
static SIGNALS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_signal(_: i32) {
    SIGNALS.fetch_add(1, Ordering::Relaxed);
}

/// Handles the signal that interrupts a vCPU.
fn count_signals() -> nix::Result<()> {
    let action = SigAction::new(SigHandler::Handler(count_signal), SaFlags::empty(), SigSet::empty());
    // SAFETY: the handler does nothing but count, which may interrupt anything.
    unsafe { sigaction(Signal::SIGUSR1, &action) }.map(drop)
}

/// The threads of a vmm, each with its filter, and with the system call that it must not make.
fn violate(who: &str) -> Result<(), Failure> {
    // SAFETY: there are no other threads yet, which could be in malloc(3).
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    let is = |name: &str| [name, "all"].contains(&who);
    // Those that violate do it together.
    let start = Arc::new(Barrier::new(if who == "all" { 4 } else { 1 }));
    let forbidden = |number: u32| {
        let start = Arc::clone(&start);
        move || {
            start.wait();
            let [real, effective, saved] = [number, 0, u32::MAX].map(rustix::process::Uid::from_raw_unchecked);
            let _ = set_thread_res_uid(real, effective, saved);
        }
    };
    if who == "launch" {
        forbidden(1)();
    }
    spawn("fc_api", Role::Api, is("api").then(|| forbidden(2)))?;
    pledge(Role::VmmConfigureSealed)?;
    if who == "configure" {
        forbidden(3)();
    }
    spawn("fc_vcpu 0", Role::Vcpu, is("all").then(|| forbidden(4)))?;
    spawn("fc_vcpu 1", Role::Vcpu, is("vcpu").then(|| forbidden(5)))?;
    pledge(Role::VmmRunSealed)?;
    if is("run") {
        forbidden(6)();
    }
    loop {
        std::thread::park();
    }
}

/// Starts a thread, and waits until it is confined.
fn spawn(name: &str, role: Role, violation: Option<impl FnOnce() + Send + 'static>) -> Result<(), Failure> {
    let confined = Arc::new(Barrier::new(2));
    let told = Arc::clone(&confined);
    let body = move || {
        let pledged = pledge(role).is_ok();
        told.wait();
        match violation {
            Some(violation) if pledged => violation(),
            _ => {}
        }
        loop {
            std::thread::park();
        }
    };
    std::thread::Builder::new().name(name.to_owned()).spawn(body)?;
    confined.wait();
    Ok(())
}

fn write(number: &str, bytes: &[u8]) -> Result<(), Failure> {
    // Taken over, and so closed afterwards: the reader is not to wait for more.
    Ok(File::from(stockade_jailer::inherited(number.parse()?)?).write_all(bytes)?)
}

fn report() -> Result<Value, Failure> {
    let (uid, gid) = (getresuid()?, getresgid()?);
    let mut capabilities = serde_json::Map::new();
    for (name, set) in [
        ("effective", CapSet::Effective),
        ("permitted", CapSet::Permitted),
        ("inheritable", CapSet::Inheritable),
        ("bounding", CapSet::Bounding),
        ("ambient", CapSet::Ambient),
    ] {
        let held: Vec<_> =
            caps::all().into_iter().filter(|cap| caps::has_cap(None, set, *cap).unwrap_or(true)).collect();
        capabilities.insert(name.to_owned(), held.len().into());
    }
    let descriptors: Vec<i32> = (3..1024).filter(|number| is_open(*number)).collect();
    let limit = |resource| getrlimit(resource).map(|(soft, hard)| [soft, hard]);
    let root: io::Result<Vec<_>> = std::fs::read_dir("/").and_then(Iterator::collect);
    Ok(json!({
        "user": [uid.real.as_raw(), uid.effective.as_raw(), uid.saved.as_raw()],
        "group": [gid.real.as_raw(), gid.effective.as_raw(), gid.saved.as_raw()],
        "groups": getgroups()?.len(),
        "capabilities": capabilities,
        "no_new_privs": prctl::get_no_new_privs()?,
        "executable_memory_refused": refuses_executable_memory(),
        "securebits": rustix::thread::capabilities_secure_bits()?.bits(),
        "death_signal": prctl::get_pdeathsig()?.map(|signal| signal as i32),
        "process": getpid().as_raw(),
        "parent": getppid().as_raw(),
        "host_name": nix::unistd::gethostname()?.to_string_lossy(),
        "environment": std::env::vars().count(),
        "descriptors": descriptors,
        "root": root.map(|entries| entries.len()).map_err(|error| error.raw_os_error()),
        "core": limit(Resource::RLIMIT_CORE)?,
        "locked": limit(Resource::RLIMIT_MEMLOCK)?,
        "open": limit(Resource::RLIMIT_NOFILE)?,
    }))
}

fn is_open(number: i32) -> bool {
    stockade_jailer::inherited(number).map(IntoRawFd::into_raw_fd).is_ok()
}

/// Each attempt by name, with the error number that it failed with; null for one that succeeded.
fn attempts(victim: i32) -> Value {
    let abstract_socket = || UnixStream::connect_addr(&SocketAddr::from_abstract_name(b"stockade-prisoner")?);
    let flags = MsFlags::empty();
    let results: [(&str, io::Result<()>); 16] = [
        ("open_root", File::open("/").map(drop)),
        ("open_passwd", File::open("/etc/passwd").map(drop)),
        ("open_kvm", File::open("/dev/kvm").map(drop)),
        ("create", File::create("/x").map(drop)),
        ("make_folder", std::fs::create_dir("/x")),
        ("leave_root", std::fs::read_dir("/../..").map(drop)),
        ("mount", mount(Some("x"), "/", Some("tmpfs"), flags, None::<&str>).map_err(io::Error::from)),
        ("chroot", chroot("/").map_err(io::Error::from)),
        ("become_root", setuid(Uid::from_raw(0)).map_err(io::Error::from)),
        ("kill_host_process", kill(Pid::from_raw(victim), Signal::SIGKILL).map_err(io::Error::from)),
        ("listen", TcpListener::bind("127.0.0.1:0").map(drop)),
        ("connect", TcpStream::connect("127.0.0.1:22").map(drop)),
        ("abstract_socket", abstract_socket().map(drop)),
        ("rename_host", sethostname("x").map_err(io::Error::from)),
        ("make_namespace", unshare(CloneFlags::CLONE_NEWNET).map_err(io::Error::from)),
        ("raise_limit", setrlimit(Resource::RLIMIT_MEMLOCK, 1 << 30, 1 << 30).map_err(io::Error::from)),
    ];
    results
        .into_iter()
        .map(|(name, result)| (name.to_owned(), json!(result.err().map(|error| error.raw_os_error()))))
        .collect()
}
