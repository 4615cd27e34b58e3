//! The last events, and who waits for the next. A tenant gets those about virtual machines that it may see.

use std::collections::VecDeque;

use stockade_api::event::{Change, Event, EventPage};
use stockade_api::{Error, ErrorCode};
use stockade_config::model::StatusVisibility;

use super::effect::RequestId;
use super::permission::{Caller, Verb, may};
use super::record::Record;

/// Most events that are kept.
const MOST_EVENTS: usize = 4096;
/// Most events that are answered at once, so that an answer fits in a frame between the daemon's processes.
const MOST_IN_A_PAGE: usize = 48;

/// The last events.
#[derive(Debug)]
pub(super) struct EventLog {
    events: VecDeque<Entry>,
    /// Cursor of the last event, or what came before the first.
    last: u64,
    /// Events up to this cursor are not there any more.
    lost: u64,
    waiting: Vec<Waiting>,
}

#[derive(Debug)]
struct Entry {
    event: Event,
    /// Who may see it is decided by what the virtual machine was then.
    record: Record,
}

#[derive(Debug)]
struct Waiting {
    request: RequestId,
    caller: Caller,
    after: u64,
}

impl EventLog {
    /// An empty log, whose cursors are above those of every log before it: there is not more than an event in a microsecond.
    pub(super) fn new(wall_ms: u64) -> Self {
        let start = wall_ms.saturating_mul(1024);
        Self { events: VecDeque::new(), last: start, lost: start, waiting: Vec::new() }
    }

    /// Adds an event. Returns what those get that have waited for it.
    pub(super) fn publish(
        &mut self,
        record: &Record,
        change: Change,
        at_ms: u64,
        visible: StatusVisibility,
    ) -> Vec<(RequestId, EventPage)> {
        self.last = self.last.saturating_add(1);
        let event = Event {
            cursor: self.last,
            at_ms,
            vm: record.id,
            name: record.name.as_str().to_owned(),
            generation: record.generation,
            change,
        };
        self.events.push_back(Entry { event, record: record.clone() });
        if self.events.len() > MOST_EVENTS {
            self.lost = self.events.pop_front().map_or(self.lost, |entry| entry.event.cursor);
        }
        let waiting = std::mem::take(&mut self.waiting);
        let mut answers = Vec::new();
        for who in waiting {
            let page = self.page(&who.caller, who.after, visible);
            if page.events.is_empty() { self.waiting.push(who) } else { answers.push((who.request, page)) }
        }
        answers
    }

    /// Events after a cursor, if there are any, or else when there are. Without a cursor, that of the last event.
    pub(super) fn ask(
        &mut self,
        request: RequestId,
        caller: &Caller,
        after: Option<u64>,
        visible: StatusVisibility,
    ) -> Option<Result<EventPage, Error>> {
        let Some(after) = after else {
            return Some(Ok(EventPage { events: Vec::new(), next: self.last }));
        };
        let after = if after == 0 { self.lost } else { after };
        if after < self.lost || after > self.last {
            return Some(Err(Error::new(
                ErrorCode::CursorTooOld,
                format!("events after {after} are not known: those are kept from {} to {}", self.lost, self.last),
                "ask without a cursor, and list the virtual machines again",
            )));
        }
        let page = self.page(caller, after, visible);
        if page.events.is_empty() {
            self.waiting.push(Waiting { request, caller: caller.clone(), after });
            return None;
        }
        Some(Ok(page))
    }

    pub(super) fn abandon(&mut self, request: RequestId) {
        self.waiting.retain(|waiting| waiting.request != request);
    }

    fn page(&self, caller: &Caller, after: u64, visible: StatusVisibility) -> EventPage {
        let later = self.events.iter().filter(|entry| entry.event.cursor > after);
        let seen = later.filter(|entry| may(caller, Verb::Status, &entry.record, visible));
        let events: Vec<_> = seen.take(MOST_IN_A_PAGE).map(|entry| entry.event.clone()).collect();
        let next = events.last().map_or(after, |event| event.cursor);
        EventPage { events, next }
    }
}
