//! The service manager, as far as it wants to know what the daemon is doing: sd_notify(3). Without one, nothing is said.

use sd_notify::NotifyState;

use crate::executor::Count;

/// Seconds beyond the last guest's time that the daemon may need to end.
const MARGIN_SECONDS: u64 = 15;

/// It serves, and has every virtual machine that it came back to. Says which process it is, too: one that takes over from
/// another in the same service is not the one that was started first.
pub fn ready(count: Count) {
    notify(&[NotifyState::Ready, NotifyState::MainPid(std::process::id()), NotifyState::Status(&count.to_string())]);
}

/// What there is has changed.
pub fn status(count: Count) {
    notify(&[NotifyState::Status(&count.to_string())]);
}

/// It reads its configuration again.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => log::warn!("tell the service manager: {error}"),
    }
}

/// It has read its configuration, or knows why it can't.
pub fn reloaded(result: Result<Count, &str>) {
    let status = result.map_or_else(|problem| format!("not reloaded: {problem}"), |count| count.to_string());
    // A status is one line.
    let line = status.lines().next().unwrap_or_default();
    notify(&[NotifyState::Ready, NotifyState::Status(line)]);
}

/// It ends, once its guests have ended, which takes so long at most.
pub fn stopping(guests: usize, longest_ms: u64) {
    let seconds = (longest_ms / 1000).saturating_add(MARGIN_SECONDS);
    let microseconds = u32::try_from(seconds.saturating_mul(1_000_000)).unwrap_or(u32::MAX);
    let status = match guests {
        0 => "ending".to_owned(),
        guests => format!("ending: {guests} guests are asked to stop"),
    };
    notify(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(microseconds), NotifyState::Status(&status)]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        log::warn!("tell the service manager: {error}");
    }
}
