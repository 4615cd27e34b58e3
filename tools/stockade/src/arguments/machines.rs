//! Options of the verbs that the daemon carries out.

use std::path::PathBuf;

use clap::Args;
use stockade_api::VmReference;
use stockade_api::request::{BootDevice, ResetScope, Verbosity};
use stockade_client::DEFAULT_SOCKET;

use super::interfaces::Interfaces;
use super::values::{Disk, boot_device, memory_mib, reference, reset_scope, verbosity};
use super::{CommandArguments, os};

/// Where the daemon is, and how its answers are shown.
#[derive(Debug, Args)]
pub struct DaemonOptions {
    /// Socket of the daemon
    #[arg(long, value_name = "PATH", env = "STOCKADE_SOCKET", default_value = DEFAULT_SOCKET, hide_env_values = true)]
    pub socket: PathBuf,

    /// Print what the daemon answers, as JSON; an error as well, on standard error
    #[arg(long)]
    pub json: bool,
}

/// Options of `stockade status`.
#[derive(Debug, Args)]
pub struct StatusArguments {
    /// Only this virtual machine, by name or number; and how it ended the last time
    #[arg(value_name = "VM", value_parser = reference)]
    pub vm: Option<VmReference>,

    /// Only what runs
    #[arg(short, long)]
    pub running: bool,

    #[command(flatten)]
    pub daemon: DaemonOptions,
}

/// Options of `stockade ps`.
#[derive(Debug, Args)]
pub struct PsArguments {
    /// Also what doesn't run, as status does
    #[arg(short, long)]
    pub all: bool,

    #[command(flatten)]
    pub daemon: DaemonOptions,
}

/// Options of `stockade switches`.
#[derive(Debug, Args)]
pub struct SwitchesArguments {
    #[command(flatten)]
    pub daemon: DaemonOptions,
}

/// Options of `stockade start`.
#[derive(Debug, Args)]
pub struct StartArguments {
    /// Name or number of a virtual machine that is known; or, with any of the options below, the name of a new one
    #[arg(value_name = "VM", value_parser = reference)]
    pub vm: VmReference,

    /// Attach to its console, from the first thing that it says
    #[arg(short, long, conflicts_with = "json")]
    pub console: bool,

    #[command(flatten)]
    pub daemon: DaemonOptions,

    // Last: its heading would be that of whatever follows.
    #[command(flatten)]
    pub new: NewArguments,
}

/// What a virtual machine is like that vm.conf does not define.
#[derive(Debug, Args)]
#[command(next_help_heading = "A virtual machine of its own, gone once it has stopped")]
pub struct NewArguments {
    /// Make an instance of this virtual machine: what is not given is the same as there
    #[arg(short, long, value_name = "VM")]
    pub template: Option<String>,

    /// Boot this kernel: an ELF vmlinux or a bzImage
    #[arg(short = 'b', long, visible_alias = "boot", value_name = "FILE")]
    pub kernel: Option<PathBuf>,

    /// Boot with this initial RAM disk
    #[arg(long, value_name = "FILE")]
    pub initramfs: Option<PathBuf>,

    /// Say this to the kernel, after what Stockade says by itself
    #[arg(long, value_name = "TEXT")]
    pub command_line: Option<String>,

    /// What the firmware boots from: disk, cdrom or net; a reset by the guest then ends the virtual machine
    #[arg(short = 'B', long, value_name = "DEVICE", value_parser = boot_device)]
    pub boot_device: Option<BootDevice>,

    /// Virtual processors
    #[arg(short = 'p', long, value_name = "NUMBER")]
    pub cpus: Option<u32>,

    /// Memory of the guest, for instance 512M
    #[arg(short, long, value_name = "SIZE", value_parser = memory_mib)]
    pub memory: Option<u64>,

    /// Attach this image as a disk; once for each disk
    #[arg(short, long = "disk", value_name = "IMAGE[:ro|:rw]", value_parser = os(Disk::parse))]
    pub disks: Vec<Disk>,

    /// Put this image into the CD-ROM drive
    #[arg(short = 'r', long, value_name = "IMAGE")]
    pub cdrom: Option<PathBuf>,

    #[command(flatten)]
    pub interfaces: Interfaces,

    /// End the virtual machine when the guest resets, instead of starting it again
    #[arg(long)]
    pub ends_on_reset: bool,
}

impl NewArguments {
    /// Whether anything was given, so that a new virtual machine is meant.
    pub fn is_any(&self) -> bool {
        let Self {
            template,
            kernel,
            initramfs,
            command_line,
            boot_device,
            cpus,
            memory,
            disks,
            cdrom,
            interfaces,
            ends_on_reset,
        } = self;
        template.is_some()
            || kernel.is_some()
            || initramfs.is_some()
            || command_line.is_some()
            || boot_device.is_some()
            || cpus.is_some()
            || memory.is_some()
            || !disks.is_empty()
            || cdrom.is_some()
            || !interfaces.0.is_empty()
            || *ends_on_reset
    }
}

/// Options of `stockade stop`.
#[derive(Debug, Args)]
pub struct StopArguments {
    /// Name or number of the virtual machine
    #[arg(value_name = "VM", value_parser = reference, required_unless_present = "all", conflicts_with = "all")]
    pub vm: Option<VmReference>,

    /// Stop all that run
    #[arg(short, long)]
    pub all: bool,

    /// End it at once, without asking the guest; it is over when this returns
    #[arg(short, long)]
    pub force: bool,

    /// Wait until it is over, instead of only until the guest has been asked
    #[arg(short, long)]
    pub wait: bool,

    #[command(flatten)]
    pub daemon: DaemonOptions,
}

/// Options of the verbs that do one thing with one virtual machine.
#[derive(Debug, Args)]
pub struct OneArguments {
    /// Name or number of the virtual machine
    #[arg(value_name = "VM", value_parser = reference)]
    pub vm: VmReference,

    #[command(flatten)]
    pub daemon: DaemonOptions,
}

/// Options of `stockade reload`.
#[derive(Debug, Args)]
pub struct ReloadArguments {
    #[command(flatten)]
    pub daemon: DaemonOptions,
}

/// Options of `stockade load`.
#[derive(Debug, Args)]
pub struct LoadArguments {
    /// The file, which the daemon reads
    #[arg(value_name = "FILE")]
    pub file: PathBuf,

    #[command(flatten)]
    pub daemon: DaemonOptions,
}

/// Options of `stockade reset`.
#[derive(Debug, Args)]
pub struct ResetArguments {
    /// What is forgotten: all, vms (what runs is ended) or switches
    #[arg(value_name = "WHAT", default_value = "all", value_parser = reset_scope)]
    pub what: ResetScope,

    #[command(flatten)]
    pub daemon: DaemonOptions,
}

/// Options of `stockade log`.
#[derive(Debug, Args)]
pub struct LogArguments {
    /// How much: brief or verbose
    #[arg(value_name = "VERBOSITY", value_parser = verbosity)]
    pub verbosity: Verbosity,

    #[command(flatten)]
    pub daemon: DaemonOptions,
}

/// Options of `stockade events`.
#[derive(Debug, Args)]
pub struct EventsArguments {
    /// Only what happened after this cursor: the first number of a line, or the field cursor in JSON
    #[arg(long, value_name = "CURSOR")]
    pub after: Option<u64>,

    /// Go on with what happens from now on
    #[arg(short, long)]
    pub follow: bool,

    #[command(flatten)]
    pub daemon: DaemonOptions,
}

/// Options of `stockade exec`.
#[derive(Debug, Args)]
pub struct ExecArguments {
    /// Name or number of the virtual machine
    #[arg(value_name = "VM", value_parser = reference)]
    pub vm: VmReference,

    #[command(flatten)]
    pub command: CommandArguments,

    /// Socket of the daemon
    #[arg(long, value_name = "PATH", env = "STOCKADE_SOCKET", default_value = DEFAULT_SOCKET, hide_env_values = true)]
    pub socket: PathBuf,
}

/// Options of `stockade console`.
#[derive(Debug, Args)]
pub struct ConsoleArguments {
    /// Name or number of a virtual machine that runs
    #[arg(value_name = "VM", value_parser = reference)]
    pub vm: VmReference,

    /// Only see what the guest writes
    #[arg(short, long)]
    pub read_only: bool,

    /// Type in the place of whoever does now
    #[arg(long, conflicts_with = "read_only")]
    pub take: bool,

    /// Socket of the daemon
    #[arg(long, value_name = "PATH", env = "STOCKADE_SOCKET", default_value = DEFAULT_SOCKET, hide_env_values = true)]
    pub socket: PathBuf,
}

/// Options of `stockade logs`.
#[derive(Debug, Args)]
pub struct LogsArguments {
    /// Name or number of the virtual machine, or the name that was given to `stockade run`
    #[arg(value_name = "VM", value_parser = reference)]
    pub vm: VmReference,

    /// Go on with what is written from now on, until it does not run any more
    #[arg(short, long)]
    pub follow: bool,

    /// Only the last lines
    #[arg(short = 'n', long, value_name = "NUMBER")]
    pub lines: Option<usize>,

    /// Socket of the daemon
    #[arg(long, value_name = "PATH", env = "STOCKADE_SOCKET", default_value = DEFAULT_SOCKET, hide_env_values = true)]
    pub socket: PathBuf,
}
