//! What happens to the VM, told to the process that started the vmm: JSON lines on the descriptor `events`.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use nix::time::{ClockId, clock_gettime};
use stockade_vmm_api::event::{Event, EventKind};

/// Where events go, if anywhere.
#[derive(Debug)]
pub struct Events(Option<File>);

impl Events {
    /// Writes to `descriptor`, if there is one.
    pub fn new(descriptor: Option<OwnedFd>) -> Self {
        Self(descriptor.map(File::from))
    }

    /// Tells that `kind` happened now. A listener that is gone is not told again.
    pub fn emit(&mut self, kind: EventKind) {
        let Some(file) = &mut self.0 else { return };
        let event = Event { at_us: now_us(), kind };
        let written = serde_json::to_vec(&event).map_err(Into::into).and_then(|mut line| {
            line.push(b'\n');
            file.write_all(&line)
        });
        if let Err(error) = written {
            log::warn!("write event: {error}");
            self.0 = None;
        }
    }
}

fn now_us() -> u64 {
    // The clock is there on every Linux.
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap_or_else(|_| nix::sys::time::TimeSpec::new(0, 0));
    u64::try_from(std::time::Duration::from(now).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, pipe};

    use super::*;

    #[test]
    fn an_event_is_a_line() {
        let (reader, writer) = pipe().unwrap();
        let mut events = Events::new(Some(writer.into()));
        events.emit(EventKind::Launched);
        events.emit(EventKind::Started);
        drop(events);
        let lines = BufReader::new(reader).lines().map(Result::unwrap);
        let kinds: Vec<_> = lines.map(|line| serde_json::from_str::<Event>(&line).unwrap().kind).collect();
        assert_eq!(kinds, [EventKind::Launched, EventKind::Started]);
    }
}
