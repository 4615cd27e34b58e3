//! Every message, where it is, and what is suggested.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "tests state what they expect, and fail by panicking"
)]

mod fixture;

use stockade_config::host::FakeHost;
use stockade_config::{Config, Input, Loaded, Report, load, load_beside};

/// The host of the examples, with `text` as the file.
fn host_with(text: &str) -> FakeHost {
    let mut host = fixture::host();
    host.add("/etc/stockade/x.conf", text);
    host
}

fn read(text: &str) -> Result<Loaded, Report> {
    load(&host_with(text), &fixture::input("/etc/stockade/x.conf")).map_err(|rejected| rejected.report)
}

/// The messages about `text`, without the file's name.
fn messages(text: &str) -> Vec<String> {
    let report = match read(text) {
        Ok(loaded) => loaded.report,
        Err(report) => report,
    };
    report.lines().map(|line| line.replace("/etc/stockade/x.conf:", "")).collect()
}

fn help(text: &str) -> Vec<String> {
    let report = read(text).expect_err(text);
    report.diagnostics().iter().filter_map(|diagnostic| diagnostic.help.clone()).collect()
}

fn config(text: &str) -> Config {
    read(text).unwrap_or_else(|report| panic!("{report}")).config
}

/// A VM with `options`, which start at line 2, column 3.
fn vm(options: &str) -> String {
    format!("vm \"x\" {{\n  {options}\n}}\n")
}

#[test]
fn options_of_a_vm() {
    let long = "x".repeat(4096);
    let table = [
        ("memory 1048575", "2:10: failed to parse size: 1048575"),
        ("memory 0", "2:10: failed to parse size: 0"),
        ("memory -1", "2:10: failed to parse size: -1"),
        ("memory 1023K", "2:10: failed to parse size: 1023K"),
        ("memory 1X", "2:10: failed to parse size: 1X"),
        ("memory 17T", "2:10: failed to parse size: 17T"),
        ("memory 1G\n memory 2G", "3:2: memory specified more than once"),
        ("cpus 0", "2:8: invalid number of cpus: 0 (must be 1..32)"),
        ("cpus 33", "2:8: invalid number of cpus: 33 (must be 1..32)"),
        ("cpus 1\n cpus 1", "3:2: cpus specified more than once"),
        ("boot /nope", "2:8: kernel path not found: /nope"),
        ("boot images/vmlinux\n boot default", "3:2: kernel specified more than once"),
        ("boot /etc", "2:8: kernel path not found: /etc"),
        ("boot images/vmlinux\n initramfs nope", "3:12: initramfs path not found: nope"),
        ("boot default\n initramfs images/initramfs.img", "3:2: initramfs needs a kernel"),
        (
            "disk images/web.img\n cmdline quiet",
            "1:4: vm \"x\" failed: cmdline needs a kernel; add boot \"path\" or boot default",
        ),
        ("boot default\n cmdline \"abc", "3:10: reached end of file while parsing quoted string"),
        ("disk nope", "2:8: failed to parse disks: nope"),
        ("disk images/web.img format vmdk", "2:30: unrecognized disk format vmdk"),
        ("disk images/web.img rate 0", "2:28: invalid rate"),
        ("disk images/web.img ops 0", "2:27: invalid number of operations: 0 (must be 1..4294967295)"),
        (
            "disk images/web.img\n disk /etc/stockade/images/web.img",
            "3:7: disk /etc/stockade/images/web.img is there twice",
        ),
        ("cdrom nope", "2:9: cdrom path not found: nope"),
        ("cdrom images/install.iso\n cdrom images/install.iso", "3:2: cdrom specified more than once"),
        ("interfaces 5", "2:14: too many interfaces: 5 (must be 0..4)"),
        ("interfaces 1\n interfaces 1", "3:2: interfaces specified more than once"),
        ("boot default\n interface eth0", "3:12: invalid interface: eth0"),
        ("boot default\n interface tapx", "3:12: invalid interface: tapx"),
        ("boot default\n interface tap1234567890123", "3:12: interface name too long: tap1234567890123"),
        ("boot default\n interface group web1", "3:18: invalid group name: web1"),
        ("boot default\n interface group \"\"", "3:18: invalid group name: "),
        ("boot default\n interface lladdr 1:2:3", "3:19: invalid address: 1:2:3"),
        ("boot default\n interface lladdr 01:00:5e:00:00:01", "3:19: invalid address: 01:00:5e:00:00:01"),
        ("boot default\n interface rdomain 256", "3:20: invalid rdomain: 256"),
        ("boot default\n interface rdomain -1", "3:20: invalid rdomain: -1"),
        ("vsock 2", "2:9: invalid vsock context id: 2 (must be 3..4294967294)"),
        ("owner nobody-here", "2:9: failed to get user: nobody-here"),
        ("owner alice:nogroup", "2:9: failed to get group: nogroup"),
        ("owner \"\"", "2:9: failed to get user: "),
        ("owner 4294967295", "2:9: failed to get user: 4294967295"),
        ("owner -1", "2:9: failed to get user: -1"),
        ("allow instance owner nobody-here", "2:24: failed to get user: nobody-here"),
        ("limit cpu 0", "2:13: invalid limit of cpu: 0 (must be 1..1000000)"),
        ("limit processes 0", "2:19: invalid limit of processes: 0 (must be 1..1000000)"),
        ("stop timeout 86401", "2:16: invalid stop timeout: 86401 (must be 0..86400)"),
        ("enable", "1:4: vm \"x\" failed: no kernel or disk/cdrom specified; add boot, disk or cdrom"),
        ("boot default\n boot device disk", "1:4: vm \"x\" failed: boot device disk is not there; add one"),
        ("boot default\n boot device cdrom", "1:4: vm \"x\" failed: boot device cdrom is not there; add one"),
        ("boot default\n boot device net", "1:4: vm \"x\" failed: boot device net is not there; add one"),
        ("memory 1G extra", "2:13: syntax error: unexpected 'extra'"),
        ("memory", "2:9: syntax error: unexpected end of line"),
        ("cpus \"2\"", "2:8: syntax error: unexpected \"2\""),
        ("boot device tape", "2:15: syntax error: unexpected 'tape'"),
        ("disk format raw", "2:8: syntax error: unexpected 'format'"),
        ("disk images/web.img format", "2:29: syntax error: unexpected end of line"),
        ("allow instance {}", "2:19: syntax error: unexpected '}'"),
        ("kernel images/vmlinux", "2:3: syntax error: unexpected 'kernel'"),
    ];
    for (options, expected) in table {
        assert_eq!(messages(&vm(options)), [expected], "{options}");
    }
    for (option, expected) in [
        ("boot", "2:8: kernel name too long"),
        ("initramfs", "2:13: initramfs name too long"),
        ("disk", "2:8: disk path too long"),
        ("cdrom", "2:9: cdrom name too long"),
    ] {
        assert_eq!(messages(&vm(&format!("{option} /{long}"))), [expected]);
    }
    let five = "boot default\n".to_owned() + &"interface\n".repeat(5);
    assert_eq!(messages(&vm(&five))[0], "7:1: too many interfaces: 5");
    let host_images = ["web.img", "usr.img", "alice.img", "vmlinux", "initramfs.img"];
    let five: String = host_images.iter().map(|image| format!("disk images/{image}\n")).collect();
    assert_eq!(messages(&vm(&five)), ["6:6: too many disks"]);
}

#[test]
fn names() {
    let named = |name: &str| messages(&format!("vm \"{name}\" {{ boot default\n}}\n"));
    assert_eq!(named(&"x".repeat(64)), ["1:4: vm name too long"]);
    assert_eq!(named("12"), ["1:4: vm name is a number"]);
    assert_eq!(named(""), ["1:4: vm name is empty"]);
    assert_eq!(named("-x"), ["1:4: vm name starts with '-'"]);
    assert_eq!(named("a b"), ["1:4: vm name contains ' '"]);
    assert!(named(&"x".repeat(63)).is_empty());
    let twice = "vm a { boot default }\n".replace(" }", "\n}").repeat(2);
    assert_eq!(messages(&twice), ["3:4: vm \"a\" is already defined"]);
}

#[test]
fn globals() {
    let table = [
        ("local prefix 10.0.0.0/17", "1:14: invalid local prefix: invalid length"),
        ("local prefix 10.1.0.0/8", "1:14: invalid local prefix: bad mask"),
        ("local prefix example.org", "1:14: invalid local prefix: invalid format"),
        ("local inet6 prefix \"fd00::/65\"", "1:20: invalid local inet6 prefix: invalid length"),
        ("local inet6 prefix \"fd00::1\"", "1:20: invalid local inet6 prefix: bad mask"),
        ("socket owner nobody-here", "1:14: failed to get user: nobody-here"),
        ("socket owner \":nogroup\"", "1:14: failed to get group: nogroup"),
        ("agentx path relative", "1:13: agentx path is not absolute"),
        ("staggered start parallel 0 delay 1", "1:26: invalid number of parallel starts: 0 (must be 1..4096)"),
        ("staggered start parallel 1 delay -1", "1:34: invalid delay: -1 (must be 0..86400)"),
        ("staggered start parallel 1", "1:27: syntax error: unexpected end of line"),
        ("stop timeout -1", "1:14: invalid stop timeout: -1 (must be 0..86400)"),
        ("stop timeout 1\nstop timeout 2", "2:1: stop timeout specified more than once"),
        ("reserve memory 1G\nreserve memory 1G", "2:1: reserve memory specified more than once"),
        ("status visible some", "1:16: syntax error: unexpected 'some'"),
        ("shutdown now", "1:10: syntax error: unexpected 'now'"),
        ("}", "1:1: syntax error: unexpected '}'"),
        ("nonsense", "1:1: syntax error: unexpected 'nonsense'"),
        ("quota owner \"alice:ci\" {\n vms 1\n}", "1:13: a quota is for a user or for a group"),
        ("quota default {\n vms -1\n}", "2:6: invalid quota: -1 (must be 0..1000000)"),
        ("quota owner alice {\n vms 1\n}\nquota owner 1000 {\n vms 1\n}", "4:13: quota owner 1000 is already defined"),
    ];
    for (text, expected) in table {
        assert_eq!(messages(text), [expected], "{text}");
    }
    assert_eq!(messages(&format!("agentx context {}", "x".repeat(33))), ["1:16: agentx context too large"]);
    assert_eq!(messages(&format!("agentx path /{}", "x".repeat(107))), ["1:13: agentx path too large"]);
}

#[test]
fn switches() {
    let table = [
        ("switch \"x\" {\n up\n}", "1:8: switch \"x\" is missing interface name"),
        ("switch \"x\" {\n add vether0\n}", "2:2: syntax error: unexpected 'add'"),
        ("switch \"x\" {\n interface \"br 0\"\n}", "2:12: invalid switch interface: br 0"),
        ("switch \"x\" {\n interface b1234567890123456\n}", "2:12: switch interface too long: b1234567890123456"),
        ("switch \"x\" {\n interface br0\n group x1\n}", "3:8: invalid group name: x1"),
        ("switch \"x\" {\n interface br0\n rdomain 300\n}", "3:10: invalid rdomain: 300"),
        ("switch \"x\" {}", "1:13: syntax error: unexpected '}'"),
        ("switch x {\n interface br0\n}\nswitch x {\n interface br1\n}", "4:8: switch \"x\" is already defined"),
        ("vm x {\n boot default\n interface switch nope\n}", "3:19: warning: switch \"nope\" is not defined"),
    ];
    for (text, expected) in table {
        assert_eq!(messages(text), [expected], "{text}");
    }
    assert_eq!(
        messages(&format!("switch {} {{\n up\n}}", "x".repeat(64)))[0],
        format!("1:8: switch name too long: {}", "x".repeat(64))
    );
}

#[test]
fn instances() {
    let table = [
        ("vm p instance c {\n boot default\n}", "1:4: vm \"c\" failed: invalid template \"p\""),
        (
            "vm p {\n boot default\n}\nvm p instance c {\n enable\n allow instance boot\n}",
            "4:15: vm \"c\" failed: an instance has no 'allow instance' of its own; it has the template's if that allows 'instance'",
        ),
        (
            "vm p {\n disk images/web.img\n}\nvm p instance c {\n enable\n}",
            "4:15: vm \"c\" failed: no kernel or disk/cdrom specified; add boot, disk or cdrom",
        ),
        (
            "vm p {\n disk images/web.img\n}\nvm p instance c {\n disk images/web.img\n}",
            "5:7: vm \"c\" failed: disk /etc/stockade/images/web.img is the template's; give the instance one of its own",
        ),
        (
            "vm p {\n boot default\n interface lladdr 2:2:2:2:2:2\n}\nvm p instance c {\n interface lladdr 2:2:2:2:2:2\n}",
            "5:15: vm \"c\" failed: lladdr 02:02:02:02:02:02 is the template's; leave it out to get one that nobody has",
        ),
        (
            "vm p {\n boot default\n interface tap1\n}\nvm p instance c {\n interface tap1\n}",
            "5:15: vm \"c\" failed: interface tap1 is the template's; leave the name out to get a free one",
        ),
        (
            "vm p {\n boot default\n interface lladdr 2:2:2:2:2:2\n}\nvm c {\n boot default\n interface lladdr 2:2:2:2:2:2\n}",
            "7:2: vm \"c\" failed: duplicate lladdr 02:02:02:02:02:02",
        ),
        (
            "vm p {\n boot default\n interface tap1\n}\nvm c {\n boot default\n interface tap1\n}",
            "7:2: vm \"c\" failed: duplicate interface tap1",
        ),
        ("vm p {\n boot default\n}\nvm p instance p {\n enable\n}", "4:15: vm \"p\" is already defined"),
    ];
    for (text, expected) in table {
        assert_eq!(messages(text), [expected], "{text}");
    }
    // A disk is the same under another name, too.
    let mut host = host_with("vm p {\n disk images/web.img\n}\nvm p instance c {\n disk /link\n}");
    let original = host.files[std::path::Path::new("/etc/stockade/images/web.img")].clone();
    host.files.insert("/link".into(), original);
    let report = load(&host, &fixture::input("/etc/stockade/x.conf")).unwrap_err().report;
    assert!(report.to_string().contains("is the template's"), "{report}");
}

#[test]
fn remedies() {
    for (text, expected) in [
        (vm("memroy 1G"), "did you mean 'memory'?"),
        (vm("kernel images/vmlinux"), "did you mean 'boot'?"),
        (vm("vcpus 2"), "did you mean 'cpus'?"),
        (vm("\"disk\" x"), "keywords are not quoted: write disk"),
        (vm("memory 512"), "a number alone is bytes; did you mean 512M?"),
        (vm("disk format raw"), "'format' is a keyword; as a string, write \"format\""),
        (vm("disk 5"), "write \"5\""),
        (vm("disk images/web.img reedonly"), "adjacent strings are one; is one of them meant to be a keyword?"),
        ("switch x {\n add br0\n}".to_owned(), "did you mean 'interface'?"),
        ("vm x\n{\n enable\n}".to_owned(), "the '{' stands on the same line"),
        ("vm x {\n boot default\nvm y {\n boot default\n}".to_owned(), "is a '}' missing above?"),
        ("vm x {\n disable\n boot default }".to_owned(), "put the '}' on a line of its own"),
        ("vm x {}".to_owned(), "a block has at least one option"),
        ("vm x { boot default\r\n}".to_owned(), "lines end with a newline alone; convert the file"),
        (vm("disk ./x"), "put it into quotes"),
        ("dir = /a\ndisk $dri".to_owned(), "did you mean '$dir'?"),
        ("x = 5".to_owned(), "put it into quotes: x = \"5\""),
        ("vm debian {\n boot default\n}\nvm debain instance c {\n enable\n}".to_owned(), "did you mean \"debian\"?"),
    ] {
        assert_eq!(help(&text).first().map(String::as_str), Some(expected), "{text}");
    }
}

#[test]
fn several_errors_in_one_run() {
    let text = "local prefix nope\nvm x {\n memroy 1G\n cpus 99\n disk nope\n}\nfoo\nvm y {\n cpus 0\n bar {\n baz\n }\n memory 1\n}\nvm z { memory 2 }\n";
    assert_eq!(
        messages(text),
        [
            "3:2: syntax error: unexpected 'memroy'",
            "7:1: syntax error: unexpected 'foo'",
            "10:2: syntax error: unexpected 'bar'",
            "1:14: invalid local prefix: invalid format",
            "4:7: invalid number of cpus: 99 (must be 1..32)",
            "5:7: failed to parse disks: nope",
            "9:7: invalid number of cpus: 0 (must be 1..32)",
            "13:9: failed to parse size: 1",
            "15:15: failed to parse size: 2",
        ]
    );
    let open = "vm x {\n memory 1\nvm y {\n memory 2\n";
    let found = messages(open);
    assert!(
        found.contains(&"2:9: failed to parse size: 1".to_owned())
            && found.contains(&"4:9: failed to parse size: 2".to_owned()),
        "{found:?}"
    );
}

#[test]
fn a_caret_under_the_place_and_what_a_macro_is() {
    let report = read("much = \"1X\"\nvm x {\n\tmemory $much\n}\n").unwrap_err();
    let expected = "\
error: failed to parse size: 1X
 --> /etc/stockade/x.conf:3:9
  |
3 |     memory $much
  |            ^^^^^ invalid memory size: 1X
  |
  = note: macro 'much' is: 1X
  = help: write bytes, or a number with K, M, G or T: 512M, 1.5G
";
    assert_eq!(report.to_string().trim_end(), expected.trim_end());
}

#[test]
fn warnings_do_not_reject() {
    let loaded =
        read("unused = x\nvm x {\n boot default\n memory 1535K\n}\n").unwrap_or_else(|report| panic!("{report}"));
    let lines: Vec<_> = loaded.report.lines().map(|line| line.replace("/etc/stockade/x.conf:", "")).collect();
    assert_eq!(lines, ["1:1: warning: macro 'unused' not used", "4:9: warning: memory size rounded to 1M"]);
    let text = "quota owner alice {\n vms 1\n}\nvm a {\n boot default\n owner alice\n}\nvm b {\n boot default\n owner alice\n}\n";
    assert_eq!(messages(text), ["1:13: warning: not all vms of this owner can run at once: they need 2 vms"]);
}

#[test]
fn included_files() {
    let mut host = host_with("include \"a.conf\"\nvm x {\n boot default\n memory $much\n}\n");
    host.add("/etc/stockade/a.conf", "include sub/b.conf\n");
    host.add("/etc/stockade/sub/b.conf", "much = 64M\n\nvm y {\n boot vmlinux\n}");
    host.add("/etc/stockade/sub/vmlinux", "x");
    let input = fixture::input("/etc/stockade/x.conf");
    let config = load(&host, &input).unwrap_or_else(|error| panic!("{error}")).config;
    assert_eq!(config.vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["y", "x"]);
    assert_eq!(config.vm("x").unwrap().definition.memory.mib(), 64);

    // The place is that in the included file, and the last line counts without a newline.
    host.add("/etc/stockade/sub/b.conf", "much = 64M\n\n  oops");
    let lines: Vec<_> = load(&host, &input).unwrap_err().report.lines().collect();
    assert_eq!(lines, ["/etc/stockade/sub/b.conf:3:3: syntax error: unexpected 'oops'"]);

    host.add("/etc/stockade/sub/b.conf", "include \"../x.conf\"\ninclude nope\ninclude 5\ninclude\n");
    host.add("/etc/stockade/sub/../x.conf", "");
    let file = host.files.get_mut(std::path::Path::new("/etc/stockade/sub/../x.conf")).unwrap();
    file.target = Some("/etc/stockade/x.conf".into());
    let report = load(&host, &input).unwrap_err().report;
    let lines: Vec<_> = report.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "/etc/stockade/sub/b.conf:1:9: failed to include file ../x.conf",
            "/etc/stockade/sub/b.conf:2:9: failed to include file nope",
            "/etc/stockade/sub/b.conf:3:9: syntax error: unexpected number 5",
            "/etc/stockade/sub/b.conf:4:8: syntax error: unexpected end of line",
        ]
    );
    let chain = "it includes itself: /etc/stockade/x.conf -> /etc/stockade/a.conf -> /etc/stockade/sub/b.conf -> /etc/stockade/x.conf";
    assert!(report.to_string().contains(chain), "{report}");
}

#[test]
fn deep_and_many_inclusions_end() {
    let mut host = host_with("include 0.conf\n");
    for number in 0..40 {
        host.add(format!("/etc/stockade/{number}.conf"), format!("include {}.conf\n", number + 1));
    }
    let report = load(&host, &fixture::input("/etc/stockade/x.conf")).unwrap_err().report;
    assert!(report.to_string().contains("more than 16 files within each other"), "{report}");
    let mut host = host_with(&"include a.conf\n".repeat(300));
    host.add("/etc/stockade/a.conf", "");
    let report = load(&host, &fixture::input("/etc/stockade/x.conf")).unwrap_err().report;
    assert!(report.to_string().contains("more than 256 files"), "{report}");
}

#[test]
fn the_file_itself() {
    let host = fixture::host();
    let missing = load(&host, &fixture::input("/nope.conf")).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(missing.config, Config::default());
    assert!(missing.report.to_string().starts_with("warning: failed to open /nope.conf: "), "{}", missing.report);
    let mut without = host.clone();
    without.files.clear();
    assert!(
        load(&without, &Input::default()).unwrap_or_else(|error| panic!("{error}")).report.diagnostics().is_empty()
    );
    assert!(load_beside(&host, &fixture::input("/nope.conf"), &Config::default()).is_err());
    let mut host = host;
    host.add("/big.conf", vec![b' '; (1 << 20) + 1]).add("/binary.conf", b"vm x\n \xff {".to_vec());
    let report = |path| load(&host, &fixture::input(path)).unwrap_err().report.lines().collect::<Vec<_>>();
    assert_eq!(report("/big.conf"), ["/big.conf: file too large"]);
    assert_eq!(report("/binary.conf"), ["/binary.conf:2:2: syntax error: not UTF-8 text"]);
}

#[test]
fn load_adds_and_repeats_but_does_not_replace() {
    let current =
        config("switch s {\n interface br0\n}\nvm a {\n boot default\n interface tap1 lladdr 2:2:2:2:2:2\n}\n");
    let beside = |text: &str| load_beside(&host_with(text), &fixture::input("/etc/stockade/x.conf"), &current);
    let added = beside(
        "vm a {\n boot default\n interface tap1 lladdr 2:2:2:2:2:2\n}\nvm b {\n boot default\n interface switch s\n}\nvm a instance c {\n enable\n}\n",
    );
    let added = added.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(added.report.to_string(), "");
    assert_eq!(added.config.vms.iter().map(|vm| vm.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(added.config.vms[0], current.vms[0]);
    for (text, expected) in [
        ("vm a {\n boot default\n}\n", "vm \"a\" is already defined, and differs"),
        ("switch s {\n interface br1\n}\n", "switch \"s\" is already defined, and differs"),
        ("vm b {\n boot default\n interface lladdr 2:2:2:2:2:2\n}\n", "duplicate lladdr 02:02:02:02:02:02"),
    ] {
        let report = beside(text).unwrap_err().report;
        assert!(report.to_string().contains(expected), "{report}");
    }
    let ignored = beside("stop timeout 5\n").unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ignored.config, current);
    assert!(ignored.report.to_string().contains("ignored: load changes nothing about the daemon itself"));
}
