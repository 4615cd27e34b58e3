//! What a machine learns from its warden and its vmm, and that it ends whatever they do.

use std::io::Write;

use stockade_jailer::plan::Layer;
use stockade_jailer::warden::{Event as WardenEvent, ProcessEnd};
use stockade_vmm_api::event::EventKind;
use stockade_vmm_api::exit::ExitReason;

use super::MachineEnd;
use super::fake::{machine, violation};

#[tokio::test]
async fn a_machine_that_starts_and_powers_off() {
    let (mut machine, mut fake) = machine();
    fake.starts();
    machine.confined().await.unwrap();
    machine.kvm_ready().await.unwrap();
    machine.started().await.unwrap();
    assert_eq!(machine.status().confinement[0].layer, Layer::Uid);
    let parent = fake.guest_ends(ExitReason::PowerOff, "S5");
    let end = machine.ended().await;
    assert_eq!(end, MachineEnd::Guest { reason: ExitReason::PowerOff, message: "S5".into() });
    assert_eq!(machine.remove().await, Vec::<String>::new());
    assert!(!parent.path().join("fake").exists());
}

#[tokio::test]
async fn a_jail_that_is_refused_says_why() {
    let (mut machine, fake) = machine();
    fake.warden_says(&WardenEvent::Refused { layer: Some(Layer::Landlock), message: "landlock: no\n".into() });
    let end = machine.started().await.unwrap_err();
    drop(fake);
    assert_eq!(end.to_string(), "the jail was refused: landlock: no");
    assert_eq!(machine.remove().await, Vec::<String>::new());
}

#[tokio::test]
async fn a_vmm_that_fails_is_quoted_and_not_believed() {
    let (mut machine, mut fake) = machine();
    fake.starts();
    fake.vmm_says(EventKind::Failed { message: "no\x1b[31m kernel".into() });
    let _parent = fake.vmm_ends(ProcessEnd::Exited(1), "exit code 1");
    assert_eq!(machine.ended().await.to_string(), "the vmm failed: no\u{fffd}[31m kernel");
}

#[tokio::test]
async fn a_vmm_that_dies_without_a_word_is_explained_by_its_warden_and_its_standard_error() {
    let (mut machine, mut fake) = machine();
    fake.starts();
    fake.diagnostics.write_all(b"thread main\npanicked\n").unwrap();
    let _parent = fake.vmm_ends(ProcessEnd::Signaled(6), "killed by SIGABRT");
    assert_eq!(machine.ended().await.to_string(), "the vmm died: killed by SIGABRT (thread main; panicked)");
}

#[tokio::test]
async fn a_vmm_that_a_filter_killed_is_not_believed_whatever_it_said() {
    let (mut machine, mut fake) = machine();
    fake.starts();
    fake.vmm_says(EventKind::Ended { reason: ExitReason::PowerOff, message: "all is well".into() });
    let violation = violation();
    let _parent = fake.vmm_violates(&violation);
    assert_eq!(machine.ended().await, MachineEnd::Violation(violation.clone()));
    assert_eq!(machine.remove().await, Vec::<String>::new());
    assert_eq!(machine.status().violation, Some(violation));
}

#[tokio::test]
async fn a_vmm_that_talks_nonsense_is_killed() {
    let (mut machine, mut fake) = machine();
    fake.starts();
    fake.events.write_all(b"gibberish\n").unwrap();
    let obeying = std::thread::spawn(|| fake.obeys_kill());
    assert!(machine.ended().await.to_string().starts_with("the vmm failed: the vmm sent a line that is no event"));
    assert_eq!(machine.remove().await, Vec::<String>::new());
    obeying.join().unwrap();
}

#[tokio::test]
async fn a_warden_that_dies_is_an_end_too() {
    let (mut machine, fake) = machine();
    let parent = tempfile::tempdir().unwrap();
    drop(fake);
    assert!(matches!(machine.ended().await, MachineEnd::Warden(_)));
    machine.remove().await;
    drop(parent);
}

#[tokio::test]
async fn removing_a_machine_ends_it_first() {
    let (mut machine, mut fake) = machine();
    fake.starts();
    let obeying = std::thread::spawn(|| fake.obeys_kill());
    assert_eq!(machine.remove().await, Vec::<String>::new());
    assert!(!obeying.join().unwrap().path().join("fake").exists());
}

#[tokio::test]
async fn what_is_left_behind_is_reported() {
    let (mut machine, fake) = machine();
    fake.warden_says(&WardenEvent::Ended { end: ProcessEnd::Exited(0), message: String::new(), violation: None });
    fake.warden_says(&WardenEvent::Cleaned { left_behind: vec!["cgroup /x: busy".into()] });
    let left = machine.remove().await;
    assert_eq!(left, ["cgroup /x: busy"]);
    // The folder that the warden did not remove either is gone all the same.
    assert!(!fake.parent.path().join("fake").exists());
}
