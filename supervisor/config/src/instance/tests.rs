use std::collections::BTreeSet;

use super::*;
use crate::model::{DiskFormat, DiskRate, SourceCheck};

const TENANT: Requester<'static> = Requester { uid: 1000, groups: &[1000, 250] };
const ALL: [Override; 8] = [
    Override::Boot,
    Override::Cpus,
    Override::Memory,
    Override::Interface,
    Override::Disk,
    Override::Cdrom,
    Override::Vsock,
    Override::Instance,
];

fn address(last: u8) -> MacAddress {
    MacAddress::new([0xfe, 0xe1, 0xba, 0, 0, last]).unwrap()
}

fn disk(path: &str, access: DiskAccess) -> Disk {
    Disk { path: path.into(), format: DiskFormat::Raw, access, rate: DiskRate::default() }
}

/// An interface with everything that is not to be inherited, and something that is.
fn interface(number: u8) -> Interface {
    Interface {
        local: true,
        tap: Some(format!("tap{number}")),
        switch: Some("uplink".to_owned()),
        lladdr: Some(address(number)),
        source_check: SourceCheck::Locked,
        ..Interface::default()
    }
}

/// A template of somebody else, whose instances the tenant may make with `overrides`.
fn template(interfaces: u8, overrides: impl IntoIterator<Item = Override>) -> Definition {
    Definition {
        boot: Boot::Kernel { path: "/kernel".into(), initramfs: None },
        command_line: Some("quiet".to_owned()),
        disks: vec![disk("/own", DiskAccess::ReadWrite), disk("/shared", DiskAccess::ReadOnly)],
        cdrom: Some("/iso".into()),
        interfaces: (0..interfaces).map(interface).collect(),
        vsock: Some(Vsock::ContextId(7)),
        owner: Owner { uid: 5, gid: Some(6) },
        instances: InstancePolicy {
            owner: Some(Owner { uid: 1000, gid: None }),
            overrides: overrides.into_iter().collect(),
        },
        limits: Limits { cpu_percent: Some(50), ..Limits::default() },
        stop_timeout_seconds: Some(3),
        ..Definition::default()
    }
}

/// What a tenant may say, and which permission it takes.
fn choices() -> Vec<(Override, Overrides)> {
    let none = Overrides::default;
    vec![
        (Override::Boot, Overrides { boot: Some(Boot::Default), ..none() }),
        (Override::Boot, Overrides { command_line: Some("debug".to_owned()), ..none() }),
        (Override::Boot, Overrides { boot_device: Some(BootDevice::Cdrom), ..none() }),
        (Override::Cpus, Overrides { cpus: Some(2), ..none() }),
        (Override::Memory, Overrides { memory: MemorySize::from_mib(64), ..none() }),
        (Override::Interface, Overrides { interfaces: vec![Interface::default()], ..none() }),
        (Override::Disk, Overrides { disks: vec![disk("/mine", DiskAccess::ReadWrite)], ..none() }),
        (Override::Cdrom, Overrides { cdrom: Some("/other-iso".into()), ..none() }),
        (Override::Vsock, Overrides { vsock: Some(Vsock::Automatic), ..none() }),
    ]
}

#[test]
fn each_choice_takes_its_permission_and_no_other() {
    for interfaces in 0..=2 {
        for (needed, overrides) in choices() {
            for granted in ALL {
                let got = instantiate(&template(interfaces, [granted]), &overrides, TENANT);
                if granted == needed {
                    assert!(got.is_ok(), "{needed:?} {interfaces}: {got:?}");
                } else {
                    assert_eq!(got, Err(InstanceError::Override(needed)), "{granted:?} {interfaces}");
                }
            }
            let others = ALL.into_iter().filter(|other| *other != needed);
            assert_eq!(
                instantiate(&template(interfaces, others), &overrides, TENANT),
                Err(InstanceError::Override(needed))
            );
            assert!(instantiate(&template(interfaces, []), &overrides, Requester::ROOT).is_ok(), "{needed:?}");
        }
    }
}

#[test]
fn every_set_of_permissions_with_every_choice_at_once() {
    let choices = choices();
    for mask in 0_u32..256 {
        let granted: BTreeSet<_> =
            ALL.into_iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, what)| what).collect();
        for (needed, overrides) in &choices {
            for interfaces in 0..=2 {
                let got = instantiate(&template(interfaces, granted.clone()), overrides, TENANT);
                assert_eq!(got.is_ok(), granted.contains(needed), "{granted:?} {needed:?} {interfaces}");
                // The rules go on to instances of the instance only if they say so.
                if let Ok(made) = got {
                    assert_eq!(made.instances.overrides.is_empty(), !granted.contains(&Override::Instance));
                }
            }
        }
    }
}

#[test]
fn what_is_the_templates_anyway_is_no_choice() {
    let same = Overrides {
        cpus: Some(1),
        memory: Some(MemorySize::DEFAULT),
        uid: Some(5),
        gid: Some(6),
        ..Overrides::default()
    };
    assert!(instantiate(&template(1, []), &same, TENANT).is_ok());
}

#[test]
fn inherits_all_but_names_addresses_and_disks_that_are_written() {
    for interfaces in 0..=2 {
        let template = template(interfaces, []);
        let made = instantiate(&template, &Overrides::default(), TENANT).unwrap();
        let mut expected = template.clone();
        expected.disks.remove(0);
        expected.instances = InstancePolicy::default();
        expected.vsock = Some(Vsock::Automatic);
        for interface in &mut expected.interfaces {
            (interface.tap, interface.lladdr) = (None, None);
        }
        assert_eq!(made, expected);
    }
}

#[test]
fn own_interfaces_come_first_and_the_rest_is_inherited() {
    let own = Interface { lladdr: Some(address(9)), tap: Some("tap9".to_owned()), ..Interface::default() };
    let overrides = Overrides { interfaces: vec![own.clone()], ..Overrides::default() };
    for (interfaces, expected) in [(0, 1), (1, 1), (2, 2)] {
        let made = instantiate(&template(interfaces, [Override::Interface]), &overrides, TENANT).unwrap();
        assert_eq!((made.interfaces.len(), &made.interfaces[0]), (expected, &own));
    }
    let made = instantiate(&template(2, [Override::Interface]), &overrides, TENANT).unwrap();
    assert_eq!(made.interfaces[1], Interface { lladdr: None, tap: None, ..interface(1) });
}

#[test]
fn an_equal_address_name_or_disk_is_in_use() {
    for requester in [TENANT, Requester::ROOT] {
        let with = |interface| Overrides { interfaces: vec![interface], ..Overrides::default() };
        let template = template(2, ALL);
        let same = with(Interface { lladdr: Some(address(1)), ..Interface::default() });
        assert_eq!(instantiate(&template, &same, requester), Err(InstanceError::LladdrInUse(address(1))));
        let same = with(Interface { tap: Some("tap1".to_owned()), ..Interface::default() });
        assert_eq!(instantiate(&template, &same, requester), Err(InstanceError::TapInUse("tap1".to_owned())));
        for (path, access) in
            [("/own", DiskAccess::ReadWrite), ("/shared", DiskAccess::ReadOnly), ("/own", DiskAccess::ReadOnly)]
        {
            let same = Overrides { disks: vec![disk(path, access)], ..Overrides::default() };
            assert_eq!(instantiate(&template, &same, requester), Err(InstanceError::DiskInUse(path.into())));
        }
    }
}

#[test]
fn only_named_users_and_groups_make_instances() {
    let mut template = template(0, []);
    let none = Overrides::default();
    let wheel = Requester { uid: 1000, groups: &[0] };
    for (owner, requester, allowed) in [
        (None, TENANT, false),
        // D3: not every member of group 0.
        (None, wheel, false),
        (None, Requester::ROOT, true),
        (Some(Owner { uid: 1000, gid: None }), TENANT, true),
        (Some(Owner { uid: 1001, gid: None }), TENANT, false),
        (Some(Owner { uid: 0, gid: Some(250) }), TENANT, true),
        (Some(Owner { uid: 0, gid: Some(251) }), TENANT, false),
        (Some(Owner { uid: 1001, gid: Some(250) }), TENANT, true),
        // A user and a group of one number are different.
        (Some(Owner { uid: 250, gid: None }), TENANT, false),
        (Some(Owner { uid: 0, gid: None }), wheel, false),
    ] {
        template.instances.owner = owner;
        let got = instantiate(&template, &none, requester);
        assert_eq!(got == Err(InstanceError::NotPermitted), !allowed, "{owner:?} {requester:?}");
    }
}

#[test]
fn owners_of_instances() {
    let template = template(0, []);
    let own = |uid, gid| Overrides { uid, gid, ..Overrides::default() };
    let owner = |overrides: &Overrides, requester| instantiate(&template, overrides, requester).map(|made| made.owner);
    let is = |uid, gid| Ok(Owner { uid, gid: Some(gid) });
    assert_eq!(owner(&own(None, None), TENANT), is(5, 6));
    assert_eq!(owner(&own(Some(1000), None), TENANT), is(1000, 6));
    assert_eq!(owner(&own(Some(5), Some(6)), TENANT), is(5, 6));
    assert_eq!(owner(&own(Some(0), None), TENANT), Err(InstanceError::User(0)));
    assert_eq!(owner(&own(Some(1001), None), TENANT), Err(InstanceError::User(1001)));
    assert_eq!(owner(&own(None, Some(250)), TENANT), Err(InstanceError::Group(250)));
    assert_eq!(owner(&own(None, Some(0)), TENANT), Err(InstanceError::Group(0)));
    // D5: root can make it root's, and everybody's.
    assert_eq!(owner(&own(Some(0), Some(0)), Requester::ROOT), is(0, 0));
    assert_eq!(owner(&own(Some(77), Some(78)), Requester::ROOT), is(77, 78));
}

#[test]
fn only_root_sets_limits() {
    let template = template(0, ALL);
    let limits = Limits { cpu_percent: None, overhead: None, processes: Some(9) };
    let limited = Overrides { limits, ..Overrides::default() };
    assert_eq!(instantiate(&template, &limited, TENANT), Err(InstanceError::RootOnly("limits")));
    let made = instantiate(&template, &limited, Requester::ROOT).unwrap();
    assert_eq!(made.limits, Limits { cpu_percent: Some(50), overhead: None, processes: Some(9) });
    let sev = Overrides { encrypted_memory: Some(EncryptedMemory::Sev), ..Overrides::default() };
    assert_eq!(instantiate(&template, &sev, TENANT), Err(InstanceError::RootOnly("'sev'")));
    let patient = Overrides { stop_timeout_seconds: Some(4), ..Overrides::default() };
    assert_eq!(instantiate(&template, &patient, TENANT), Err(InstanceError::RootOnly("the stop timeout")));
    assert_eq!(instantiate(&template, &patient, Requester::ROOT).unwrap().stop_timeout_seconds, Some(4));
}

#[test]
fn rules_are_the_templates_or_none() {
    let own = Overrides { instances: Some(InstancePolicy::default()), ..Overrides::default() };
    for requester in [TENANT, Requester::ROOT] {
        assert_eq!(instantiate(&template(0, ALL), &own, requester), Err(InstanceError::Rules));
        let template = template(0, [Override::Instance, Override::Memory]);
        let made = instantiate(&template, &Overrides::default(), requester).unwrap();
        assert_eq!(made.instances, template.instances);
    }
}

#[test]
fn without_anything_of_its_own_it_needs_something_to_boot() {
    // D6: whatever the template boots, if it is not the disk that is the template's alone.
    let bare = |boot, cdrom: Option<&str>, access| Definition {
        boot,
        command_line: None,
        cdrom: cdrom.map(Into::into),
        disks: vec![disk("/own", access)],
        ..template(0, [Override::Disk])
    };
    let none = Overrides::default();
    assert!(instantiate(&bare(Boot::Default, None, DiskAccess::ReadWrite), &none, TENANT).is_ok());
    assert!(instantiate(&bare(Boot::Firmware, Some("/iso"), DiskAccess::ReadWrite), &none, TENANT).is_ok());
    assert!(instantiate(&bare(Boot::Firmware, None, DiskAccess::ReadOnly), &none, TENANT).is_ok());
    let nothing = bare(Boot::Firmware, None, DiskAccess::ReadWrite);
    assert_eq!(instantiate(&nothing, &none, TENANT), Err(InstanceError::Definition(InvalidDefinition::NothingToBoot)));
    let own = Overrides { disks: vec![disk("/mine", DiskAccess::ReadWrite)], ..none };
    assert!(instantiate(&nothing, &own, TENANT).is_ok());
}

#[test]
fn what_a_tenant_asks_for_is_bounded() {
    let template = template(2, ALL);
    let of = |overrides: Overrides| instantiate(&template, &overrides, TENANT).unwrap_err();
    let none = Overrides::default;
    assert_eq!(of(Overrides { cpus: Some(0), ..none() }), InvalidDefinition::Cpus(0).into());
    assert_eq!(of(Overrides { cpus: Some(255), ..none() }), InvalidDefinition::Cpus(255).into());
    let disks = (0..4).map(|number| disk(&format!("/{number}"), DiskAccess::ReadWrite)).collect();
    assert_eq!(
        of(Overrides { disks, ..none() }),
        InvalidDefinition::TooMany { what: "disks", count: 5, limit: 4 }.into()
    );
    let interfaces = vec![Interface::default(); 5];
    assert_eq!(
        of(Overrides { interfaces, ..none() }),
        InvalidDefinition::TooMany { what: "interfaces", count: 5, limit: 4 }.into()
    );
    for path in ["relative", "/a/../b", "/a\nb", "/a\\"] {
        let disks = vec![disk(path, DiskAccess::ReadWrite)];
        assert_eq!(of(Overrides { disks, ..none() }), InvalidDefinition::Path(path.into()).into());
        assert_eq!(of(Overrides { cdrom: Some(path.into()), ..none() }), InvalidDefinition::Path(path.into()).into());
        let boot = Some(Boot::Kernel { path: "/kernel".into(), initramfs: Some(path.into()) });
        assert_eq!(of(Overrides { boot, ..none() }), InvalidDefinition::Path(path.into()).into());
    }
    let interface = |interface| of(Overrides { interfaces: vec![interface], ..none() });
    let named = |tap: &str| Interface { tap: Some(tap.to_owned()), ..Interface::default() };
    assert_eq!(interface(named("eth0")), InvalidDefinition::Tap("eth0".to_owned()).into());
    assert_eq!(interface(named("tap")), InvalidDefinition::Tap("tap".to_owned()).into());
    assert_eq!(
        interface(Interface { group: Some("x1".to_owned()), ..Interface::default() }),
        InvalidDefinition::Group("x1".to_owned()).into()
    );
    let twice = vec![Interface { lladdr: Some(address(8)), ..Interface::default() }; 2];
    assert_eq!(of(Overrides { interfaces: twice, ..none() }), InvalidDefinition::LladdrTwice(address(8)).into());
    for id in [0, 2, u32::MAX] {
        assert_eq!(
            of(Overrides { vsock: Some(Vsock::ContextId(id)), ..none() }),
            InvalidDefinition::ContextId(id).into()
        );
    }
    for text in ["x".repeat(1537), "a\0b".to_owned(), "a\\".to_owned()] {
        assert_eq!(of(Overrides { command_line: Some(text), ..none() }), InvalidDefinition::CommandLine.into());
    }
}
