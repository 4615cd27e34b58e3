//! Configurations as text: what `show config` prints, and what means the same when it is read again.
//!
//! Paths are absolute, owners are numbers, and what is as it would be anyway is left out; only instances say everything that they may, because what they
//! leave out comes from their template.

use std::fmt::{self, Display, Formatter};
use std::path::Path;

use crate::model::{
    AgentX, Boot, BootDevice, Config, Definition, Disk, DiskAccess, DiskFormat, EncryptedMemory, Globals, Interface,
    LinkState, LocalInet6, Override, Owner, Quota, Rdomain, Shutdown, SourceCheck, StartPolicy, StatusVisibility,
    Subject, Switch, Vm, Vsock,
};

impl Display for Config {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        self.globals.fmt(out)?;
        for quota in &self.quotas {
            quota.fmt(out)?;
        }
        for switch in &self.switches {
            switch.fmt(out)?;
        }
        for vm in &self.vms {
            let template = vm.template.as_ref().and_then(|name| self.vm(name.as_str()));
            print_vm(vm, template.map(|template| &template.definition), out)?;
        }
        Ok(())
    }
}

/// Text in quotes.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str("\"")?;
        let mut follows_backslash = false;
        for character in self.0.chars() {
            // A backslash before a quote or a blank is for that; one before another backslash is just one.
            if character == '"' || (follows_backslash && matches!(character, ' ' | '\t')) {
                out.write_str("\\")?;
            }
            write!(out, "{character}")?;
            follows_backslash = character == '\\';
        }
        out.write_str("\"")
    }
}

fn quoted(path: &Path) -> String {
    Quoted(&path.to_string_lossy()).to_string()
}

impl Display for Owner {
    /// Numbers, as vm.conf has them.
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.gid {
            None => write!(out, "{}", self.uid),
            Some(gid) => write!(out, "\"{}:{gid}\"", self.uid),
        }
    }
}

impl Display for Globals {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let default = Self::default();
        if self.local_prefix != default.local_prefix {
            writeln!(out, "local prefix \"{}\"", self.local_prefix)?;
        }
        match self.local_inet6 {
            LocalInet6::Off => {}
            LocalInet6::Random => writeln!(out, "local inet6")?,
            LocalInet6::Prefix(prefix) => writeln!(out, "local inet6 prefix \"{prefix}\"")?,
        }
        if self.socket_owner != default.socket_owner {
            writeln!(out, "socket owner {}", self.socket_owner)?;
        }
        if let Some(AgentX { context, path }) = &self.agentx {
            write!(out, "agentx")?;
            if let Some(context) = context {
                write!(out, " context {}", Quoted(context))?;
            }
            writeln!(out, " path {}", quoted(path))?;
        }
        if let Some(start) = self.staggered_start {
            writeln!(out, "staggered start parallel {} delay {}", start.parallel, start.delay_seconds)?;
        }
        if self.status_visible == StatusVisibility::All {
            writeln!(out, "status visible all")?;
        }
        if self.stop_timeout_seconds != default.stop_timeout_seconds {
            writeln!(out, "stop timeout {}", self.stop_timeout_seconds)?;
        }
        if self.shutdown == Shutdown::Leave {
            writeln!(out, "shutdown leave")?;
        }
        self.reserved_memory.map_or(Ok(()), |size| writeln!(out, "reserve memory {size}"))
    }
}

impl Display for Quota {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.subject {
            Subject::Default => writeln!(out, "quota default {{")?,
            Subject::User(uid) => writeln!(out, "quota owner {uid} {{")?,
            Subject::Group(gid) => writeln!(out, "quota owner \":{gid}\" {{")?,
        }
        line(out, "vms", self.vms)?;
        line(out, "cpus", self.cpus)?;
        line(out, "memory", self.memory)?;
        line(out, "disks", self.disks)?;
        writeln!(out, "}}")
    }
}

/// `keyword value`, if there is one.
fn line(out: &mut Formatter<'_>, keyword: &str, value: Option<impl Display>) -> fmt::Result {
    value.map_or(Ok(()), |value| writeln!(out, "\t{keyword} {value}"))
}

impl Display for Switch {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, "switch {} {{", Quoted(&self.name))?;
        writeln!(out, "\tinterface {}", Quoted(&self.interface))?;
        if self.start == StartPolicy::Disabled {
            writeln!(out, "\tdisable")?;
        }
        line(out, "group", self.group.as_deref().map(Quoted))?;
        if self.source_check == SourceCheck::Locked {
            writeln!(out, "\tlocked lladdr")?;
        }
        line(out, "rdomain", self.rdomain.as_ref())?;
        if self.link == LinkState::Down {
            writeln!(out, "\tdown")?;
        }
        writeln!(out, "}}")
    }
}

impl Display for Rdomain {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table(table) => table.fmt(out),
            Self::Name(name) => Quoted(name).fmt(out),
        }
    }
}

fn print_vm(vm: &Vm, template: Option<&Definition>, out: &mut Formatter<'_>) -> fmt::Result {
    match &vm.template {
        Some(template) => writeln!(out, "vm \"{template}\" instance \"{}\" {{", vm.name)?,
        None => writeln!(out, "vm \"{}\" {{", vm.name)?,
    }
    // A block has an option at least.
    writeln!(out, "\t{}", if vm.start == StartPolicy::Enabled { "enable" } else { "disable" })?;
    let definition = &vm.definition;
    writeln!(out, "\tcpus {}\n\tmemory {}", definition.cpus, definition.memory)?;
    print_boot(definition, out)?;
    let shared =
        |disk: &&Disk| template.is_some_and(|template| template.disks.iter().any(|other| other.path == disk.path));
    for disk in definition.disks.iter().filter(|disk| !shared(disk)) {
        writeln!(out, "\t{disk}")?;
    }
    line(out, "cdrom", definition.cdrom.as_deref().map(quoted))?;
    for interface in &definition.interfaces {
        writeln!(out, "\t{interface}")?;
    }
    match definition.vsock {
        None => {}
        Some(Vsock::Automatic) => writeln!(out, "\tvsock enable")?,
        Some(Vsock::ContextId(id)) => writeln!(out, "\tvsock {id}")?,
    }
    match definition.encrypted_memory {
        EncryptedMemory::Off => {}
        EncryptedMemory::Sev => writeln!(out, "\tsev")?,
        EncryptedMemory::SevEs => writeln!(out, "\tseves")?,
    }
    if definition.owner != Owner::default() || vm.template.is_some() {
        writeln!(out, "\towner {}", definition.owner)?;
    }
    if vm.template.is_none() {
        print_policy(definition, out)?;
    }
    line(out, "limit cpu", definition.limits.cpu_percent)?;
    line(out, "limit memory", definition.limits.overhead)?;
    line(out, "limit processes", definition.limits.processes)?;
    line(out, "stop timeout", definition.stop_timeout_seconds)?;
    writeln!(out, "}}")
}

fn print_boot(definition: &Definition, out: &mut Formatter<'_>) -> fmt::Result {
    match &definition.boot {
        Boot::Firmware => {}
        Boot::Default => writeln!(out, "\tboot default")?,
        Boot::Kernel { path, initramfs } => {
            line(out, "boot", Some(quoted(path)))?;
            line(out, "initramfs", initramfs.as_deref().map(quoted))?;
        }
    }
    line(out, "cmdline", definition.command_line.as_deref().map(Quoted))?;
    let device = definition.boot_device.map(|device| match device {
        BootDevice::Cdrom => "cdrom",
        BootDevice::Disk => "disk",
        BootDevice::Net => "net",
    });
    line(out, "boot device", device)
}

fn print_policy(definition: &Definition, out: &mut Formatter<'_>) -> fmt::Result {
    let policy = &definition.instances;
    line(out, "allow instance owner", policy.owner)?;
    for what in &policy.overrides {
        let keyword = match what {
            Override::Boot => "boot",
            Override::Cpus => "cpus",
            Override::Memory => "memory",
            Override::Interface => "interface",
            Override::Disk => "disk",
            Override::Cdrom => "cdrom",
            Override::Vsock => "vsock",
            Override::Instance => "instance",
        };
        writeln!(out, "\tallow instance {keyword}")?;
    }
    Ok(())
}

impl Display for Disk {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let format = if self.format == DiskFormat::Raw { "raw" } else { "qcow2" };
        write!(out, "disk {} format \"{format}\"", quoted(&self.path))?;
        if self.access == DiskAccess::ReadOnly {
            write!(out, " readonly")?;
        }
        if let Some(rate) = self.rate.bytes_per_second {
            write!(out, " rate \"{rate}B\"")?;
        }
        self.rate.operations_per_second.map_or(Ok(()), |ops| write!(out, " ops {ops}"))
    }
}

impl Display for Interface {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if self.local {
            write!(out, "local ")?;
        }
        write!(
            out,
            "interface \"{}\" {{ {}",
            self.tap.as_deref().unwrap_or("tap"),
            if self.link == LinkState::Up { "up" } else { "down" }
        )?;
        if let Some(switch) = &self.switch {
            write!(out, " switch {}", Quoted(switch))?;
        }
        if let Some(group) = &self.group {
            write!(out, " group {}", Quoted(group))?;
        }
        match (self.source_check, self.lladdr) {
            (SourceCheck::Off, None) => {}
            (SourceCheck::Off, Some(address)) => write!(out, " lladdr \"{address}\"")?,
            (SourceCheck::Locked, None) => write!(out, " locked lladdr")?,
            (SourceCheck::Locked, Some(address)) => write!(out, " locked lladdr \"{address}\"")?,
        }
        if let Some(rdomain) = &self.rdomain {
            write!(out, " rdomain {rdomain}")?;
        }
        write!(out, " }}")
    }
}
