//! The examples are what they say they are, and printing and reading gives the same again.

mod fixture;

use std::path::PathBuf;

use fixture::{host, input};
use stockade_config::model::{Boot, Definition, DiskAccess, MemorySize, Override, Owner, StartPolicy, Vsock};
use stockade_config::{Missing, Style, Verbosity, Verdict, check, load};

#[test]
fn the_whole_language() {
    let loaded = load(&host(), &input("/etc/stockade/vm.conf")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.report.to_string(), "");
    let config = loaded.config;
    assert_eq!((config.switches.len(), config.vms.len(), config.quotas.len()), (2, 5, 3));

    let web = &config.vm("web").unwrap().definition;
    assert_eq!((web.cpus, web.memory.mib(), web.vsock), (2, 1536, Some(Vsock::ContextId(1000))));
    assert_eq!(web.command_line.as_deref(), Some("root=/dev/vda ro quiet"));
    assert_eq!(web.owner, Owner { uid: 33, gid: Some(33) });
    assert_eq!(web.disks[0].path, PathBuf::from("/etc/stockade/images/web.img"));
    assert_eq!(web.disks[0].rate.bytes_per_second, Some(50 << 20));
    assert_eq!(web.interfaces.len(), 3);
    assert_eq!(web.interfaces[1].tap.as_deref(), Some("tap3"));
    assert_eq!(web.missing(), [Missing::BootDevice, Missing::Cdrom, Missing::Interfaces]);

    let debian = config.vm("debian").unwrap();
    assert_eq!((debian.start, debian.definition.instances.overrides.len()), (StartPolicy::Disabled, 8));
    assert!(debian.definition.instances.overrides.contains(&Override::Instance));

    let alice = config.vm("alice-1").unwrap();
    assert_eq!(alice.template.as_ref().unwrap().as_str(), "debian");
    assert_eq!(alice.definition.boot, Boot::Default);
    assert_eq!(alice.definition.memory, MemorySize::from_mib(1024).unwrap());
    assert_eq!(alice.definition.owner, Owner { uid: 1000, gid: None });
    let access: Vec<_> = alice.definition.disks.iter().map(|disk| disk.access).collect();
    assert_eq!(access, [DiskAccess::ReadOnly, DiskAccess::ReadWrite]);
    assert_eq!(config.vm("secret").unwrap().definition.missing().len(), 5);
}

#[test]
fn the_short_example() {
    let loaded = load(&host(), &input("/etc/stockade/small.conf")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(loaded.report.to_string(), "");
    assert!(loaded.config.vms.iter().all(|vm| vm.definition.missing().is_empty()));
    assert_eq!(loaded.config.vm("ci").unwrap().definition.owner, Owner { uid: 0, gid: Some(300) });
    assert_eq!(Definition::default().missing(), [Missing::Firmware]);
}

#[test]
fn printed_and_read_again() {
    for name in ["/etc/stockade/vm.conf", "/etc/stockade/small.conf"] {
        let mut host = host();
        let config = load(&host, &input(name)).unwrap_or_else(|error| panic!("{error}")).config;
        host.add("/printed.conf", config.to_string());
        let again = load(&host, &input("/printed.conf")).unwrap_or_else(|error| panic!("{error}\n{config}"));
        assert_eq!(again.config, config, "{config}");
        let json = serde_json::to_string(&config).unwrap();
        assert_eq!(serde_json::from_str::<stockade_config::Config>(&json).unwrap(), config);
    }
}

#[test]
fn the_check_says_what_comes_of_it() {
    let mut host = host();
    host.add("/bad.conf", "vm \"x\" {\n\tmemroy 1G\n}\nvm \"y\" {\n\tmemory 1\n}\n");
    let run = |host: &stockade_config::host::FakeHost, path, verbosity| {
        let mut output = Vec::new();
        let verdict = check(host, &input(path), verbosity, Style::Plain, &mut output).unwrap();
        (verdict, String::from_utf8(output).unwrap())
    };
    let (verdict, output) = run(&host, "/etc/stockade/small.conf", Verbosity::Brief);
    assert_eq!((verdict.exit_code(), output.as_str()), (0, "configuration OK\n"));
    let (_, output) = run(&host, "/etc/stockade/vm.conf", Verbosity::Verbose);
    assert!(output.contains("vm \"web\" registered (enabled)\n"), "{output}");
    assert!(
        output.contains(
            "vm \"secret\" can't be started: disks can't have the format qcow2 yet; convert the image to raw\n"
        ),
        "{output}"
    );
    let (verdict, output) = run(&host, "/bad.conf", Verbosity::Brief);
    assert_eq!((verdict, verdict.exit_code()), (Verdict::Bad, 1));
    let expected = "\
error: syntax error: unexpected 'memroy'
 --> /bad.conf:2:2
";
    assert!(output.starts_with(expected), "{output}");
    assert!(output.contains("did you mean 'memory'?"), "{output}");
    assert!(output.contains("^^^^^^"), "{output}");
    assert!(output.contains("failed to parse size: 1\n --> /bad.conf:5:9\n"), "{output}");
    assert!(output.ends_with("configuration has 2 errors\n"), "{output}");
    println!("{output}");
}
