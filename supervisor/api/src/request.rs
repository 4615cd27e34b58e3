//! What can be asked for, and what comes back.

use serde::{Deserialize, Serialize};

use crate::event::EventPage;
use crate::switch::SwitchSummary;
use crate::vm::{Exit, Owner, VmId, VmReference, VmSummary};
use crate::whole;

/// What a connection becomes that reaches a guest's agent.
pub const AGENT_PROTOCOL: &str = "stockade-agent";

/// How a virtual machine is stopped.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum StopMode {
    /// The guest is asked to, and ended if it does not within the virtual machine's timeout.
    #[default]
    Ask,
    /// The guest is ended at once.
    Force,
}

/// A request by a client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Which daemon this is. Answered by [`Answer::Version`].
    Version,
    /// Virtual machines that the caller may see, in the order of their numbers. Answered by [`Answer::List`].
    List {
        /// Only those above this number.
        after: VmId,
    },
    /// One virtual machine. Answered by [`Answer::Vm`].
    Show {
        /// Which.
        vm: VmReference,
    },
    /// Starts one that is known. Answered by [`Answer::Vm`] once the guest runs.
    Start {
        /// Which.
        vm: VmReference,
    },
    /// Makes one that is gone once it has stopped, and starts it. Answered by [`Answer::Vm`] once the guest runs.
    Create {
        /// What it is like.
        definition: Box<NewVm>,
    },
    /// Makes one for a command, which ends with the connection of this request. Answered by [`Answer::Attached`] once the guest
    /// runs, with the connection that its agent begins with.
    Run {
        /// What it is like.
        definition: Box<NewRun>,
    },
    /// Stops one. Answered by [`Answer::Exit`] once it is over.
    Stop {
        /// Which.
        vm: VmReference,
        /// How.
        mode: StopMode,
    },
    /// Waits until it does not run any more. Answered by [`Answer::Exit`], at once for one that has ended already.
    Wait {
        /// Which.
        vm: VmReference,
    },
    /// Has the guest's processors stand still. Answered by [`Answer::Vm`].
    Pause {
        /// Which.
        vm: VmReference,
    },
    /// Has them go on. Answered by [`Answer::Vm`].
    Unpause {
        /// Which.
        vm: VmReference,
    },
    /// Events after a cursor; waits for one if there are none yet. Answered by [`Answer::Events`].
    Events {
        /// The cursor, or 0 for all events that are kept. Without one, the answer comes at once: no events, and the cursor to begin after.
        after: Option<u64>,
    },
    /// Attaches the caller to something of a virtual machine. Answered by [`Answer::Attached`], with descriptors.
    Attach {
        /// Which.
        vm: VmReference,
        /// To what of it.
        target: Target,
    },
    /// Switches that the caller may see, in the order of vm.conf. Answered by [`Answer::Switches`].
    Switches,
    /// Reads vm.conf again. Root only. Answered by [`Answer::Done`].
    Reload,
    /// Reads another file, and adds what it defines. Root only. Answered by [`Answer::Done`].
    Load {
        /// Its absolute path.
        path: String,
    },
    /// Forgets what was configured, and ends what runs of it. Root only. Answered by [`Answer::Done`].
    Reset {
        /// How much of it.
        what: ResetScope,
    },
    /// Says how much the daemon logs from now on. Root only. Answered by [`Answer::Done`].
    Log {
        /// How much.
        verbosity: Verbosity,
    },
}

/// What [`Request::Attach`] attaches to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    /// The console, as far as it is kept, and what is typed at it.
    Console {
        /// What the caller does with it.
        access: ConsoleAccess,
    },
    /// The guest's agent, by a connection of its own, on which nothing was said yet.
    Agent,
}

/// What is done with a console.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ConsoleAccess {
    /// It is read, whether or not the virtual machine runs.
    Read,
    /// It is read, and typed at.
    Write,
}

/// What a client is attached to, and which descriptors come with that. What they carry is the guest's, or for the guest:
/// who hands them on looks at nothing of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Attached {
    /// A console: the ring that it is kept in, and with [`ConsoleAccess::Write`] the fifo that is typed into.
    Console {
        /// Whose.
        vm: VmId,
        /// Bytes of the ring.
        ring_bytes: u32,
        /// Number of the watch that says when something was written (inotify(7)).
        watch: i32,
        /// What is done with it.
        access: ConsoleAccess,
    },
    /// A connected stream socket to the vsock device, which has yet to be told to call the agent (`CONNECT`, see
    /// `stockade_vmm`).
    Agent {
        /// Whether the guest is one that runs an agent once it has booted.
        expected: bool,
    },
    /// One connected stream socket, whose other end is the virtual machine's.
    Stream,
}

impl Attached {
    /// How many descriptors come with it.
    pub const fn descriptors(&self) -> usize {
        match self {
            Self::Console { access: ConsoleAccess::Write, .. } => 2,
            Self::Console { access: ConsoleAccess::Read, .. } | Self::Agent { .. } | Self::Stream => 1,
        }
    }
}

/// What [`Request::Reset`] forgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ResetScope {
    /// Virtual machines with their numbers, and switches.
    #[default]
    All,
    /// Virtual machines with their numbers; every one that runs is ended.
    Vms,
    /// Switches.
    Switches,
}

/// How much the daemon logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Verbosity {
    /// What an operator wants to know.
    #[default]
    Brief,
    /// Each step, for finding faults.
    Verbose,
}

/// A virtual machine that a client defines. What is left out is the template's, or else the default.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewVm {
    /// Its name.
    #[cfg_attr(
        feature = "schema",
        schema(min_length = 1, max_length = 63, pattern = r"^([A-Za-z]|[0-9]+[A-Za-z._-])[A-Za-z0-9._-]*$")
    )]
    pub name: String,
    /// The virtual machine that it is an instance of.
    #[serde(default)]
    pub template: Option<String>,
    /// Virtual processors.
    #[serde(default, deserialize_with = "whole::optional")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 32))]
    pub cpus: Option<u32>,
    /// Memory of the guest, MiB.
    #[serde(default, deserialize_with = "whole::optional")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 16777216))]
    pub memory_mib: Option<u64>,
    /// Absolute path of the kernel.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(pattern = r"^/[^\x00]*$", max_length = 4095))]
    pub kernel: Option<String>,
    /// Absolute path of the initial RAM disk.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(pattern = r"^/[^\x00]*$", max_length = 4095))]
    pub initramfs: Option<String>,
    /// What is said to its kernel, after what Stockade says by itself.
    #[serde(default)]
    pub command_line: Option<String>,
    /// What the firmware tries; with it, a reset by the guest ends the virtual machine.
    #[serde(default)]
    pub boot_device: Option<BootDevice>,
    /// Disks.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(max_items = 4))]
    pub disks: Vec<NewDisk>,
    /// Absolute path of the image in the CD-ROM drive.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(pattern = r"^/[^\x00]*$", max_length = 4095))]
    pub cdrom: Option<String>,
    /// Network interfaces.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(max_items = 4))]
    pub interfaces: Vec<NewInterface>,
    /// Whose it is; the caller's, if left out.
    #[serde(default)]
    pub owner: Option<Owner>,
    /// End it when the guest resets, instead of starting it again.
    #[serde(default)]
    pub ends_on_reset: bool,
}

/// A virtual machine for one command, which is gone with the connection that it was asked for on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewRun {
    /// Its name.
    #[cfg_attr(
        feature = "schema",
        schema(min_length = 1, max_length = 63, pattern = r"^([A-Za-z]|[0-9]+[A-Za-z._-])[A-Za-z0-9._-]*$")
    )]
    pub name: String,
    /// Virtual processors.
    #[serde(default, deserialize_with = "whole::optional")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 32))]
    pub cpus: Option<u32>,
    /// Memory of the guest, MiB.
    #[serde(default, deserialize_with = "whole::optional")]
    #[cfg_attr(feature = "schema", schema(minimum = 1, maximum = 16777216))]
    pub memory_mib: Option<u64>,
    /// Absolute path of the kernel; the default guest's if left out. It takes an initial RAM disk.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(pattern = r"^/[^\x00]*$", max_length = 4095))]
    pub kernel: Option<String>,
    /// Absolute path of the initial RAM disk, whose `/init` is `stockade-agent`.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(pattern = r"^/[^\x00]*$", max_length = 4095))]
    pub initramfs: Option<String>,
    /// Disks.
    #[serde(default)]
    #[cfg_attr(feature = "schema", schema(max_items = 4))]
    pub disks: Vec<NewDisk>,
    /// When the guest boots.
    #[serde(default)]
    pub boot: BootMode,
}

/// When a guest boots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BootMode {
    /// If no booted one is kept that it could be cloned from.
    #[default]
    IfNeeded,
    /// In any case.
    Always,
}

/// A disk of a [`NewVm`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewDisk {
    /// Absolute path of the image.
    #[cfg_attr(feature = "schema", schema(pattern = r"^/[^\x00]*$", max_length = 4095))]
    pub path: String,
    /// Whether the guest may not write to it.
    #[serde(default)]
    pub read_only: bool,
}

/// What the firmware of a [`NewVm`] tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum BootDevice {
    /// The first disk.
    Disk,
    /// The CD-ROM.
    Cdrom,
    /// The first network interface.
    Net,
}

/// A network interface of a [`NewVm`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewInterface {
    /// The switch that it is plugged into.
    #[serde(default)]
    pub switch: Option<String>,
    /// Whether the daemon gives host and guest an address of its own.
    #[serde(default)]
    pub local: bool,
}

/// What comes back from a request that was carried out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Of [`Request::Version`].
    Version(Version),
    /// Of [`Request::List`].
    List {
        /// As many as fit.
        vms: Vec<VmSummary>,
        /// Whether there are more.
        more: bool,
    },
    /// One virtual machine.
    Vm(Box<VmSummary>),
    /// How it ended; nothing for one that never ran.
    Exit(Option<Exit>),
    /// Of [`Request::Events`].
    Events(EventPage),
    /// Of [`Request::Attach`].
    Attached(Attached),
    /// Of [`Request::Switches`].
    Switches(Vec<SwitchSummary>),
    /// It is done.
    Done,
}

/// Which daemon this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(utoipa::ToSchema))]
pub struct Version {
    /// Of the program.
    pub version: String,
    /// Of the API.
    pub api: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::vm::{ExitCause, VmState};

    fn summary() -> VmSummary {
        VmSummary {
            id: VmId(7),
            name: "web".into(),
            state: VmState::Running,
            generation: 3,
            owner: Owner { uid: 1000, gid: None },
            run_by: Some(0),
            cpus: 1,
            memory_mib: 512,
            disks: 1,
            interfaces: Vec::new(),
            configured: true,
            pid: Some(1234),
            jail: Some("web-7-3".into()),
            started_ms: Some(1),
            last_exit: Some(Exit { cause: ExitCause::PowerOff, message: "off".into(), at_ms: 2 }),
            last_error: None,
        }
    }

    #[test]
    fn both_encodings_are_whole() {
        let answers = [
            Answer::Vm(Box::new(summary())),
            Answer::List { vms: vec![summary()], more: true },
            Answer::Exit(None),
            Answer::Done,
        ];
        for answer in answers {
            let bytes = postcard::to_stdvec(&answer).unwrap();
            assert_eq!(postcard::from_bytes::<Answer>(&bytes).unwrap(), answer);
            let text = serde_json::to_string(&answer).unwrap();
            assert_eq!(serde_json::from_str::<Answer>(&text).unwrap(), answer);
        }
        let request = Request::Create { definition: Box::new(NewVm { name: "x".into(), ..NewVm::default() }) };
        let bytes = postcard::to_stdvec(&request).unwrap();
        assert_eq!(postcard::from_bytes::<Request>(&bytes).unwrap(), request);
    }

    #[test]
    fn what_is_left_out_has_a_default_and_what_is_unknown_is_refused() {
        let vm: NewVm = serde_json::from_str(r#"{"name":"x","disks":[{"path":"/d"}]}"#).unwrap();
        assert_eq!(
            vm,
            NewVm {
                name: "x".into(),
                disks: vec![NewDisk { path: "/d".into(), read_only: false }],
                ..NewVm::default()
            }
        );
        assert!(serde_json::from_str::<NewVm>(r#"{"name":"x","memmory":1}"#).is_err());
    }

    #[test]
    fn digits_are_a_number() {
        assert_eq!("12".parse(), Ok(VmReference::Id(VmId(12))));
        assert_eq!("web1".parse(), Ok(VmReference::Name("web1".into())));
        assert_eq!("99999999999".parse(), Ok(VmReference::Name("99999999999".into())));
    }
}
