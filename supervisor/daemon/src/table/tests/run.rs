//! Virtual machines for one command of a client.

use stockade_api::ErrorCode;
use stockade_api::request::{BootMode, NewDisk, NewRun};
use stockade_config::model::{Quota, Subject};

use super::*;

const TENANT: u32 = 4000;

fn run() -> Request {
    let definition = NewRun { name: "vm".into(), boot: BootMode::Always, ..NewRun::default() };
    Request::Run { definition: Box::new(definition) }
}

/// One that runs for a client with this request.
fn held() -> (Play, RequestId) {
    let mut play = Play::with(Vec::new());
    let request = play.request(caller(TENANT, &[]), run());
    assert_eq!(play.acts(), ["save ids", "save", "launch"]);
    play.machine(MachineEvent::Started);
    (play, request)
}

#[test]
fn a_tenant_gets_one_of_its_own_and_the_connection_of_its_agent() {
    let (mut play, request) = held();
    let generation = play.record("vm").generation;
    assert!(play.effects.contains(&Effect::GiveAgent { id: request, vm: VmId(1), generation }));
    assert_eq!(play.answers(request).len(), 0);
    let record = play.record("vm");
    assert_eq!((record.definition.owner.uid, record.opened_by.uid, record.configured), (TENANT, TENANT, false));
    assert_eq!(record.held, Some(Held { boot: BootMode::Always }));
    assert!(record.has_vsock() && record.runs_agent());
    play.effects.clear();
    let agent = Request::Attach { vm: named("vm"), target: Target::Agent };
    play.request(caller(TENANT, &[]), agent.clone());
    assert_eq!(play.acts(), ["attach"]);
    let other = play.request(caller(TENANT + 1, &[]), agent);
    assert_eq!(play.answer(other).unwrap_err().code, ErrorCode::NotFound);
}

#[test]
fn it_is_ended_with_the_connection_and_gone_with_its_end() {
    let (mut play, request) = held();
    play.effects.clear();
    play.handle(Input::Abandoned { id: RequestId(99) });
    assert_eq!(play.acts(), [""; 0]);
    play.handle(Input::Abandoned { id: request });
    assert_eq!(play.acts(), ["save", "kill"]);
    play.ends(ExitCause::Failed);
    assert_eq!(play.table.records().count(), 0);

    // Before there was anything, too.
    let mut play = Play::with(Vec::new());
    let request = play.request(caller(TENANT, &[]), run());
    play.effects.clear();
    play.handle(Input::Abandoned { id: request });
    assert_eq!(play.acts(), ["save", "kill"]);
    play.machine(MachineEvent::NotStarted(Error::new(ErrorCode::StartFailed, "x", "")));
    assert_eq!((play.table.records().count(), play.answers(request).len()), (0, 0));
}

#[test]
fn a_reset_ends_it() {
    let (mut play, _) = held();
    play.ends(ExitCause::Reset);
    assert_eq!(play.table.records().count(), 0);
}

#[test]
fn one_that_does_not_start_is_said() {
    let mut play = Play::with(Vec::new());
    let request = play.request(caller(TENANT, &[]), run());
    play.machine(MachineEvent::NotStarted(Error::new(ErrorCode::FileNotUsable, "x", "")));
    assert_eq!(play.answer(request).unwrap_err().code, ErrorCode::FileNotUsable);
    assert_eq!(play.table.records().count(), 0);
}

#[test]
fn the_next_daemon_ends_what_its_clients_had() {
    for state in [VmState::Running, VmState::Paused, VmState::Starting] {
        let mut record = record("vm");
        (record.state, record.configured, record.held) = (state, false, Some(Held { boot: BootMode::IfNeeded }));
        let mut play = Play::of(Config::default(), vec![record.clone()]);
        play.handle(Input::Recovered);
        assert_eq!(play.acts(), ["save", "kill"], "{state}");
        let mut play = Play::of(Config::default(), vec![record]);
        play.machine(MachineEvent::NeverLaunched);
        assert_eq!(play.table.records().count(), 0, "{state}");
    }
}

#[test]
fn what_it_may_be_is_checked_as_for_any_other() {
    let quota = Quota { subject: Subject::Default, vms: Some(0), cpus: None, memory: None, disks: None };
    let mut play = Play::of(Config { quotas: vec![quota], ..Config::default() }, Vec::new());
    let refused = play.request(caller(TENANT, &[]), run());
    assert_eq!(play.answer(refused).unwrap_err().code, ErrorCode::QuotaExceeded);
    let mut play = Play::running();
    let taken = play.request(caller(TENANT, &[]), run());
    assert_eq!(play.answer(taken).unwrap_err().code, ErrorCode::Exists);
    let disk = NewDisk { path: "/d".into(), read_only: true };
    let with = |change: &dyn Fn(&mut NewRun)| {
        let mut new = NewRun { name: "other".into(), ..NewRun::default() };
        change(&mut new);
        Request::Run { definition: Box::new(new) }
    };
    for (request, code) in [
        (with(&|new| new.name = "-".into()), ErrorCode::InvalidName),
        (with(&|new| new.cpus = Some(99)), ErrorCode::InvalidValue),
        (with(&|new| new.initramfs = Some("/i".into())), ErrorCode::InvalidValue),
        (with(&|new| new.disks = vec![disk.clone(); 5]), ErrorCode::InvalidValue),
    ] {
        let refused = play.request(caller(TENANT, &[]), request);
        assert_eq!(play.answer(refused).unwrap_err().code, code);
    }
}

#[test]
fn an_agent_takes_a_vsock_device_and_a_guest_that_runs() {
    let agent = || Request::Attach { vm: named("vm"), target: Target::Agent };
    let mut play = Play::running();
    let refused = play.ask(agent());
    assert_eq!(play.answer(refused).unwrap_err().code, ErrorCode::NoAgent);
    let mut defined = vm("vm", StartPolicy::Disabled);
    defined.definition.boot = Boot::Default;
    let mut play = Play::with(vec![defined]);
    let refused = play.ask(agent());
    assert_eq!(play.answer(refused).unwrap_err().code, ErrorCode::NotRunning);
    play.ask(start());
    play.machine(MachineEvent::Started);
    play.ask(pause());
    play.machine(MachineEvent::Paused);
    let refused = play.ask(agent());
    assert_eq!(play.answer(refused).unwrap_err().code, ErrorCode::NotRunning);
    play.ask(stop(StopMode::Ask));
    let refused = play.ask(agent());
    assert_eq!(play.answer(refused).unwrap_err().code, ErrorCode::Stopping);
}
