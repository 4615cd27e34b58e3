//! The loop that serves sessions until the guest is to be powered off.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use stockade_guest_protocol::{MAX_DATA_BYTES, Renewal, Setup};

use crate::channel::Part;
use crate::console;
use crate::orphans::Orphans;
use crate::session::{Ready, Session, SessionError};

/// Gives the guest its own time and random numbers, or says in words why it can't.
pub type Renew = fn(&Renewal<'_>) -> Result<(), String>;

/// Connects to the host anew, or says in words why it can't.
pub type Connect = fn() -> Result<OwnedFd, String>;

/// Prepares the guest as the host asks, or says in words why it can't.
pub type Prepare = fn(&Setup<'_>) -> Result<(), String>;

/// Sessions beside the first, at most.
const MAX_SESSIONS: usize = 64;

/// What happens after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The guest lives on.
    GoOn,
    /// The host wants it powered off.
    PowerOff,
}

/// Why no session can be served any more.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ServeError(String);

impl From<SessionError> for ServeError {
    fn from(error: SessionError) -> Self {
        Self(error.to_string())
    }
}

/// Serves sessions.
#[derive(Debug)]
pub struct Agent {
    guest: Guest,
    connect: Option<Connect>,
    orphans: Option<Orphans>,
    listener: Option<OwnedFd>,
}

/// What all sessions share.
#[derive(Debug)]
pub(crate) struct Guest {
    prepare: Prepare,
    renew: Option<Renew>,
    phase: Phase,
}

#[derive(Debug, PartialEq, Eq)]
enum Phase {
    Fresh,
    /// It waits to be cloned.
    Held,
    Prepared,
    Refused,
}

impl Guest {
    pub(crate) fn set_up(&mut self, setup: &Setup<'_>) -> Result<Result<(), String>, SessionError> {
        if self.phase == Phase::Refused {
            return Ok(Err("it could not be renewed".to_owned()));
        }
        if self.phase != Phase::Fresh {
            return Err(SessionError::Rule("a setup after the first setup or start"));
        }
        let prepared = (self.prepare)(setup);
        self.phase = if prepared.is_ok() { Phase::Prepared } else { Phase::Refused };
        Ok(prepared)
    }

    pub(crate) fn renew(&mut self, renewal: &Renewal<'_>) -> Result<Result<(), String>, SessionError> {
        if self.phase != Phase::Fresh {
            return Err(SessionError::Rule("a renewal after the first setup or start"));
        }
        let renewed = self.renew.map_or(Ok(()), |renew| renew(renewal));
        if renewed.is_err() {
            self.phase = Phase::Refused;
        }
        Ok(renewed)
    }

    pub(crate) fn hold(&mut self) -> Result<(), SessionError> {
        if self.phase != Phase::Fresh {
            return Err(SessionError::Rule("a hold after the first setup or start"));
        }
        self.phase = Phase::Held;
        Ok(())
    }

    pub(crate) fn start(&mut self) -> Result<(), SessionError> {
        if self.phase == Phase::Held {
            return Err(SessionError::Rule("a start in a guest that is held"));
        }
        if self.phase == Phase::Refused {
            return Err(SessionError::Rule("a start after the setup was refused"));
        }
        self.phase = Phase::Prepared;
        Ok(())
    }
}

/// What is ready.
#[derive(Debug, Clone, Copy)]
enum Source {
    Orphans,
    Listener,
    Session(usize, Ready),
}

impl Agent {
    /// An agent that prepares its guest with `prepare`.
    #[must_use]
    pub fn new(prepare: Prepare) -> Self {
        Self {
            guest: Guest { prepare, renew: None, phase: Phase::Fresh },
            connect: None,
            orphans: None,
            listener: None,
        }
    }

    /// With `renew` to make a clone a guest of its own, and `connect` for a clone to find its host.
    #[must_use]
    pub fn with_renewal(mut self, renew: Renew, connect: Connect) -> Self {
        self.guest.renew = Some(renew);
        self.connect = Some(connect);
        self
    }

    /// With orphans to bury.
    #[must_use]
    pub fn with_orphans(mut self, orphans: Orphans) -> Self {
        self.orphans = Some(orphans);
        self
    }

    /// With a listening socket, which does not block, for sessions beside the first.
    #[must_use]
    pub fn with_listener(mut self, listener: OwnedFd) -> Self {
        self.listener = Some(listener);
        self
    }

    /// Serves the session on `host`, and further ones, until one of them asks for [`Verdict::PowerOff`].
    ///
    /// # Errors
    /// The first session is lost, or broke the protocol: nobody is left for whom the guest runs. Commands of
    /// all sessions are killed then.
    pub fn serve(mut self, host: OwnedFd) -> Result<(), ServeError> {
        let mut sessions = vec![Session::new(host)?];
        let mut buffer = Box::new([0; MAX_DATA_BYTES]);
        let served = self.serve_all(&mut sessions, &mut buffer);
        for session in sessions {
            session.abandon();
        }
        served
    }

    fn serve_all(&mut self, sessions: &mut Vec<Session>, buffer: &mut [u8; MAX_DATA_BYTES]) -> Result<(), ServeError> {
        loop {
            let ready = self.wait(sessions)?;
            // The last first, so that a session that is removed leaves the numbers of the others as they are.
            let mut ended: Vec<(usize, SessionError)> = Vec::new();
            for &(source, flags) in &ready {
                match source {
                    Source::Orphans => {}
                    Source::Listener => self.accept(sessions),
                    Source::Session(index, ready) => {
                        let Some(session) = sessions.get_mut(index) else { continue };
                        match session.ready(ready, flags, buffer, &mut self.guest) {
                            Ok(Verdict::GoOn) => {}
                            Ok(Verdict::PowerOff) => return Ok(()),
                            Err(error) => ended.push((index, error)),
                        }
                    }
                }
            }
            let now = Instant::now();
            for (index, session) in sessions.iter_mut().enumerate() {
                if let Err(error) = session.settle(now) {
                    ended.push((index, error));
                }
            }
            if ready.iter().any(|(source, _)| {
                matches!(source, Source::Orphans | Source::Session(_, Ready::Channel(_, Part::Work)))
            }) && let Some(orphans) = &self.orphans
            {
                orphans.bury(|id| sessions.iter().any(|session| session.is_command(id)));
            }
            self.begin_clone(sessions, &mut ended)?;
            remove(sessions, ended)?;
        }
    }

    /// A held guest whose first session broke off is a clone: there is another host.
    fn begin_clone(
        &mut self,
        sessions: &mut [Session],
        ended: &mut Vec<(usize, SessionError)>,
    ) -> Result<(), ServeError> {
        if self.guest.phase == Phase::Held
            && let Some(connect) = self.connect
            && let Some(first) = sessions.first_mut()
            && ended.iter().any(|(index, _)| *index == 0)
        {
            *first = Session::new(connect().map_err(ServeError)?)?;
            self.guest.phase = Phase::Fresh;
            ended.retain(|(index, _)| *index != 0);
        }
        Ok(())
    }

    fn wait(&self, sessions: &[Session]) -> Result<Vec<(Source, PollFlags)>, ServeError> {
        let orphans = self.orphans.iter().map(|orphans| (Source::Orphans, orphans.as_fd(), PollFlags::IN));
        let listener = self.listener.iter().filter(|_| sessions.len() <= MAX_SESSIONS);
        let listener = listener.map(|listener| (Source::Listener, listener.as_fd(), PollFlags::IN));
        let sessions_ready = sessions.iter().enumerate().flat_map(|(index, session)| {
            session.interests().map(move |(ready, fd, flags)| (Source::Session(index, ready), fd, flags))
        });
        let wanted: Vec<(Source, BorrowedFd<'_>, PollFlags)> = orphans.chain(listener).chain(sessions_ready).collect();
        let mut polled: Vec<_> = wanted.iter().map(|(_, fd, flags)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        let deadline = sessions.iter().filter_map(Session::deadline).min();
        let timeout = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
        match poll(&mut polled, timeout.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(ServeError(format!("wait for the host and commands: {errno}"))),
        }
        let flags = polled.iter().map(PollFd::revents);
        Ok(wanted
            .iter()
            .zip(flags)
            .filter(|(_, flags)| !flags.is_empty())
            .map(|((source, ..), flags)| (*source, flags))
            .collect())
    }

    fn accept(&self, sessions: &mut Vec<Session>) {
        let Some(listener) = &self.listener else { return };
        // One that was given up before it was accepted is no loss.
        let Ok(socket) = rustix::net::accept_with(listener, SocketFlags::CLOEXEC) else { return };
        sessions.extend(Session::new(socket).ok());
    }
}

/// Removes sessions that ended. Without the first one there is nothing left to do.
fn remove(sessions: &mut Vec<Session>, mut ended: Vec<(usize, SessionError)>) -> Result<(), ServeError> {
    ended.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
    ended.dedup_by_key(|(index, _)| *index);
    for (index, error) in ended {
        if index == 0 {
            return Err(error.into());
        }
        sessions.remove(index).abandon();
        console::say(format_args!("a session ended: {error}"));
    }
    Ok(())
}
