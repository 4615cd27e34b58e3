//! `tools/install`: what it installs works from there, and what runs outlives its being replaced.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stockade_tests::{Need, Scratch, distribution, guest, process, test, wait_for};

use crate::daemon::{Daemon, NEEDS, configuration};
use crate::roles::process_of;

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_path_buf()
}

/// Runs the script. Returns what it says.
fn install(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new(workspace().join("tools/install")).args(arguments).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    if output.status.success() { Ok(text) } else { Err(text) }
}

fn install_below(root: &Path, from: &Path, more: &[&str]) -> String {
    let (root, from) = (root.to_str().unwrap(), from.to_str().unwrap());
    install(&[&["--destdir", root, "--from", from], more].concat()).unwrap_or_else(|text| panic!("{text}"))
}

/// A folder like that which `tools/build` fills, with the same files.
fn build(scratch: &Scratch) -> PathBuf {
    let folder = scratch.join("build");
    fs::create_dir_all(folder.join("guest")).unwrap();
    let programs = ["stockade", "stockaded", "stockade-jailer", "stockade-vmm", "stockade-prisoner"];
    for file in programs.into_iter().chain(["guest/vmlinux", "guest/initramfs.cpio"]) {
        fs::hard_link(distribution().join(file), folder.join(file))
            .or_else(|_| fs::copy(distribution().join(file), folder.join(file)).map(drop))
            .unwrap();
    }
    let generated = Command::new(folder.join("stockade")).arg("generate").arg(folder.join("share")).status();
    assert!(generated.unwrap().success());
    folder
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).mode() & 0o7777
}

#[test]
fn what_is_there_is_kept_or_replaced_and_all_of_it_can_be_removed() {
    test(&[Need::Root], |scratch| {
        let (root, build) = (scratch.join("root"), build(scratch));
        let first = install_below(&root, &build, &[]);
        assert!(first.contains(" new, 0 replaced, 0 removed, 0 the same already"), "{first}");
        let below = |path: &str| root.join(path);
        for (path, expected) in [
            ("usr/local/bin/stockade", 0o755),
            ("usr/local/sbin/stockaded", 0o755),
            ("usr/local/lib/stockade/stockade-jailer", 0o755),
            ("usr/local/lib/stockade/stockade-vmm", 0o755),
            ("usr/local/lib/stockade/guest/vmlinux", 0o644),
            ("usr/local/share/man/man1/stockade.1", 0o644),
            ("usr/local/share/bash-completion/completions/stockade", 0o644),
            ("usr/local/lib/systemd/system/stockaded.service", 0o644),
            ("usr/local/lib/sysusers.d/stockade.conf", 0o644),
            ("usr/local/lib/tmpfiles.d/stockade.conf", 0o644),
            ("etc/stockade", 0o755),
            ("etc/stockade/vm.conf", 0o644),
        ] {
            assert_eq!(mode(&below(path)), expected, "{path}");
        }
        // What it writes can be used as it is.
        let configuration = below("etc/stockade/vm.conf");
        let checked = Command::new(below("usr/local/sbin/stockaded")).arg("-n").arg("-f").arg(&configuration).output();
        assert!(checked.as_ref().unwrap().status.success(), "{checked:?}");

        fs::write(&configuration, "# mine\n").unwrap();
        let inode = |path: &str| fs::metadata(below(path)).unwrap().ino();
        let before = inode("usr/local/lib/stockade/stockade-vmm");
        let second = install_below(&root, &build, &[]);
        assert!(second.contains("==> 0 new, 0 replaced, 0 removed"), "{second}");
        assert_eq!(fs::read_to_string(&configuration).unwrap(), "# mine\n");
        // Somebody has changed a mode, and a file is not there any more in a new version.
        fs::set_permissions(below("usr/local/bin/stockade"), PermissionsExt::from_mode(0o777)).unwrap();
        fs::remove_file(build.join("share/man/man1/stockade-warm.1")).unwrap();
        let third = install_below(&root, &build, &[]);
        assert!(third.contains("==> 0 new, 2 replaced, 1 removed"), "{third}");
        assert_eq!(
            (mode(&below("usr/local/bin/stockade")), inode("usr/local/lib/stockade/stockade-vmm")),
            (0o755, before)
        );
        assert!(!below("usr/local/share/man/man1/stockade-warm.1").exists());

        let removed = install_below(&root, &build, &["--uninstall"]);
        assert!(removed.contains("Kept: "), "{removed}");
        let left = Command::new("find").arg(&root).args(["-type", "f"]).output().unwrap();
        assert_eq!(String::from_utf8(left.stdout).unwrap().trim(), configuration.display().to_string());
        assert!(!below("usr/local/lib/stockade").exists());
    });
}

/// Targets that the units, and every service, name.
const TARGETS: [&str; 6] = ["sysinit", "basic", "shutdown", "local-fs", "network", "multi-user"];

#[test]
fn systemd_understands_the_units() {
    test(&[Need::Root], |scratch| {
        if Command::new("systemd-analyze").arg("--version").output().is_err() {
            return eprintln!("systemd-analyze is not here");
        }
        let (root, build) = (scratch.join("root"), build(scratch));
        install_below(&root, &build, &[]);
        let targets = root.join("usr/lib/systemd/system");
        fs::create_dir_all(&targets).unwrap();
        for target in TARGETS {
            fs::write(targets.join(format!("{target}.target")), "[Unit]\n").unwrap();
        }
        let mut command = Command::new("systemd-analyze");
        command.args(["verify", "--man=no", "--root"]).arg(&root);
        command
            .args(["stockaded", "stockade-guests"].map(|unit| format!("/usr/local/lib/systemd/system/{unit}.service")));
        let verified = command.output().unwrap();
        let said = String::from_utf8([verified.stdout, verified.stderr].concat()).unwrap();
        assert!(verified.status.success() && said.is_empty(), "{said}");
    });
}

#[test]
fn what_is_wrong_is_said_with_the_remedy() {
    test(&[Need::Root], |scratch| {
        let root = scratch.join("root");
        let root = root.to_str().unwrap();
        for (arguments, message) in [
            (&["--prefix", "usr"][..], "not absolute"),
            (&["--destdir", "/a b"], "has a space"),
            (&["--destdir", root, "--from", "/nowhere"], "remedy: tools/build"),
            (&["--destdir", root, "--uninstall"], "nothing is installed"),
            (&["--what"], "usage: "),
        ] {
            let said = install(arguments).unwrap_err();
            assert!(said.contains("error: ") && said.contains(message), "{arguments:?}: {said}");
        }
    });
}

/// Runs `stockaded` as it was installed below `root`, by way of `wrapper`.
fn run_installed(daemon: &mut Daemon<'_>, root: &Path, wrapper: Option<Command>) {
    let program = root.join("usr/local/sbin/stockaded");
    daemon.run_by(match wrapper {
        None => Command::new(program),
        Some(mut command) => {
            command.arg(program);
            command
        }
    });
}

#[test]
fn an_upgrade_of_the_daemon_is_a_restart() {
    test(NEEDS, |scratch| {
        let (root, build, name) = (scratch.join("root"), build(scratch), scratch.vm_name());
        install_below(&root, &build, &[]);
        let text = format!("shutdown leave\n{}", configuration(scratch, &[(&name, guest::IDLE, "")]));
        let mut daemon = Daemon::with(scratch, &text);
        run_installed(&mut daemon, &root, None);
        let vm = daemon.wait_for_state(&name, "running");
        let program = |pid: i32| fs::read_link(format!("/proc/{pid}/exe")).unwrap().display().to_string();
        let vmm = i32::try_from(vm["pid"].as_i64().unwrap()).unwrap();

        // New programs, which differ from the old ones in nothing that matters.
        for name in ["stockaded", "stockade-jailer", "stockade-vmm"] {
            let bytes = fs::read(build.join(name)).unwrap();
            fs::remove_file(build.join(name)).unwrap();
            let mut file = fs::File::create(build.join(name)).unwrap();
            file.write_all(&bytes).and_then(|()| file.write_all(b"new")).unwrap();
            file.set_permissions(PermissionsExt::from_mode(0o755)).unwrap();
        }
        let upgraded = install_below(&root, &build, &[]);
        assert!(upgraded.contains("==> 0 new, 3 replaced"), "{upgraded}");
        // The old one goes on, and starts its role again as what itself is.
        assert!(program(daemon.pid()).ends_with("(deleted)"), "{}", program(daemon.pid()));
        kill(Pid::from_raw(process_of(&daemon, "control")), Signal::SIGKILL).unwrap();
        wait_for("another control", || daemon.try_request("GET", "version", None));

        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait(), 0);
        run_installed(&mut daemon, &root, None);
        assert!(!program(daemon.pid()).ends_with("(deleted)"));
        assert_eq!(daemon.vm(&name), vm);
        // The machine goes on in its old vmm until it is started again.
        assert!(program(vmm).contains("stockade-vmm") && program(vmm).ends_with("(deleted)"), "{}", program(vmm));
        daemon.force(&name);
        let again = daemon.post(&format!("vms/{name}/start")).ok();
        let vmm = i32::try_from(again["pid"].as_i64().unwrap()).unwrap();
        assert!(!program(vmm).ends_with("(deleted)"), "{}", program(vmm));
    });
}

#[test]
fn what_the_unit_takes_away_is_not_needed() {
    test(NEEDS, |scratch| {
        let (root, build, name) = (scratch.join("root"), build(scratch), scratch.vm_name());
        install_below(&root, &build, &[]);
        let unit = fs::read_to_string(root.join("usr/local/lib/systemd/system/stockaded.service")).unwrap();
        assert!(unit.contains("ExecStart=/usr/local/sbin/stockaded\n") && !unit.contains("=@prefix@"), "{unit}");
        let capabilities: Vec<_> = unit
            .lines()
            .filter_map(|line| line.strip_prefix("CapabilityBoundingSet="))
            .flat_map(str::split_whitespace)
            .map(|name| format!("+{}", name.strip_prefix("CAP_").unwrap().to_lowercase()))
            .collect();
        assert!(capabilities.len() > 5, "{unit}");
        // As systemd does it for ProtectSystem=full and ProtectKernelTunables=yes.
        let script = "set -e
            mount --make-rslave /
            for folder in /usr /etc /proc/sys; do mount --bind $folder $folder; mount -o remount,bind,ro $folder; done
            mount -o remount,bind,ro /sys
            exec setpriv --no-new-privs --bounding-set=-all,$0 \"$@\"";
        let mut wrapper = Command::new("unshare");
        wrapper.args(["--mount", "sh", "-c", script]).arg(capabilities.join(","));
        let mut daemon = Daemon::with(scratch, &configuration(scratch, &[(&name, guest::OBEDIENT, "")]));
        run_installed(&mut daemon, &root, Some(wrapper));
        let bounding = u64::from_str_radix(&process::status_field(daemon.pid(), "CapBnd").unwrap(), 16).unwrap();
        // The host may have fewer to give.
        assert!((1..=capabilities.len()).contains(&(bounding.count_ones() as usize)), "{bounding:x}");
        let vm = daemon.wait_for_state(&name, "running");
        wait_for("the console", || daemon.console(&vm["id"]).contains("obedient").then_some(()));
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait(), 0);
        assert_eq!(daemon.entries("vms"), [""; 0]);
    });
}
