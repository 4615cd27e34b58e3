//! Each error that the table can answer with, by what leads to it.

use stockade_api::request::{NewDisk, NewInterface, NewVm};
use stockade_api::{ErrorCode, ResetScope};
use stockade_config::model::{Disk, DiskAccess, DiskFormat, DiskRate, Globals, MemorySize, Override, Quota, Subject};

use super::*;

fn refused(play: &mut Play, request: Request) -> ErrorCode {
    let request = play.ask(request);
    play.answer(request).unwrap_err().code
}

fn create(change: impl FnOnce(&mut NewVm)) -> Request {
    let mut new = NewVm { name: "new".into(), kernel: Some("/k".into()), ..NewVm::default() };
    change(&mut new);
    Request::Create { definition: Box::new(new) }
}

#[test]
fn states_forbid() {
    let mut play = Play::with(vec![vm("vm", StartPolicy::Disabled)]);
    assert_eq!(refused(&mut play, Request::Start { vm: named("other") }), ErrorCode::NotFound);
    for request in [stop(StopMode::Ask), stop(StopMode::Force), pause(), unpause()] {
        assert_eq!(refused(&mut play, request), ErrorCode::NotRunning);
    }
    play.ask(start());
    assert_eq!(refused(&mut play, start()), ErrorCode::AlreadyRunning);
    assert_eq!(refused(&mut play, pause()), ErrorCode::NotRunning);
    play.machine(MachineEvent::Started);
    assert_eq!(refused(&mut play, start()), ErrorCode::AlreadyRunning);
    assert_eq!(refused(&mut play, unpause()), ErrorCode::NotPaused);
    play.machine(MachineEvent::Paused);
    assert_eq!(refused(&mut play, pause()), ErrorCode::AlreadyPaused);
    play.ask(stop(StopMode::Ask));
    for request in [start(), stop(StopMode::Ask), pause(), unpause()] {
        assert_eq!(refused(&mut play, request), ErrorCode::Stopping);
    }
    play.ends(ExitCause::PowerOff);
    let waits = play.ask(wait());
    assert!(matches!(play.answer(waits), Ok(Answer::Exit(Some(_)))));
}

#[test]
fn definitions_are_checked() {
    let mut play = Play::with(vec![vm("vm", StartPolicy::Disabled)]);
    let cases: Vec<(ErrorCode, Request)> = vec![
        (ErrorCode::InvalidName, create(|new| new.name = "-x".into())),
        (ErrorCode::InvalidName, create(|new| new.name = "12".into())),
        (ErrorCode::Exists, create(|new| new.name = "vm".into())),
        (ErrorCode::InvalidValue, create(|new| new.cpus = Some(0))),
        (ErrorCode::InvalidValue, create(|new| new.cpus = Some(300))),
        (ErrorCode::InvalidValue, create(|new| new.memory_mib = Some(0))),
        (ErrorCode::InvalidValue, create(|new| new.kernel = Some("relative".into()))),
        (ErrorCode::InvalidValue, create(|new| new.kernel = Some("/nul\0".into()))),
        (ErrorCode::InvalidValue, create(|new| (new.kernel, new.initramfs) = (None, Some("/i".into())))),
        (ErrorCode::InvalidValue, create(|new| new.disks = vec![NewDisk { path: "/d".into(), read_only: true }; 5])),
        (ErrorCode::Unsupported, create(|new| new.interfaces = vec![NewInterface::default()])),
        (ErrorCode::NotEnoughCpus, create(|new| new.cpus = Some(3))),
        (ErrorCode::NotEnoughMemory, create(|new| new.memory_mib = Some(16_384))),
    ];
    for (code, request) in cases {
        let text = format!("{request:?}");
        assert_eq!(refused(&mut play, request), code, "{text}");
    }
    assert_eq!(play.table.records().count(), 1);
    let denied = play.request(caller(OWNER, &[]), create(|_| {}));
    assert_eq!(play.answer(denied).unwrap_err().code, ErrorCode::NotPermitted);
}

#[test]
fn what_this_stockade_has_not_is_named() {
    let mut nothing = vm("nothing", StartPolicy::Disabled);
    nothing.definition.boot = Boot::Firmware;
    let mut cdrom = vm("cdrom", StartPolicy::Disabled);
    cdrom.definition.cdrom = Some("/c".into());
    let mut firmware = cdrom.clone();
    firmware.name = "firmware".parse().unwrap();
    firmware.definition.boot = Boot::Firmware;
    let mut play = Play::with(vec![nothing, cdrom, firmware]);
    let cases = [
        ("nothing", ErrorCode::NothingToBoot, "nothing to boot"),
        ("cdrom", ErrorCode::Unsupported, "cdrom"),
        ("firmware", ErrorCode::Unsupported, "firmware"),
    ];
    for (name, code, words) in cases {
        let request = play.ask(Request::Start { vm: named(name) });
        let error = play.answer(request).unwrap_err();
        assert_eq!(error.code, code);
        assert!(error.message.contains(words) && !error.remedy.is_empty(), "{error}");
        assert_eq!(play.state(name), VmState::Defined);
    }
}

#[test]
fn what_there_is_no_room_for_is_refused_with_the_numbers() {
    let quota = Quota { subject: Subject::User(OWNER), vms: Some(1), cpus: None, memory: None, disks: None };
    let mut other = vm("other", StartPolicy::Disabled);
    other.definition.memory = MemorySize::from_mib(15_000).unwrap();
    let vms = vec![vm("vm", StartPolicy::Disabled), other];
    let globals = Globals { reserved_memory: MemorySize::from_mib(1000), ..Globals::default() };
    let config = Config { vms, globals, quotas: vec![quota], ..Config::default() };
    let mut play = Play::of(Config::default(), Vec::new());
    play.configure(config.clone());
    play.ask(start());
    let request = play.ask(Request::Start { vm: named("other") });
    let error = play.answer(request).unwrap_err();
    assert_eq!(error.code, ErrorCode::QuotaExceeded);
    assert!(error.message.contains("1 of 1 vms"), "{error}");
    play.configure(Config { quotas: vec![], ..config });
    let request = play.ask(Request::Start { vm: named("other") });
    let error = play.answer(request).unwrap_err();
    assert_eq!(error.code, ErrorCode::NotEnoughMemory);
    assert!(error.message.contains("other needs 15238 MiB, and 14860 MiB are free"), "{error}");
}

#[test]
fn what_fails_on_the_way_is_told() {
    let mut play = Play::with(vec![vm("vm", StartPolicy::Disabled)]);
    let request = play.ask(start());
    play.machine(MachineEvent::NotStarted(Error::new(ErrorCode::FileInUse, "busy", "")));
    assert_eq!(play.answer(request).unwrap_err().code, ErrorCode::FileInUse);
    assert_eq!((play.state("vm"), play.record("vm").last_error.as_deref()), (VmState::Stopped, Some("busy")));
    let request = play.ask(start());
    play.ends(ExitCause::Failed);
    assert_eq!(play.answer(request).unwrap_err().code, ErrorCode::StartFailed);
    assert_eq!(play.state("vm"), VmState::Stopped);
    let request = play.ask(Request::Events { after: Some(3) });
    assert_eq!(play.answer(request).unwrap_err().code, ErrorCode::CursorTooOld);
}

#[test]
fn only_root_administers_and_nobody_starts_anything_at_the_end() {
    let mut play = Play::running();
    for request in [Request::Reload, Request::Load { path: "/x".into() }, Request::Reset { what: ResetScope::All }] {
        let request = play.request(caller(OWNER, &[]), request);
        assert_eq!(play.answer(request).unwrap_err().code, ErrorCode::NotPermitted);
    }
    let reload = play.ask(Request::Reload);
    assert_eq!(play.acts(), ["configure"]);
    let error = Error::new(ErrorCode::InvalidConfiguration, "vm.conf:1:1", "");
    play.handle(Input::NotConfigured { error, request: reload });
    assert_eq!(play.answer(reload).unwrap_err().code, ErrorCode::InvalidConfiguration);
    assert_eq!(play.state("vm"), VmState::Running);
    play.effects.clear();
    play.handle(Input::ShutDown);
    assert_eq!(play.acts(), ["save", "ask"]);
    for request in [create(|_| {}), Request::Reload, Request::Reset { what: ResetScope::All }] {
        assert_eq!(refused(&mut play, request), ErrorCode::ShuttingDown);
    }
    play.effects.clear();
    play.ends(ExitCause::PowerOff);
    assert_eq!(play.acts(), ["save", "exit"]);
    // The next daemon starts it again.
    assert_eq!(play.state("vm"), VmState::Waiting);
}

#[test]
fn instances_are_what_the_template_allows() {
    let mut template = vm("template", StartPolicy::Disabled);
    template.definition.instances.owner = Some(Owner { uid: 3000, gid: Some(9) });
    let mut play = Play::with(vec![template, vm("vm", StartPolicy::Disabled)]);
    let instance = |template: &str, change: fn(&mut NewVm)| {
        let mut new = NewVm { name: "new".into(), template: Some(template.into()), ..NewVm::default() };
        change(&mut new);
        Request::Create { definition: Box::new(new) }
    };
    let cases: [(ErrorCode, u32, Request); 6] = [
        (ErrorCode::TemplateNotFound, 0, instance("none", |_| {})),
        (ErrorCode::TemplateNotFound, 7, instance("template", |_| {})),
        (ErrorCode::NotPermitted, OWNER, instance("vm", |_| {})),
        (ErrorCode::NotPermitted, 3000, instance("template", |new| new.cpus = Some(2))),
        (ErrorCode::NotPermitted, 3000, instance("template", |new| new.kernel = Some("/mine".into()))),
        (
            ErrorCode::NotPermitted,
            3000,
            instance("template", |new| new.owner = Some(stockade_api::Owner { uid: 1, gid: None })),
        ),
    ];
    for (code, uid, request) in cases {
        let text = format!("{request:?}");
        let request = play.request(caller(uid, &[]), request);
        assert_eq!(play.answer(request).unwrap_err().code, code, "{text}");
    }
    let created = play.request(caller(3001, &[9]), instance("template", |_| {}));
    let record = play.record("new");
    assert_eq!((record.state, record.definition.owner.uid, record.run_by), (VmState::Starting, 3001, Some(3001)));
    // What it has of the template was named by root.
    assert_eq!(record.opener(std::path::Path::new("/kernel")), Caller::root());
    assert_eq!(record.opener(std::path::Path::new("/other")), caller(3001, &[9]));
    assert_eq!(play.answers(created), []);
}

#[test]
fn a_disk_of_the_template_is_not_an_instances() {
    let mut template = vm("template", StartPolicy::Disabled);
    let disk = |path: &str| NewDisk { path: path.into(), read_only: false };
    template.definition.disks = vec![Disk {
        path: "/disk".into(),
        format: DiskFormat::Raw,
        access: DiskAccess::ReadWrite,
        rate: DiskRate::default(),
    }];
    template.definition.instances.overrides.insert(Override::Disk);
    let mut play = Play::with(vec![template]);
    let mut with = |path: &str| {
        let disks = vec![disk(path)];
        let new = NewVm { name: "new".into(), template: Some("template".into()), disks, ..NewVm::default() };
        let request = play.ask(Request::Create { definition: Box::new(new) });
        play.answers(request)
    };
    let refused = with("/disk").remove(0).unwrap_err();
    assert_eq!(refused.code, ErrorCode::ResourceInUse);
    assert_eq!(with("/other"), []);
}

#[test]
fn numbers_are_given_out_once() {
    let ids: Ids = serde_json::from_str(r#"[{"name":"last","uid":0,"id":4294967295}]"#).unwrap();
    let mut play = Play::of(Config::default(), Vec::new());
    play.table = Table::new(Config::default(), play.table.host, ids, Vec::new(), play.clock);
    assert_eq!(refused(&mut play, create(|_| {})), ErrorCode::IdsExhausted);
    let known = play.ask(create(|new| new.name = "last".into()));
    assert_eq!(play.answers(known), []);
}

#[test]
fn an_agent_is_waited_for_while_its_guest_starts() {
    let mut play = Play::with(vec![vm("vm", StartPolicy::Disabled)]);
    let agent = || Request::Attach { vm: named("vm"), target: Target::Agent };
    assert_eq!(refused(&mut play, agent()), ErrorCode::NotRunning);
    play.ask(start());
    assert_eq!(refused(&mut play, agent()), ErrorCode::AgentNotReady);
    play.machine(MachineEvent::Started);
    assert_eq!(refused(&mut play, agent()), ErrorCode::NoAgent);
}
