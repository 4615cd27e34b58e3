//! Reads back from the kernel what is in force on the vmm, so that a report says what is and not what was meant.

use std::fmt::Debug;
use std::fs;
use std::io;

use nix::unistd::Pid;
use stockade_confinement::{Capabilities, Ids, Seccomp, Status};

use crate::error::{JailError, Step};
use crate::plan::{Layer, Plan};

/// Compares what the vmm `child` was to be with what it is. Returns how many system call filters it has by now.
///
/// # Errors
/// It is something else.
pub(crate) fn confirm(child: Pid, plan: &Plan) -> Result<u32, JailError> {
    const READ: &str = "read the vmm's status";
    let text = fs::read_to_string(format!("/proc/{child}/status")).step(READ)?;
    let status = Status::parse(&text).map_err(io::Error::other).step(READ)?;
    check(&status, plan)?;
    // The launch filter at least, where the kernel does not count.
    Ok(status.seccomp_filters.unwrap_or(1))
}

fn check(status: &Status, plan: &Plan) -> Result<(), JailError> {
    expect("no_new_privs", &status.no_new_privs, &true).step("confirm that the vmm gains no privilege")?;
    if plan.wants(Layer::Uid) {
        let ids = Ids::all(plan.uid);
        expect("the user", &status.uid, &ids).layer(Layer::Uid, "confirm the vmm's user")?;
        expect("the group", &status.gid, &ids).layer(Layer::Uid, "confirm the vmm's group")?;
        expect("the list of groups", &status.groups, &Vec::new()).layer(Layer::Uid, "confirm the vmm's groups")?;
    }
    if plan.wants(Layer::Capabilities) {
        let none = expect("the capabilities", &status.capabilities, &Capabilities::default());
        none.layer(Layer::Capabilities, "confirm the vmm's capabilities")?;
    }
    // A process that its filter has killed already had one.
    if plan.wants(Layer::Seccomp) && status.seccomp != Seccomp::Violated {
        expect("the mode of seccomp", &status.seccomp, &Seccomp::Filter)
            .layer(Layer::Seccomp, "confirm the vmm's filter")?;
    }
    Ok(())
}

fn expect<T: Debug + PartialEq>(what: &str, found: &T, expected: &T) -> io::Result<()> {
    let differs =
        || io::Error::other(format!("the kernel says that {what} is {found:?}, which has to be {expected:?}"));
    (found == expected).then_some(()).ok_or_else(differs)
}

#[cfg(test)]
mod tests {
    use stockade_confinement::CapabilitySet;

    use super::*;
    use crate::plan::tests::plan;

    fn status() -> Status {
        Status {
            name: "stockade-vmm".into(),
            state: 'R',
            uid: Ids::all(plan().uid),
            gid: Ids::all(plan().uid),
            groups: Vec::new(),
            capabilities: Capabilities::default(),
            no_new_privs: true,
            seccomp: Seccomp::Filter,
            seccomp_filters: Some(1),
        }
    }

    #[test]
    fn what_differs_stops_the_jail() {
        check(&status(), &plan()).unwrap();
        type Change = fn(&mut Status);
        let bad: [(&str, Option<Layer>, Change); 7] = [
            ("no_new_privs", None, |status| status.no_new_privs = false),
            ("user", Some(Layer::Uid), |status| status.uid.saved = 0),
            ("group", Some(Layer::Uid), |status| status.gid.file_system = 0),
            ("groups", Some(Layer::Uid), |status| status.groups.push(4)),
            ("capabilities", Some(Layer::Capabilities), |status| status.capabilities.bounding = CapabilitySet(1)),
            ("seccomp", Some(Layer::Seccomp), |status| status.seccomp = Seccomp::Off),
            ("seccomp", Some(Layer::Seccomp), |status| status.seccomp = Seccomp::Strict),
        ];
        for (word, layer, change) in bad {
            let mut status = status();
            change(&mut status);
            let error = check(&status, &plan()).unwrap_err();
            assert_eq!(error.layer, layer);
            assert!(error.explain().contains(word), "{}", error.explain());
        }
    }

    #[test]
    fn layers_that_were_given_up_are_not_expected() {
        let mut plan = plan();
        plan.without = vec![Layer::Uid, Layer::Capabilities, Layer::Seccomp];
        let capabilities = Capabilities { effective: CapabilitySet(1), ..Capabilities::default() };
        let loose = Status { uid: Ids::all(0), seccomp: Seccomp::Off, capabilities, ..status() };
        check(&loose, &plan).unwrap();
        check(&Status { seccomp: Seccomp::Violated, ..status() }, &crate::plan::tests::plan()).unwrap();
    }
}
