//! What the prisoner and whoever puts it into a jail have to agree on.
//!
//! The program of this package takes the vmm's place in a jail: the jailer executes it by descriptor, as it would the vmm. There
//! it makes one attempt of a vmm in a stranger's hands, says what came of it, and ends. Everything that it is after was put
//! there for it: files, processes, sockets, another jail; what could hurt the host if it were allowed is asked for with
//! arguments that can have no effect, and the kernel's answer tells whether it would have been allowed.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// What is in every file, memory, queue and environment that must not be read.
pub const MARKER: &str = "stockade-hostile-marker";
/// Mode of a prisoner's program: prints the attempts, as JSON.
pub const LIST: &str = "list";
/// Makes the attempt that is named next, in the phase after that, against the [`Targets`] after that.
pub const ATTEMPT: &str = "attempt";
/// The same in a jail of compatible mode: standard input is [`START`](descriptor::START), standard output
/// [`REPORT`](descriptor::REPORT), standard error [`CONSOLE`](descriptor::CONSOLE), and the [others](compatible) are in the jail.
pub const COMPATIBLE: &str = "compatible";
/// The same in a thread of a vmm that was taken over. The last argument says which of the vmm's descriptors is what, as `NUMBER=OWN`
/// with commas between. A trap (`int3`) comes just before the attempt, and one after it, with the [`Report`] where `rdi` points and
/// as long as `rsi` says.
pub const INJECTED: &str = "injected";
/// Executes the rest of the arguments as a program, and waits until it and everything that it left behind has ended. Says of each
/// process on [`REPORT`](descriptor::REPORT) how that was: its id, and what wait(2) said.
pub const KEEP: &str = "keep";
/// Is the process to attack: prints where in its memory the marker is, and stays until its standard input ends.
pub const VICTIM: &str = "victim";
/// Removes the shared memory of a victim that ended before it could, whose key is next.
pub const FORGET: &str = "forget";
/// Is the vmm of the virtual machine next door, and stays until its [stream](descriptor::STREAM) ends.
pub const NEIGHBOUR: &str = "neighbour";
/// Makes the [`Storm`] that is named next, until somebody ends it.
pub const STORM: &str = "storm";
/// Waits for a byte at its [stream](descriptor::STREAM), and then does [`PIECES`] pieces of work, with a byte for each.
pub const WORK: &str = "work";
/// Was executed by an attempt.
pub const EXECUTED: &str = "executed";
/// Was executed by an attempt, with the set-user-ID bit.
pub const EXECUTED_AS_ROOT: &str = "executed-as-root";

/// Pieces of a neighbour's work.
pub const PIECES: u32 = 100;
/// Most memory that an attempt asks for, bytes. The limit of its jail has to be well below.
pub const MEMORY_BYTES: u64 = 192 << 20;
/// Most threads or processes that an attempt starts.
pub const PROCESSES: u32 = 40;
/// Most descriptors that an attempt opens: more than a jail allows.
pub const DESCRIPTORS: u32 = 6000;
/// Files that an attempt makes.
pub const FILES: u32 = 300;
/// What an attempt writes to a file of its own, bytes.
pub const FILL_BYTES: u64 = 24 << 20;
/// Console output of an attempt that floods it, bytes.
pub const FLOOD_BYTES: u64 = 4 << 20;
/// Size of the file that is handed over for writing, bytes.
pub const DISK_BYTES: u64 = 64 << 10;
/// Processor time that an attempt has to get to call it too much, in hundredths of one processor. The limit of its jail has to
/// be well below half of that.
pub const CPU_PERCENT: u32 = 30;

/// Numbers of the descriptors that a prisoner inherits, as a vmm would inherit its own. High, as a vmm that is taken over has low ones.
pub mod descriptor {
    /// The write end of a pipe, for the [`Report`](super::Report).
    pub const REPORT: i32 = 908;
    /// The guest's console.
    pub const CONSOLE: i32 = 909;
    /// A file that may be read, and is a program.
    pub const IMAGE: i32 = 910;
    /// A file that may be written.
    pub const DISK: i32 = 911;
    /// A connected stream socket. A message waits there, with a descriptor of the folder of targets.
    pub const STREAM: i32 = 912;
    /// `/dev/kvm`, where the host has it.
    pub const KVM: i32 = 913;
    /// The read end of a pipe, which ends when the jail is complete and watched, and the attempt may begin.
    pub const START: i32 = 914;
}

/// What a prisoner finds in a jail of compatible mode, in place of what it would have inherited: relative to its working directory.
pub mod compatible {
    /// [`IMAGE`](super::descriptor::IMAGE).
    pub const IMAGE: &str = "image";
    /// [`DISK`](super::descriptor::DISK).
    pub const DISK: &str = "disk";
    /// Where it connects to for [`STREAM`](super::descriptor::STREAM).
    pub const STREAM: &str = "stream";
    /// [`KVM`](super::descriptor::KVM).
    pub const KVM: &str = "dev/kvm";
}

/// What an attempt is after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Group {
    /// The host's files.
    Files,
    /// The host's processes.
    Processes,
    /// Another virtual machine.
    Neighbours,
    /// The network, and whoever listens there.
    Network,
    /// Parts of the kernel that a vmm has no use for.
    Kernel,
    /// More rights.
    Privileges,
    /// More of the host than its share.
    Resources,
    /// Something that stays when the machine is gone.
    Persistence,
    /// What kind of host this is, and what happens there.
    Information,
}

impl Group {
    /// Every group.
    pub const ALL: [Self; 9] = [
        Self::Files,
        Self::Processes,
        Self::Neighbours,
        Self::Network,
        Self::Kernel,
        Self::Privileges,
        Self::Resources,
        Self::Persistence,
        Self::Information,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Processes => "processes",
            Self::Neighbours => "neighbours",
            Self::Network => "network",
            Self::Kernel => "kernel",
            Self::Privileges => "privileges",
            Self::Resources => "resources",
            Self::Persistence => "persistence",
            Self::Information => "information",
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// One attempt, as the list has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its name, which no other has.
    pub name: String,
    /// What it is after.
    pub group: Group,
    /// What it tries.
    pub tries: String,
    /// Which outcome is a success of the attack.
    pub wins: String,
    /// Why an attacker would.
    pub why: String,
}

/// In which phase of a vmm's life it falls into a stranger's hands: which filter is on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Before its own first pledge, with the filter that the jailer installs.
    Launch,
    /// While it is configured.
    Configure,
    /// The main thread, while the guest runs.
    Run,
    /// The thread that serves the API.
    Api,
    /// A vCPU's thread.
    Vcpu,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 5] = [Self::Launch, Self::Configure, Self::Run, Self::Api, Self::Vcpu];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Launch => "launch",
            Self::Configure => "configure",
            Self::Run => "run",
            Self::Api => "api",
            Self::Vcpu => "vcpu",
        }
    }

    /// The phase of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }
}

/// What a hostile vmm does without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Storm {
    /// Starts processes.
    Processes,
    /// Takes memory.
    Memory,
    /// Opens descriptors.
    Descriptors,
    /// Writes to its disk, through to the host's.
    Disk,
    /// Writes to its console.
    Console,
    /// Computes.
    Processor,
    /// Connects to whoever listens, thousands of times.
    Connections,
}

impl Storm {
    /// Every storm.
    pub const ALL: [Self; 7] = [
        Self::Processes,
        Self::Memory,
        Self::Descriptors,
        Self::Disk,
        Self::Console,
        Self::Processor,
        Self::Connections,
    ];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Processes => "processes",
            Self::Memory => "memory",
            Self::Descriptors => "descriptors",
            Self::Disk => "disk",
            Self::Console => "console",
            Self::Processor => "processor",
            Self::Connections => "connections",
        }
    }
}

/// What there is to attack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Targets {
    /// A folder of the host that everybody may use, with these in it: `world` (everybody may read it), `private` (root's own),
    /// `writable` (everybody may write it), `program` and `setuid` (prisoners), `link` (symbolic), `open` (a folder that
    /// everybody may write to, with the file `victim` in it), `image` and `disk` (what is handed over), `socket` and `datagram`
    /// (unix sockets that listen).
    pub folder: PathBuf,
    /// Process id of the process to attack, which leads a process group.
    pub victim: i32,
    /// Where in its memory the marker is.
    pub victim_address: u64,
    /// System V key of its shared memory, which has the marker in it. The key after it is free.
    pub ipc_key: i32,
    /// Port of 127.0.0.1 at which somebody listens with TCP.
    pub tcp_port: u16,
    /// Port of 127.0.0.1 at which somebody listens with UDP.
    pub udp_port: u16,
    /// Abstract unix socket at which somebody listens.
    pub abstract_name: String,
    /// The virtual machine next door.
    pub neighbour: Neighbour,
}

/// The virtual machine next door.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbour {
    /// Process id of its vmm on the host.
    pub pid: i32,
    /// Its user id.
    pub uid: u32,
    /// Its folder, with `console` and the socket `api.sock`.
    pub run_directory: PathBuf,
    /// Its control groups.
    pub cgroups: Vec<PathBuf>,
}

/// What came of an attempt, in its own words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", content = "detail", rename_all = "kebab-case")]
pub enum Report {
    /// The attack succeeded: by what that shows.
    Succeeded(String),
    /// It did not: by what the kernel said.
    Refused(String),
    /// It did not, as the kernel says that there is no such thing.
    Absent(String),
}
