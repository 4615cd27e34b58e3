//! The permission matrix: six kinds of callers, three states, eight verbs.

use stockade_api::SwitchSummary;
use stockade_config::model::{InstancePolicy, Interface, LinkState, SourceCheck, StatusVisibility, Switch};

use super::*;

const VERBS: [Verb; 8] =
    [Verb::Start, Verb::Stop, Verb::Pause, Verb::Wait, Verb::Status, Verb::Console, Verb::Instance, Verb::Reload];

#[test]
fn the_matrix() {
    let callers = [
        ("root", Caller::root()),
        ("owner", caller(OWNER, &[])),
        ("member", caller(2000, &[GROUP])),
        ("wheel", caller(2001, &[0])),
        ("stranger", caller(2002, &[7, 8])),
        ("nobody known", caller(65_534, &[])),
    ];
    let mut record = record("vm");
    let states = [(VmState::Stopped, None), (VmState::Running, Some(OWNER)), (VmState::Running, Some(4000))];
    for (state, run_by) in states {
        (record.state, record.run_by) = (state, run_by);
        for (who, caller) in &callers {
            let allowed = VERBS.map(|verb| u8::from(may(caller, verb, &record, StatusVisibility::Permitted)));
            // start stop pause wait status console instance reload
            let expected = match *who {
                "root" => [1, 1, 1, 1, 1, 1, 1, 1],
                "owner" | "member" => [1, 1, 1, 1, 1, 1, 0, 0],
                _ => [0; 8],
            };
            assert_eq!(allowed, expected, "{who}, {state}, {run_by:?}");
        }
    }
}

#[test]
fn who_runs_it_may_touch_it_while_it_runs() {
    let mut record = record("vm");
    let runner = caller(4000, &[]);
    for state in VmState::ALL {
        (record.state, record.run_by) = (state, Some(4000));
        assert_eq!(may(&runner, Verb::Stop, &record, StatusVisibility::Permitted), state.is_live(), "{state}");
    }
}

#[test]
fn a_template_says_who_may_make_instances() {
    let mut record = record("vm");
    let makers = |record: &Record| {
        let callers = [caller(OWNER, &[]), caller(3000, &[]), caller(3001, &[9]), caller(3002, &[0])];
        callers.map(|caller| may(&caller, Verb::Instance, record, StatusVisibility::Permitted))
    };
    assert_eq!(makers(&record), [false; 4]);
    record.definition.instances =
        InstancePolicy { owner: Some(Owner { uid: 3000, gid: Some(9) }), ..Default::default() };
    assert_eq!(makers(&record), [false, true, true, false]);
}

#[test]
fn what_somebody_may_not_see_does_not_exist() {
    let mut play = Play::running();
    let requests = [
        start(),
        stop(StopMode::Force),
        wait(),
        pause(),
        unpause(),
        console(ConsoleAccess::Read),
        console(ConsoleAccess::Write),
        Request::Show { vm: named("vm") },
    ];
    for request in requests {
        let request = play.request(caller(7, &[]), request);
        assert_eq!(play.answer(request).unwrap_err().code, stockade_api::ErrorCode::NotFound);
    }
    let request = play.request(caller(7, &[]), Request::Show { vm: VmReference::Id(VmId(1)) });
    assert_eq!(play.answer(request).unwrap_err().code, stockade_api::ErrorCode::NotFound);
    let list = play.request(caller(7, &[]), Request::List { after: VmId(0) });
    assert_eq!(play.answer(list), Ok(Answer::List { vms: vec![], more: false }));
    let list = play.request(caller(7, &[GROUP]), Request::List { after: VmId(0) });
    assert!(matches!(play.answer(list), Ok(Answer::List { vms, .. }) if vms.len() == 1));
    assert_eq!(play.state("vm"), VmState::Running);

    let mut config = Config { vms: vec![vm("vm", StartPolicy::Enabled)], ..Config::default() };
    config.globals.status_visible = StatusVisibility::All;
    play.configure(config);
    let seen = play.request(caller(7, &[]), Request::Show { vm: named("vm") });
    assert!(play.answer(seen).is_ok());
    let denied = play.request(caller(7, &[]), stop(StopMode::Force));
    assert_eq!(play.answer(denied).unwrap_err().code, stockade_api::ErrorCode::NotPermitted);
}

#[test]
fn a_console_is_typed_at_while_there_is_a_guest_and_read_at_any_time() {
    let mut play = Play::running();
    play.request(caller(OWNER, &[]), console(ConsoleAccess::Write));
    play.request(caller(OWNER, &[]), console(ConsoleAccess::Read));
    assert_eq!(play.acts(), ["attach", "attach"]);
    play.ask(stop(StopMode::Force));
    play.ends(ExitCause::Failed);
    play.acts();
    let typing = play.ask(console(ConsoleAccess::Write));
    assert_eq!(play.answer(typing).unwrap_err().code, stockade_api::ErrorCode::NotRunning);
    play.ask(console(ConsoleAccess::Read));
    assert_eq!(play.acts(), ["attach"]);
}

#[test]
fn switches_are_seen_by_whose_virtual_machines_are_plugged_into_them() {
    let switch = |name: &str| Switch {
        name: name.into(),
        start: StartPolicy::Enabled,
        interface: format!("br-{name}"),
        group: None,
        source_check: SourceCheck::Off,
        rdomain: None,
        link: LinkState::Up,
    };
    let mut vm = vm("vm", StartPolicy::Disabled);
    vm.definition.interfaces.push(Interface { switch: Some("lan".into()), ..Interface::default() });
    let mut play = Play::of(Config::default(), Vec::new());
    let mut config = Config { vms: vec![vm], switches: vec![switch("lan"), switch("uplink")], ..Config::default() };
    play.configure(config.clone());
    let seen = |play: &mut Play, caller: Caller| {
        play.effects.clear();
        let asked = play.request(caller, Request::Switches);
        assert!(play.answers(asked).is_empty());
        let Some(Effect::LookUp { request, switches }) = play.effects.pop() else { panic!("{:?}", play.effects) };
        assert_eq!(request, asked);
        play.handle(Input::SwitchesLookedUp { request, answer: Ok(switches.clone()) });
        assert_eq!(play.answer(asked), Ok(Answer::Switches(switches.clone())));
        switches.into_iter().map(|switch: SwitchSummary| switch.name).collect::<Vec<_>>()
    };
    assert_eq!(seen(&mut play, Caller::root()), ["lan", "uplink"]);
    assert_eq!(seen(&mut play, caller(OWNER, &[])), ["lan"]);
    assert_eq!(seen(&mut play, caller(7, &[])), [""; 0]);
    config.globals.status_visible = StatusVisibility::All;
    play.configure(config);
    assert_eq!(seen(&mut play, caller(7, &[])), ["lan", "uplink"]);
}
