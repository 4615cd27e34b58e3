//! Reads back from the kernel what is in force on the vmm, so that a report says what is and not what was meant.

use std::collections::HashMap;
use std::fs;
use std::io;

use nix::unistd::Pid;

use crate::error::{JailError, Step};
use crate::plan::{Layer, Plan};

/// The fields of `/proc/PID/status` (proc_pid_status(5)), each with its words one space apart.
struct Status(HashMap<String, String>);

impl Status {
    fn parse(text: &str) -> Self {
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        let joined = |words: &str| words.split_whitespace().collect::<Vec<_>>().join(" ");
        Self(fields.map(|(name, words)| (name.to_owned(), joined(words))).collect())
    }

    fn expect(&self, name: &str, expected: &str) -> io::Result<()> {
        let found = self.0.get(name).map_or("not there", String::as_str);
        let differs =
            || io::Error::other(format!("the kernel says that {name} is {found}, which has to be {expected}"));
        (found == expected).then_some(()).ok_or_else(differs)
    }
}

/// Compares what the vmm `child` was to be with what it is.
///
/// # Errors
/// It is something else.
pub(crate) fn confirm(child: Pid, plan: &Plan) -> Result<(), JailError> {
    let text = fs::read_to_string(format!("/proc/{child}/status")).step("read the vmm's status")?;
    check(&Status::parse(&text), plan)
}

fn check(status: &Status, plan: &Plan) -> Result<(), JailError> {
    status.expect("NoNewPrivs", "1").step("confirm that the vmm gains no privilege")?;
    if plan.wants(Layer::Uid) {
        let user = vec![plan.uid.to_string(); 4].join(" ");
        status.expect("Uid", &user).layer(Layer::Uid, "confirm the vmm's user")?;
        status.expect("Gid", &user).layer(Layer::Uid, "confirm the vmm's group")?;
        status.expect("Groups", "").layer(Layer::Uid, "confirm the vmm's groups")?;
    }
    if plan.wants(Layer::Capabilities) {
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            let empty = status.expect(set, "0000000000000000");
            empty.layer(Layer::Capabilities, "confirm the vmm's capabilities")?;
        }
    }
    // What a process shows that its filter has killed already.
    let is_violated = status.expect("Seccomp", "3").is_ok();
    if plan.wants(Layer::Seccomp) && !is_violated {
        status.expect("Seccomp", "2").layer(Layer::Seccomp, "confirm the vmm's filter")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::plan;

    fn status(change: (&str, &str)) -> Status {
        let text = "Name:\tx\nUid:\t1879048193\t1879048193\t1879048193\t1879048193\nGid:\t1879048193\t1879048193\t1879048193\t\
            1879048193\nGroups:\t \nCapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapBnd:\t\
            0000000000000000\nCapAmb:\t0000000000000000\nNoNewPrivs:\t1\nSeccomp:\t2\n";
        let mut status = Status::parse(text);
        status.0.insert(change.0.to_owned(), change.1.to_owned());
        status
    }

    #[test]
    fn what_differs_stops_the_jail() {
        check(&status(("Name", "y")), &plan()).unwrap();
        for (field, layer) in [
            ("Uid", Some(Layer::Uid)),
            ("Groups", Some(Layer::Uid)),
            ("CapBnd", Some(Layer::Capabilities)),
            ("NoNewPrivs", None),
            ("Seccomp", Some(Layer::Seccomp)),
        ] {
            let error = check(&status((field, "0")), &plan()).unwrap_err();
            assert_eq!(error.layer, layer);
            assert!(error.explain().contains(field), "{}", error.explain());
        }
    }
}
