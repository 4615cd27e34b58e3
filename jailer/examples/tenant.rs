//! Takes the vmm's place in a compatible jail, and says on standard output what it finds there. What the jailer tells a vmm is
//! passed over; the other arguments are what it does, one after the other:
//!
//! | words | |
//! |---|---|
//! | `report` | writes what it is, as JSON |
//! | `attempt` | does what a vmm does with files, and what no vmm does, and writes as JSON what came of it |
//! | `plant WHAT VICTIM` | makes links to VICTIM of the `files`, or of the files and `folders`, that a jailer touches, for ever |
//! | `mount` | makes a system call that no vmm needs |
//! | `sleep` | waits for ever |
//! | `exit N` | ends with this code |

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use caps::CapSet;
use nix::mount::{MsFlags, mount};
use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::kill;
use nix::unistd::{Pid, getgroups, getpid, getppid, getresgid, getresuid, getsid};
use serde_json::{Value, json};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut words = arguments.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut argument = || words.next().ok_or("an argument is missing");
        match word {
            "--id" | "--start-time-us" | "--start-time-cpu-us" | "--parent-cpu-time-us" => drop(argument()?),
            "report" => println!("{}", report()?),
            "attempt" => println!("{}", attempts()),
            "plant" => {
                let with_folders = argument()? == "folders";
                plant(with_folders, Path::new(argument()?));
            }
            "mount" => mount(Some("x"), "/", Some("tmpfs"), MsFlags::empty(), None::<&str>)?,
            "sleep" => loop {
                std::thread::park();
            },
            "exit" => std::process::exit(argument()?.parse()?),
            other => return Err(format!("not a word of mine: {other}").into()),
        }
    }
    Ok(())
}

fn report() -> Result<Value, Failure> {
    let (uid, gid) = (getresuid()?, getresgid()?);
    let held = |set| caps::all().into_iter().filter(|cap| caps::has_cap(None, set, *cap).unwrap_or(true)).count();
    let sets = [CapSet::Effective, CapSet::Permitted, CapSet::Inheritable, CapSet::Bounding, CapSet::Ambient];
    let limit = |resource| getrlimit(resource).map(|(soft, hard)| [soft, hard]);
    let open = (3..1024).filter(|number| stockade_jailer::inherited(*number).is_ok()).count();
    Ok(json!({
        "arguments": std::env::args().collect::<Vec<_>>(),
        "user": [uid.real.as_raw(), uid.effective.as_raw(), uid.saved.as_raw()],
        "group": [gid.real.as_raw(), gid.effective.as_raw(), gid.saved.as_raw()],
        "groups": getgroups()?.len(),
        "capabilities": sets.map(held),
        "no_new_privs": prctl::get_no_new_privs()?,
        "securebits": rustix::thread::capabilities_secure_bits()?.bits(),
        "process": getpid().as_raw(),
        "parent": getppid().as_raw(),
        "leads_session": getsid(None)? == getpid(),
        "host_name": nix::unistd::gethostname()?.to_string_lossy(),
        "environment": std::env::vars().count(),
        "descriptors": open,
        "folder": std::env::current_dir()?,
        "core": limit(Resource::RLIMIT_CORE)?,
        "locked": limit(Resource::RLIMIT_MEMLOCK)?,
        "open": limit(Resource::RLIMIT_NOFILE)?,
        "processes": limit(Resource::RLIMIT_NPROC)?,
        "file": limit(Resource::RLIMIT_FSIZE)?,
    }))
}

/// Each attempt by name, with the error number that it failed with; null for one that succeeded.
fn attempts() -> Value {
    let program = std::env::args().next().unwrap_or_default();
    let write = |path: &str| OpenOptions::new().write(true).open(path).map(drop);
    let copy_and_run = || {
        fs::write("/run/copy", fs::read(&program)?)?;
        fs::set_permissions("/run/copy", PermissionsExt::from_mode(0o755))?;
        Command::new("/run/copy").status().map(drop)
    };
    let abstract_socket = || UnixStream::connect_addr(&SocketAddr::from_abstract_name(b"stockade-test-tenant")?);
    let results: [(&str, io::Result<()>); 22] = [
        ("read a file", File::open("/file").map(drop)),
        ("write to a file", OpenOptions::new().write(true).truncate(true).open("/file").map(drop)),
        ("create a file", File::create("/run/log").map(drop)),
        ("remove a file", fs::remove_file("/run/log")),
        ("listen at a socket", UnixListener::bind("/run/socket").map(drop)),
        ("connect to a socket", UnixListener::bind("/run/s").and_then(|_it| UnixStream::connect("/run/s").map(drop))),
        ("open KVM", OpenOptions::new().read(true).write(true).open("/dev/kvm").and_then(|kvm| control(&kvm))),
        ("open a network device", OpenOptions::new().read(true).write(true).open("/dev/net/tun").map(drop)),
        ("read random bytes", File::open("/dev/urandom").map(drop)),
        ("list the folder", fs::read_dir("/").map(drop)),
        ("make a folder", fs::create_dir("/folder")),
        ("make a link", symlink("/etc", "/link")),
        ("move to another folder", fs::rename("/file", "/run/file")),
        ("make a pipe", nix::unistd::mkfifo("/pipe", nix::sys::stat::Mode::S_IRUSR).map_err(Into::into)),
        ("control another device", File::open("/terminal").and_then(|device| control(&device))),
        ("write to its program", write(&program)),
        ("run its program", Command::new(&program).arg("exit").arg("0").status().map(drop)),
        ("run a copy of its program", copy_and_run()),
        ("signal whoever started it", kill(Pid::from_raw(getppid().as_raw().max(1)), None).map_err(Into::into)),
        ("connect to an abstract socket", abstract_socket().map(drop)),
        ("listen to TCP", TcpListener::bind("127.0.0.1:0").map(drop)),
        ("open a file of the host", File::open("/etc/passwd").map(drop)),
    ];
    results
        .into_iter()
        .map(|(name, result)| (name.to_owned(), json!(result.err().map(|error| error.raw_os_error()))))
        .collect()
}

/// An ioctl(2) that every device may refuse in its way, but Landlock with EACCES.
fn control(device: &File) -> io::Result<()> {
    match rustix::termios::tcgetwinsize(device) {
        Err(rustix::io::Errno::ACCESS) => Err(io::Error::from_raw_os_error(13)),
        _ => Ok(()),
    }
}

/// Whatever fails does so because the folder is held, or something is in the way.
fn plant(with_folders: bool, victim: &Path) -> ! {
    let program = std::env::args().next().unwrap_or_default();
    let name = Path::new(&program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    let pid_file = format!("{name}.pid");
    let files = ["dev/kvm", "dev/net/tun", "dev/urandom", "dev/userfaultfd", &name, &pid_file];
    let target = victim.join("file");
    for round in 0_u64.. {
        for file in files {
            let _ = fs::remove_file(file);
            let _ = if round % 2 == 0 { symlink(&target, file) } else { fs::hard_link(&target, file) };
        }
        let folders: &[&str] = if with_folders { &["dev", "dev/net", "run"] } else { &[] };
        if with_folders {
            // Beside the folder, which root does not hold: in the way at times, but never followed.
            let _ = fs::remove_file("../confinement.json");
            let _ = symlink(&target, "../confinement.json");
        }
        for folder in folders {
            let aside = format!("aside-{}", folder.replace('/', "-"));
            let _ = fs::rename(folder, &aside);
            let _ = symlink(victim, folder);
            let _ = fs::remove_file(folder);
            let _ = fs::rename(&aside, folder);
        }
        let _ = File::create("rounds");
    }
    std::process::exit(0)
}
