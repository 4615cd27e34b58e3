//! Lives of virtual machines, from the first start to the last end.

use std::num::NonZeroU32;

use stockade_api::event::{Change, EventPage};
use stockade_api::request::NewVm;
use stockade_config::model::{BootDevice, Globals, StaggeredStart};

use super::*;

#[test]
fn a_record_is_saved_before_each_act() {
    let mut play = Play::with(vec![vm("vm", StartPolicy::Disabled)]);
    assert_eq!(play.acts(), ["save ids", "save"]);
    assert_eq!(play.state("vm"), VmState::Defined);
    let request = play.ask(start());
    assert_eq!(play.state("vm"), VmState::Starting);
    assert_eq!(play.answers(request), []);
    assert_eq!(play.acts(), ["save", "launch"]);
    play.machine(MachineEvent::Confined(jail(7)));
    play.machine(MachineEvent::Started);
    let Ok(Answer::Vm(summary)) = play.answer(request) else { panic!() };
    assert_eq!((summary.state, summary.pid, summary.jail.as_deref()), (VmState::Running, Some(7), Some("vm-1-1")));
    assert_eq!(play.acts(), ["save", "save"]);
    let (wait, stop) = (play.ask(wait()), play.ask(stop(StopMode::Ask)));
    assert_eq!(play.acts(), ["save", "ask"]);
    play.ends(ExitCause::PowerOff);
    for request in [wait, stop] {
        let Ok(Answer::Exit(Some(exit))) = play.answer(request) else { panic!() };
        assert_eq!(exit.cause, ExitCause::PowerOff);
    }
    assert_eq!((play.state("vm"), play.record("vm").jail), (VmState::Stopped, None));
}

#[test]
fn a_guest_that_does_not_stop_is_ended() {
    let mut play = Play::running();
    let request = play.ask(stop(StopMode::Ask));
    assert_eq!(play.acts(), ["save", "ask"]);
    assert_eq!(play.table.deadline_ms(), Some(play.clock.boot_ms + 30_000));
    play.passes(29_999);
    assert_eq!(play.acts(), [""; 0]);
    play.passes(1);
    assert_eq!(play.acts(), ["save", "kill"]);
    assert_eq!(play.table.deadline_ms(), None);
    play.ends(ExitCause::Failed);
    let Ok(Answer::Exit(Some(exit))) = play.answer(request) else { panic!() };
    assert_eq!(exit.cause, ExitCause::Killed);
}

#[test]
fn force_does_not_wait_for_a_request_that_was_polite() {
    let mut play = Play::running();
    let polite = play.ask(stop(StopMode::Ask));
    let force = play.ask(stop(StopMode::Force));
    assert_eq!(play.acts(), ["save", "ask", "save", "kill"]);
    play.ends(ExitCause::Failed);
    assert!(play.answer(polite).is_ok() && play.answer(force).is_ok());
}

#[test]
fn one_that_has_not_started_is_stopped_at_once() {
    let mut play = Play::with(vec![vm("vm", StartPolicy::Disabled)]);
    let started = play.ask(start());
    play.effects.clear();
    let stopped = play.ask(stop(StopMode::Ask));
    assert_eq!(play.acts(), ["save", "kill"]);
    play.machine(MachineEvent::Started);
    assert_eq!(play.state("vm"), VmState::Stopping);
    play.ends(ExitCause::Failed);
    assert!(play.answer(stopped).is_ok());
    assert_eq!(play.answer(started).unwrap_err().code, stockade_api::ErrorCode::Ended);
}

#[test]
fn a_reset_starts_it_again_and_wakes_nobody() {
    let mut play = Play::running();
    let waits = play.ask(wait());
    let id = play.record("vm").id;
    play.passes(10_000);
    play.ends(ExitCause::Reset);
    assert_eq!(play.answers(waits), []);
    assert_eq!(play.acts(), ["save", "launch"]);
    assert_eq!((play.state("vm"), play.record("vm").generation), (VmState::Starting, 2));
    assert_eq!(play.record("vm").id, id);
    // What is still heard of the first one is not about the second.
    play.handle(Input::Machine {
        vm: id,
        generation: 1,
        event: MachineEvent::Ended { cause: ExitCause::Failed, message: String::new() },
    });
    assert_eq!(play.state("vm"), VmState::Starting);
    play.machine(MachineEvent::Started);
    play.ends(ExitCause::Halted);
    assert!(matches!(play.answer(waits), Ok(Answer::Exit(Some(exit))) if exit.cause == ExitCause::Halted));
}

#[test]
fn three_quick_resets_in_a_row_are_enough() {
    let mut play = Play::running();
    let quick = |play: &mut Play| {
        play.passes(5_999);
        play.ends(ExitCause::Reset);
        play.machine(MachineEvent::Started);
    };
    quick(&mut play);
    quick(&mut play);
    // A slow one counts from the beginning.
    play.passes(6_000);
    play.ends(ExitCause::Reset);
    play.machine(MachineEvent::Started);
    quick(&mut play);
    quick(&mut play);
    assert_eq!(play.state("vm"), VmState::Running);
    quick(&mut play);
    assert_eq!(play.state("vm"), VmState::Stopped);
    assert!(play.record("vm").last_error.unwrap().contains("3 times"));
    // Who starts it by hand may.
    play.ask(start());
    play.machine(MachineEvent::Started);
    quick(&mut play);
    assert_eq!(play.state("vm"), VmState::Running);
}

#[test]
fn a_reset_ends_it_if_it_boots_from_a_device_or_was_to_stop() {
    let mut installer = vm("vm", StartPolicy::Enabled);
    installer.definition.boot_device = Some(BootDevice::Disk);
    let mut play = Play::with(vec![installer]);
    play.machine(MachineEvent::Started);
    play.ends(ExitCause::Reset);
    assert_eq!(play.record("vm").last_exit.unwrap().cause, ExitCause::Reset);
    assert_eq!(play.state("vm"), VmState::Stopped);

    let mut play = Play::running();
    play.ask(stop(StopMode::Ask));
    play.ends(ExitCause::Reset);
    assert_eq!(play.record("vm").last_exit.unwrap().cause, ExitCause::PowerOff);
}

#[test]
fn a_pause_is_one_once_the_vmm_says_so() {
    let mut play = Play::running();
    let paused = play.ask(pause());
    assert_eq!((play.state("vm"), play.answers(paused)), (VmState::Running, vec![]));
    play.machine(MachineEvent::NotPaused("it is busy".into()));
    assert_eq!(play.answer(paused).unwrap_err().code, stockade_api::ErrorCode::VmmFailed);
    let paused = play.ask(pause());
    play.machine(MachineEvent::Paused);
    assert!(play.answer(paused).is_ok());
    assert_eq!(play.state("vm"), VmState::Paused);
    let resumed = play.ask(unpause());
    play.machine(MachineEvent::Resumed);
    assert!(play.answer(resumed).is_ok());
    // A guest that stands still can't stop.
    play.machine(MachineEvent::Paused);
    play.effects.clear();
    play.ask(stop(StopMode::Ask));
    assert_eq!(play.acts(), ["save", "resume", "ask"]);
    let late = play.ask(pause());
    assert_eq!(play.answer(late).unwrap_err().code, stockade_api::ErrorCode::Stopping);
    // A pause ends with the machine.
    let mut play = Play::running();
    let paused = play.ask(pause());
    play.ends(ExitCause::Halted);
    assert_eq!(play.answer(paused).unwrap_err().code, stockade_api::ErrorCode::Ended);
}

#[test]
fn starts_are_staggered() {
    let vms = (0..5).map(|number| vm(&format!("vm{number}"), StartPolicy::Enabled)).collect();
    let staggered = StaggeredStart { parallel: NonZeroU32::new(2).unwrap(), delay_seconds: 7 };
    let globals = Globals { staggered_start: Some(staggered), ..Globals::default() };
    let mut play = Play::of(Config::default(), Vec::new());
    play.configure(Config { vms, globals, ..Config::default() });
    let started = |play: &Play| play.table.records().filter(|record| record.state == VmState::Starting).count();
    assert_eq!(started(&play), 2);
    // Who is started by hand does not wait.
    play.ask(Request::Start { vm: named("vm4") });
    assert_eq!(started(&play), 3);
    play.passes(6_999);
    assert_eq!(started(&play), 3);
    play.passes(1);
    assert_eq!(started(&play), 5);
    assert_eq!(play.table.deadline_ms(), None);
}

#[test]
fn one_that_a_client_made_is_gone_once_it_has_stopped_and_keeps_its_number() {
    let mut play = Play::with(vec![]);
    let new = |name: &str| Request::Create {
        definition: Box::new(NewVm { name: name.into(), kernel: Some("/k".into()), ..NewVm::default() }),
    };
    let created = play.ask(new("vm"));
    play.machine(MachineEvent::Started);
    let Ok(Answer::Vm(summary)) = play.answer(created) else { panic!() };
    let waits = play.ask(wait());
    play.ends(ExitCause::Halted);
    assert!(play.answer(waits).is_ok());
    assert_eq!(play.table.records().count(), 0);
    assert_eq!(play.acts().last(), Some(&"forget"));
    play.ask(new("other"));
    let again = play.ask(new("vm"));
    play.machine(MachineEvent::Started);
    let Ok(Answer::Vm(second)) = play.answer(again) else { panic!() };
    assert_eq!((second.id, play.record("other").id), (summary.id, VmId(2)));
    // Nothing that is heard of the first can be about the second.
    assert_eq!((summary.generation, second.generation), (1, 2));
}

#[test]
fn what_a_configuration_changes_waits_for_the_end_of_what_runs() {
    let mut play = Play::running();
    let mut bigger = vm("vm", StartPolicy::Enabled);
    bigger.definition.cpus = 2;
    play.configure(Config { vms: vec![bigger.clone()], ..Config::default() });
    assert_eq!(play.record("vm").definition.cpus, 1);
    play.ends(ExitCause::Halted);
    assert_eq!((play.record("vm").definition.cpus, play.state("vm")), (2, VmState::Stopped));
    // The same again changes nothing: what was stopped stays so.
    play.configure(Config { vms: vec![bigger], ..Config::default() });
    assert_eq!(play.state("vm"), VmState::Stopped);
    play.configure(Config {
        vms: vec![vm("vm", StartPolicy::Enabled), vm("b", StartPolicy::Disabled)],
        ..Config::default()
    });
    assert_eq!((play.state("b"), play.table.deadline_ms().is_some()), (VmState::Defined, true));

    let mut play = Play::running();
    play.configure(Config::default());
    assert_eq!(play.state("vm"), VmState::Running);
    play.ends(ExitCause::Halted);
    assert_eq!(play.table.records().count(), 0);
}

#[test]
fn a_reset_of_the_daemon_forgets_everything_once_it_is_gone() {
    let mut play = Play::running();
    let (waits, reset) = (play.ask(wait()), play.ask(Request::Reset { what: stockade_api::ResetScope::All }));
    assert_eq!(play.answers(reset), []);
    // What is read meanwhile would be in its way.
    play.configure(Config { vms: vec![vm("early", StartPolicy::Enabled)], ..Config::default() });
    assert_eq!(play.table.config().vms.len(), 1);
    play.ends(ExitCause::Failed);
    assert!(play.answer(waits).is_ok());
    assert_eq!(play.answer(reset), Ok(Answer::Done));
    assert_eq!(play.table.records().count(), 0);
    play.configure(Config { vms: vec![vm("new", StartPolicy::Disabled)], ..Config::default() });
    assert_eq!(play.record("new").id, VmId(1));
}

#[test]
fn events_are_told_to_who_may_see_them_and_can_be_resumed() {
    let mut play = Play::running();
    let now = play.ask(Request::Events { after: None });
    let Ok(Answer::Events(EventPage { events, next })) = play.answer(now) else { panic!() };
    assert_eq!(events, []);
    let stranger = play.request(caller(7, &[]), Request::Events { after: Some(next) });
    let root = play.ask(Request::Events { after: Some(next) });
    assert_eq!(play.answers(root), []);
    play.ends(ExitCause::Halted);
    let Ok(Answer::Events(page)) = play.answer(root) else { panic!() };
    assert_eq!(play.answers(stranger), []);
    assert!(
        matches!(&page.events[..], [event] if matches!(&event.change, Change::State { state: VmState::Stopped, .. }))
    );
    let next = play.ask(Request::Events { after: Some(page.next) });
    play.handle(Input::Abandoned { id: stranger });
    play.ask(start());
    let Ok(Answer::Events(page)) = play.answer(next) else { panic!() };
    assert!(matches!(&page.events[..], [event] if event.generation == 2));
    let last = play.ask(Request::Events { after: Some(page.next - 2) });
    assert!(matches!(play.answer(last), Ok(Answer::Events(page)) if page.events.len() == 2));
    let all = play.ask(Request::Events { after: Some(0) });
    assert!(matches!(play.answer(all), Ok(Answer::Events(page)) if page.events.len() > 2));
}

#[test]
fn a_list_is_in_pieces() {
    let vms: Vec<_> = (0..70).map(|number| vm(&format!("vm{number}"), StartPolicy::Disabled)).collect();
    let mut play = Play::with(vms);
    let (mut after, mut seen) = (VmId(0), Vec::new());
    loop {
        let request = play.ask(Request::List { after });
        let Ok(Answer::List { vms, more }) = play.answer(request) else { panic!() };
        seen.extend(vms.iter().map(|vm| vm.id.0));
        after = vms.last().unwrap().id;
        if !more {
            break;
        }
    }
    assert_eq!(seen, (1..=70).collect::<Vec<_>>());
}
