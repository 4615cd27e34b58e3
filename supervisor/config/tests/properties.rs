//! Whatever is in a file, it ends with a configuration or an error; and what is printed means the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state what they expect, and fail by panicking"
)]

mod fixture;

use proptest::collection::{btree_set, vec};
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::select;
use stockade_config::host::FakeHost;
use stockade_config::model::{
    AgentX, Boot, BootDevice, Definition, Disk, DiskAccess, DiskFormat, DiskRate, EncryptedMemory, Globals,
    InstancePolicy, Interface, Limits, LinkState, LocalInet6, MacAddress, MemorySize, Override, Owner, Quota, Rdomain,
    Shutdown, SourceCheck, StaggeredStart, StartPolicy, StatusVisibility, Subject, Switch, Vm, Vsock,
};
use stockade_config::{Config, Overrides, Requester, instantiate, load};

/// Words that mean something somewhere.
const WORDS: &[&str] = &[
    "vm",
    "switch",
    "quota",
    "x",
    "\"a b\"",
    "'",
    "\"",
    "{",
    "}",
    "\n",
    "\n",
    ",",
    "=",
    "$x",
    "$",
    "\\",
    "\\\n",
    "#",
    "instance",
    "disk",
    "images/web.img",
    "boot",
    "default",
    "device",
    "memory",
    "1G",
    "512M",
    "5",
    "-1",
    "cpus",
    "interface",
    "interfaces",
    "local",
    "locked",
    "lladdr",
    "2:2:2:2:2:2",
    "prefix",
    "inet6",
    "allow",
    "owner",
    "alice",
    "limit",
    "cpu",
    "stop",
    "timeout",
    "include",
    "tenants.conf",
    "x.conf",
    "format",
    "raw",
    "group",
    "rdomain",
    "up",
    "down",
    "enable",
    "disable",
    "vsock",
    "sev",
    "start",
    "staggered",
    "parallel",
    "delay",
    "x = \"vm y {\"\n",
    "\u{fc}",
    "\0",
    "\r",
];

fn survives(bytes: &[u8]) {
    let mut host = fixture::host();
    host.add("/etc/stockade/x.conf", bytes);
    match load(&host, &fixture::input("/etc/stockade/x.conf")) {
        // What is accepted can be printed and read.
        Ok(loaded) => assert_eq!(reread(host, &loaded.config), loaded.config),
        Err(rejected) => {
            assert!(rejected.report.errors() > 0);
            assert!(rejected.report.lines().all(|line| !line.is_empty()));
            assert!(!rejected.report.to_string().is_empty());
        }
    }
}

fn reread(mut host: FakeHost, config: &Config) -> Config {
    host.add("/printed.conf", config.to_string());
    let again = load(&host, &fixture::input("/printed.conf"));
    again.unwrap_or_else(|error| panic!("{error}\n{config}\n{config:#?}")).config
}

proptest! {
    #[test]
    fn bytes(bytes in vec(any::<u8>(), 0..400)) {
        survives(&bytes);
    }

    #[test]
    fn text(text in "[ -~\n\t\"'$\\\\{}]{0,400}") {
        survives(text.as_bytes());
    }

    #[test]
    fn words(words in vec(select(WORDS), 0..120)) {
        survives(words.join(" ").as_bytes());
    }

    #[test]
    fn examples_with_changes(at in 0_usize..2500, cut in 0_usize..20, word in select(WORDS)) {
        let text = include_str!("../examples/vm.conf");
        let at = at.min(text.len());
        let end = at.saturating_add(cut).min(text.len());
        survives(format!("{}{word}{}", &text[..at], &text[end..]).as_bytes());
    }

    #[test]
    fn printed_configurations(config in configuration()) {
        prop_assert_eq!(reread(host_of(&config), &config), config);
    }
}

#[test]
fn hostile_sizes_end() {
    for text in [
        "{".repeat(200_000),
        "vm x {\n".repeat(5_000),
        "vm x { foo {\n".repeat(5_000),
        format!("vm x {{\n{}", "interface {\n".repeat(30_000)),
        "}\n".repeat(20_000),
        "foo bar\n".repeat(10_000),
        "x ".repeat(400_000),
        format!("disk {}", "a ".repeat(200_000)),
        format!("x = \"{}\"\n{}", "{ ".repeat(3000), "$x\n".repeat(1000)),
        "\"".repeat(300_001),
        "x=y\n".repeat(20_000),
        format!("vm x {{\n{}}}\n", "disk /nope\n".repeat(5_000)),
        "a,".repeat(200_000),
    ] {
        survives(text.as_bytes());
    }
    let many: String = (0..3_000).map(|number| format!("vm v{number} {{\nboot default\n}}\n")).collect();
    survives(many.as_bytes());
}

/// A host that has what `config` names.
fn host_of(config: &Config) -> FakeHost {
    let mut host = FakeHost::default();
    for definition in config.vms.iter().map(|vm| &vm.definition) {
        for disk in &definition.disks {
            host.add(&disk.path, if disk.format == DiskFormat::Qcow2 { "QFI" } else { "x" });
        }
        for path in definition.cdrom.iter() {
            host.add(path, "x");
        }
        if let Boot::Kernel { path, initramfs } = &definition.boot {
            host.add(path, "x");
            for path in initramfs.iter() {
                host.add(path, "x");
            }
        }
    }
    host
}

/// Text that is hard to quote.
fn awkward() -> impl Strategy<Value = String> {
    "[ -~\u{e4}]{0,12}".prop_map(|text| text.trim_end_matches('\\').to_owned())
}

fn path() -> impl Strategy<Value = std::path::PathBuf> {
    awkward().prop_map(|text| format!("/p/{}", text.replace('/', "_")).trim_end_matches(['.', '/']).into())
}

fn memory() -> impl Strategy<Value = MemorySize> {
    (1..=MemorySize::MAX_MIB).prop_map(|mib| MemorySize::from_mib(mib).unwrap())
}

fn owner() -> impl Strategy<Value = Owner> {
    (0..u32::MAX, of(0..u32::MAX)).prop_map(|(uid, gid)| Owner { uid, gid })
}

fn rdomain() -> impl Strategy<Value = Rdomain> {
    prop_oneof![any::<u8>().prop_map(Rdomain::Table), "[a-z0-9][a-z0-9.]{0,9}x".prop_map(Rdomain::Name)]
}

fn link() -> impl Strategy<Value = LinkState> {
    select(&[LinkState::Up, LinkState::Down][..])
}

fn source_check() -> impl Strategy<Value = SourceCheck> {
    select(&[SourceCheck::Off, SourceCheck::Locked][..])
}

prop_compose! {
    fn interface()(local in any::<bool>(), switch in of(awkward()), group in of("[a-z]{1,9}"), source_check in source_check(),
                   rdomain in of(rdomain()), link in link()) -> Interface {
        let switch = switch.filter(|name| !name.is_empty());
        Interface { local, tap: None, switch, group, lladdr: None, source_check, rdomain, link }
    }
}

prop_compose! {
    fn disk()(path in path(), format in select(&[DiskFormat::Raw, DiskFormat::Qcow2][..]),
              access in select(&[DiskAccess::ReadOnly, DiskAccess::ReadWrite][..]), bytes_per_second in of(1..=u64::MAX),
              operations_per_second in of(1..=u32::MAX)) -> Disk {
        Disk { path, format, access, rate: DiskRate { bytes_per_second, operations_per_second } }
    }
}

fn boot() -> impl Strategy<Value = (Boot, Option<String>)> {
    let kernel = (path(), of(path())).prop_map(|(path, initramfs)| Boot::Kernel { path, initramfs });
    prop_oneof![Just((Boot::Firmware, None)), (Just(Boot::Default), of(awkward())), (kernel, of(awkward()))]
}

fn vsock() -> impl Strategy<Value = Vsock> {
    prop_oneof![Just(Vsock::Automatic), (3..u32::MAX).prop_map(Vsock::ContextId)]
}

fn policy() -> impl Strategy<Value = InstancePolicy> {
    let all = [
        Override::Boot,
        Override::Cpus,
        Override::Memory,
        Override::Interface,
        Override::Disk,
        Override::Cdrom,
        Override::Vsock,
        Override::Instance,
    ];
    (of(owner()), btree_set(select(all.to_vec()), 0..8))
        .prop_map(|(owner, overrides)| InstancePolicy { owner, overrides })
}

prop_compose! {
    fn limits()(cpu_percent in of(1..1_000_000_u32), overhead in of(memory()), processes in of(1..1_000_000_u32)) -> Limits {
        Limits { cpu_percent, overhead, processes }
    }
}

prop_compose! {
    fn definition()((boot, command_line) in boot(), disks in vec(disk(), 0..3), cdrom in of(path()), interfaces in vec(interface(), 0..3),
                    vsock in of(vsock()), encrypted_memory in select(&[EncryptedMemory::Off, EncryptedMemory::Sev, EncryptedMemory::SevEs][..]),
                    device in of(select(&[BootDevice::Cdrom, BootDevice::Disk, BootDevice::Net][..])), owner in owner(),
                    (cpus, memory, limits, instances, stop_timeout_seconds) in (1..=Definition::MAX_CPUS, memory(), limits(), policy(), of(0..86_400_u32)))
        -> Definition {
        let there = |device: &BootDevice| match device {
            BootDevice::Cdrom => cdrom.is_some(),
            BootDevice::Disk => !disks.is_empty(),
            BootDevice::Net => !interfaces.is_empty(),
        };
        let boot_device = device.filter(there);
        Definition { cpus, memory, boot, command_line, boot_device, disks, cdrom, interfaces, vsock, encrypted_memory, owner, instances, limits, stop_timeout_seconds }
    }
}

prop_compose! {
    fn globals()(inet6 in select(&[LocalInet6::Off, LocalInet6::Random][..]), socket_owner in owner(), context in of(awkward()), agentx in any::<bool>(),
                 staggered in of((1..4096_u32, 0..86_400_u32)), all in any::<bool>(), leave in any::<bool>(), stop_timeout_seconds in 0..86_400_u32,
                 reserved_memory in of(memory())) -> Globals {
        let agentx = agentx.then(|| AgentX { context, path: "/run/agentx \" \\ x".into() });
        let staggered_start = staggered.map(|(parallel, delay_seconds)| StaggeredStart { parallel: parallel.try_into().unwrap(), delay_seconds });
        Globals {
            local_prefix: "10.0.0.0/8".parse().unwrap(),
            local_inet6: inet6,
            socket_owner,
            agentx,
            staggered_start,
            status_visible: if all { StatusVisibility::All } else { StatusVisibility::Permitted },
            stop_timeout_seconds,
            shutdown: if leave { Shutdown::Leave } else { Shutdown::Stop },
            reserved_memory,
        }
    }
}

prop_compose! {
    fn switch()(name in awkward(), start in start(), group in of("[a-z]{1,9}"), source_check in source_check(), rdomain in of(rdomain()), link in link()) -> Switch {
        Switch { name: format!("s{name}"), start, interface: "br0".to_owned(), group, source_check, rdomain, link }
    }
}

fn start() -> impl Strategy<Value = StartPolicy> {
    select(&[StartPolicy::Enabled, StartPolicy::Disabled][..])
}

prop_compose! {
    fn quota()(vms in of(0..9_u32), cpus in of(0..9_u32), memory in of(memory()), disks in of(0..9_u32)) -> Quota {
        // A block is not empty.
        Quota { subject: Subject::Default, vms: vms.or(Some(1)), cpus, memory, disks }
    }
}

prop_compose! {
    /// Templates with an instance each, and addresses that are nobody else's.
    fn configuration()(globals in globals(), switches in vec(switch(), 0..3), quota in of(quota()), definitions in vec((definition(), start(), any::<bool>(), of(memory())), 0..4))
        -> Config {
        let mut config = Config { globals, ..Config::default() };
        for switch in switches {
            if config.switch(&switch.name).is_none() {
                config.switches.push(switch);
            }
        }
        config.quotas.extend(quota);
        config.quotas.push(Quota { subject: Subject::Group(7), vms: None, cpus: Some(1), memory: None, disks: None });
        config.quotas.push(Quota { subject: Subject::User(0), vms: None, cpus: None, memory: None, disks: Some(0) });
        for (number, (mut definition, start, has_instance, memory)) in definitions.into_iter().enumerate() {
            for (index, interface) in definition.interfaces.iter_mut().enumerate() {
                interface.tap = Some(format!("tap{number}{index}"));
                interface.lladdr = MacAddress::new([2, 0, 0, 0, u8::try_from(number).unwrap(), u8::try_from(index).unwrap()]);
            }
            if definition.validate().is_err() {
                continue;
            }
            let name = format!("vm-{number}");
            let overrides = Overrides { memory, ..Overrides::default() };
            let instance = instantiate(&definition, &overrides, Requester::ROOT);
            config.vms.push(Vm { name: name.parse().unwrap(), start, template: None, definition });
            if let (true, Ok(definition)) = (has_instance, instance) {
                config.vms.push(Vm { name: format!("i{number}").parse().unwrap(), start, template: name.parse().ok(), definition });
            }
        }
        config
    }
}
