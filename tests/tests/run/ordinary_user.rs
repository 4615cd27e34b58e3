//! `stockade run` for somebody who is not root, but may open `/dev/kvm`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::Value;
use stockade_tests::{Scratch, distribution, test, wait_for};

use crate::options::LAYERS;
use crate::stockade::{NEEDS, descendant, finish, pid, signal};

/// Nobody else's, and not one that a machine of root's could lease.
const USER: u32 = 54_321;
const BEYOND: [&str; 2] = ["cgroup", "uid"];

/// A user with programs, a device and a runtime folder that they may use.
pub struct User<'a> {
    scratch: &'a Scratch,
    runtime: PathBuf,
}

impl<'a> User<'a> {
    /// Gives this user what it needs.
    pub fn new(scratch: &'a Scratch) -> Self {
        let open_to_all = |path: &PathBuf, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        open_to_all(&scratch.path().to_owned(), 0o755);
        // Where the programs are, others may not go.
        let copied = Command::new("cp").arg("-r").arg(distribution()).arg(scratch.join("dist")).status().unwrap();
        assert!(copied.success());
        let device = scratch.join("kvm");
        mknod(&device, SFlag::S_IFCHR, Mode::empty(), makedev(10, 232)).unwrap();
        open_to_all(&device, 0o666);
        let runtime = scratch.join("runtime");
        fs::create_dir(&runtime).unwrap();
        open_to_all(&runtime, 0o700);
        chown(&runtime, Some(USER), Some(USER)).unwrap();
        Self { scratch, runtime }
    }

    /// `stockade run` as this user. The process is the program's own.
    pub fn run(&self, arguments: &[&str]) -> Command {
        let become_user = "mount --bind \"$1\" /dev/kvm && shift && exec setpriv --reuid=\"$1\" --regid=\"$1\" --clear-groups \
                           --bounding-set=-all --inh-caps=-all \"$2\" run --name \"$3\" \"${@:4}\"";
        let mut command = Command::new("unshare");
        command.args(["--mount", "bash", "-c", become_user, "bash"]).arg(self.scratch.join("kvm"));
        command.arg(USER.to_string()).arg(self.scratch.join("dist/stockade")).arg(self.scratch.vm_name());
        command.args(arguments).env("XDG_RUNTIME_DIR", &self.runtime).current_dir("/");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// A folder of this user.
    pub fn runtime(&self) -> &Path {
        &self.runtime
    }

    /// How many machines there are.
    pub fn machines(&self) -> usize {
        fs::read_dir(self.runtime.join("stockade/vms")).map_or(0, Iterator::count)
    }
}

#[test]
fn an_ordinary_user_has_every_layer_that_takes_no_root() {
    test(NEEDS, |scratch| {
        let user = User::new(scratch);
        let report = user.runtime.join("report.json");
        let finished = finish(user.run(&["--report", report.to_str().unwrap(), "--", "sh", "-c", "id -u; exit 5"]));
        assert_eq!((finished.code, finished.text()), (5, "0\n"), "{}", finished.error);
        let said: Vec<_> = finished.error.lines().collect();
        assert_eq!(said.len(), BEYOND.len(), "{}", finished.error);
        for (line, layer) in said.iter().zip(BEYOND) {
            let expected = format!("stockade: the jail was built without {layer} (beyond an ordinary user; ");
            assert!(line.starts_with(&expected), "{line}");
        }
        let report: Value = serde_json::from_slice(&fs::read(report).unwrap()).unwrap();
        for entry in report["confinement"].as_array().unwrap() {
            let layer = entry["layer"].as_str().unwrap();
            assert_eq!(entry["enforced"], !BEYOND.contains(&layer), "{entry}");
        }
        assert_eq!(report["confinement"].as_array().unwrap().len(), LAYERS.len());
        assert_eq!(user.machines(), 0);
    });
}

#[test]
fn nothing_of_an_ordinary_user_is_left_when_the_command_line_is_killed() {
    test(NEEDS, |scratch| {
        let user = User::new(scratch);
        let mut run = user.run(&["--", "true"]).spawn().unwrap();
        let vmm = wait_for("the machine", || (user.machines() == 1).then(|| descendant(pid(&run), "stockade-vmm")));
        let status = fs::read_to_string(format!("/proc/{vmm}/status")).unwrap();
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        assert_eq!(field("Uid:"), [USER.to_string(), USER.to_string(), USER.to_string(), USER.to_string()].join("\t"));
        signal(pid(&run), Signal::SIGKILL);
        run.wait().unwrap();
        wait_for("the machine to go", || (user.machines() == 0).then_some(()));
    });
}

#[test]
fn who_may_not_open_the_device_is_told_what_to_do() {
    test(NEEDS, |scratch| {
        let user = User::new(scratch);
        fs::set_permissions(scratch.join("kvm"), fs::Permissions::from_mode(0o600)).unwrap();
        finish(user.run(&["--", "true"])).expect_line(125, &["/dev/kvm", "join the group"]);
    });
}
