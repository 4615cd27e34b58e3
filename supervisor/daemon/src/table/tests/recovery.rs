//! What the next daemon makes of what the last one saved.

use stockade_config::model::Shutdown;

use super::*;

/// What was saved of `vm` in this state, and a daemon that comes back to it.
fn recovered(state: VmState, change: impl FnOnce(&mut Record)) -> Play {
    let mut record = record("vm");
    record.state = state;
    record.generation = 4;
    record.run_by = Some(OWNER);
    record.start = StartPolicy::Enabled;
    change(&mut record);
    Play::of(Config { vms: vec![vm("vm", StartPolicy::Enabled)], ..Config::default() }, vec![record])
}

#[test]
fn what_runs_goes_on() {
    let mut play = recovered(VmState::Running, |_| {});
    play.machine(MachineEvent::Confined(jail(1)));
    play.machine(MachineEvent::Started);
    play.handle(Input::Recovered);
    assert_eq!(play.acts(), ["save"]);
    assert_eq!((play.state("vm"), play.record("vm").generation), (VmState::Running, 4));
}

#[test]
fn a_start_that_was_only_written_down_is_made() {
    let mut play = recovered(VmState::Starting, |_| {});
    play.machine(MachineEvent::NeverLaunched);
    assert_eq!(play.acts(), ["save", "save", "launch"]);
    assert_eq!((play.state("vm"), play.record("vm").generation), (VmState::Starting, 5));
    assert_eq!(play.record("vm").run_by, Some(OWNER));
}

#[test]
fn a_stop_is_finished() {
    let order = |deadline_ms| Some(StopOrder { deadline_ms, until_next_daemon: false });
    let mut play = recovered(VmState::Stopping, |record| record.stop = order(Some(1_000_500)));
    play.handle(Input::Recovered);
    assert_eq!(play.acts(), ["ask"]);
    play.passes(500);
    assert_eq!(play.acts(), ["save", "kill"]);
    let mut play = recovered(VmState::Stopping, |record| record.stop = order(None));
    play.handle(Input::Recovered);
    assert_eq!(play.acts(), ["kill"]);
    let mut play = recovered(VmState::Stopping, |record| record.stop = order(None));
    play.machine(MachineEvent::NeverLaunched);
    assert_eq!(play.state("vm"), VmState::Stopped);
}

#[test]
fn an_end_that_nobody_heard_of_is_collected() {
    let mut play = recovered(VmState::Running, |_| {});
    play.ends(ExitCause::Unknown);
    play.handle(Input::Recovered);
    assert_eq!(play.record("vm").last_exit.unwrap().cause, ExitCause::Unknown);
    assert_eq!(play.state("vm"), VmState::Stopped);
    let mut play = recovered(VmState::Running, |_| {});
    play.ends(ExitCause::Reset);
    assert_eq!((play.state("vm"), play.record("vm").generation), (VmState::Starting, 5));
}

#[test]
fn what_was_stopped_stays_stopped_when_the_configuration_is_read_again() {
    let mut play = recovered(VmState::Stopped, |_| {});
    play.configure(Config { vms: vec![vm("vm", StartPolicy::Enabled)], ..Config::default() });
    play.handle(Input::Recovered);
    assert_eq!(play.state("vm"), VmState::Stopped);
}

#[test]
fn one_that_ended_and_was_not_forgotten_yet_is() {
    let mut made = record("made");
    (made.configured, made.state, made.generation) = (false, VmState::Stopped, 3);
    let mut play = Play::of(Config::default(), vec![made]);
    play.table.ids.claim("made", 0);
    play.configure(Config::default());
    assert_eq!(play.acts(), ["save ids", "forget"]);
}

#[test]
fn one_that_was_dropped_while_it_ran_can_be_configured_again() {
    let config = || Config { vms: vec![vm("vm", StartPolicy::Enabled)], ..Config::default() };
    for dies in [false, true] {
        let mut play = Play::of(Config::default(), Vec::new());
        play.configure(config());
        play.machine(MachineEvent::Started);
        play.configure(Config::default());
        assert!(!play.record("vm").configured);
        if dies {
            play = Play::of(Config::default(), vec![play.record("vm")]);
        }
        play.configure(config());
        assert_eq!((play.record("vm").configured, play.state("vm")), (true, VmState::Running));
    }
}

#[test]
fn what_clients_made_is_not_in_the_way_of_the_rest_of_a_first_configuration() {
    let mut made = record("made");
    (made.configured, made.state) = (false, VmState::Running);
    let mut play = Play::of(Config::default(), vec![made]);
    let config = || Config {
        vms: vec![vm("vm", StartPolicy::Disabled), vm("made", StartPolicy::Disabled)],
        ..Config::default()
    };
    play.table.ids.claim("made", 0);
    play.configure(config());
    assert_eq!((play.state("vm"), play.record("made").configured), (VmState::Defined, false));
    // A later one is refused as a whole.
    play.configure(config());
    assert!(!play.record("made").configured);
}

#[test]
fn a_daemon_that_is_told_so_leaves_everything_running() {
    let mut config = Config { vms: vec![vm("vm", StartPolicy::Enabled)], ..Config::default() };
    config.globals.shutdown = Shutdown::Leave;
    let mut play = Play::of(Config::default(), Vec::new());
    play.configure(config);
    play.machine(MachineEvent::Started);
    play.effects.clear();
    play.handle(Input::ShutDown);
    assert_eq!(play.acts(), ["exit"]);
    assert_eq!(play.state("vm"), VmState::Running);
}

#[test]
fn guests_have_their_time_to_stop_and_no_more_if_the_daemon_is_told_again() {
    let mut play = recovered(VmState::Running, |_| {});
    play.acts();
    play.handle(Input::ShutDown);
    assert_eq!(play.acts(), ["save", "ask"]);
    play.handle(Input::ShutDown);
    assert_eq!(play.acts(), ["save", "kill"]);
    play.ends(ExitCause::Killed);
    assert_eq!(play.acts().last(), Some(&"exit"));
}
