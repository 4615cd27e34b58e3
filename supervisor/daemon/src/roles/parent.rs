//! The parent's side of `control`: accepts clients without reading a byte of theirs, starts the role, starts it again when it
//! dies, and passes requests and answers on.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use command_fds::{CommandFdExt, FdMapping};
use stockade_api::{Answer, Error};
use tokio::net::UnixListener;
use tokio::process::{Child, Command};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::sleep;

use super::channel::{Channel, ChannelError, pair};
use super::frame::{Connection, RequestNumber, ToControl, ToParent};
use super::peers::Peers;
use crate::table::{Input, RequestId};

/// The argument that makes this program a role.
pub const ROLE_ARGUMENT: &str = "--role";
/// The argument with the folder that a role mounts its root on.
pub const EMPTY_ARGUMENT: &str = "--empty";
/// The descriptor of a role's channel.
pub const CHANNEL: i32 = 3;
/// How long to wait before a role is started again, so that one that dies at once does not keep the host busy.
const PAUSE: Duration = Duration::from_millis(200);
/// How long no client is accepted when there is no descriptor left.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_secs(1);

/// An answer on its way to a client.
pub type Outgoing = (RequestId, Result<Answer, Error>);
type ParentChannel = Channel<ToControl, ToParent>;

/// Serves clients at `listener` for as long as the daemon lives. `ready` is told once the first role is.
pub async fn serve(
    listener: UnixListener,
    empty: PathBuf,
    inputs: UnboundedSender<Input>,
    mut answers: UnboundedReceiver<Outgoing>,
    ready: impl FnOnce(),
) {
    let mut peers = Peers::default();
    let mut ready = Some(ready);
    loop {
        match start(&empty) {
            Ok((mut child, channel)) => {
                log::info!("control runs as process {}", child.id().unwrap_or_default());
                let mut service =
                    Service { listener: &listener, peers: &mut peers, inputs: &inputs, channel: &channel };
                let error = service.run(&mut answers, &mut ready).await;
                log::error!("control is started again: {error}");
                let _ = child.start_kill();
                let _ = child.wait().await;
            }
            Err(error) => log::error!("control can't be started: {error}"),
        }
        for id in peers.interrupted() {
            let _ = inputs.send(Input::Abandoned { id });
        }
        sleep(PAUSE).await;
    }
}

fn start(empty: &Path) -> io::Result<(Child, ParentChannel)> {
    let (ours, theirs) = pair()?;
    // This very program, whatever has its name by now.
    let mut command = std::process::Command::new("/proc/self/exe");
    command.arg0("stockaded: control").args([ROLE_ARGUMENT, "control", EMPTY_ARGUMENT]).arg(empty);
    command.env_clear().current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    let mappings = vec![FdMapping { parent_fd: theirs, child_fd: CHANNEL }];
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    let child = Command::from(command).kill_on_drop(true).spawn()?;
    Ok((child, Channel::new(ours)?))
}

/// One life of `control`.
struct Service<'a> {
    listener: &'a UnixListener,
    peers: &'a mut Peers,
    inputs: &'a UnboundedSender<Input>,
    channel: &'a ParentChannel,
}

impl Service<'_> {
    async fn run(
        &mut self,
        answers: &mut UnboundedReceiver<Outgoing>,
        ready: &mut Option<impl FnOnce()>,
    ) -> ChannelError {
        // Clients wait in the listener's queue until somebody can serve them.
        match self.channel.receive().await {
            Ok((ToParent::Ready, None)) => {}
            Ok(_) => return super::frame::FrameError::Malformed.into(),
            Err(error) => return error,
        }
        if let Some(ready) = ready.take() {
            ready();
        }
        loop {
            let result = tokio::select! {
                heard = self.channel.receive() => match heard {
                    Ok((message, _)) => self.hear(message).await,
                    Err(error) => Err(error),
                },
                Some((id, answer)) = answers.recv() => self.pass_on(id, answer).await,
                client = self.listener.accept() => match client {
                    Ok((stream, _)) => self.admit(&stream).await,
                    Err(error) => {
                        log::warn!("accept a client: {error}");
                        sleep(OUT_OF_DESCRIPTORS_PAUSE).await;
                        Ok(())
                    }
                },
            };
            if let Err(error) = result {
                return error;
            }
        }
    }

    async fn admit(&mut self, stream: &tokio::net::UnixStream) -> Result<(), ChannelError> {
        match self.peers.admit(stream) {
            Ok(Some((connection, socket))) => {
                let message = ToControl::Connection { connection };
                self.channel.send(&message, Some(socket.as_fd())).await
            }
            Ok(None) => {
                log::warn!("a client was not let in: there are too many");
                Ok(())
            }
            Err(error) => {
                log::warn!("a client was not let in: {error}");
                Ok(())
            }
        }
    }

    async fn hear(&mut self, message: ToParent) -> Result<(), ChannelError> {
        match message {
            ToParent::Ready => return Err(super::frame::FrameError::Malformed.into()),
            ToParent::Request { connection, request, body } => match self.peers.ask(connection, request) {
                Ok((id, caller)) => {
                    let _ = self.inputs.send(Input::Request { id, caller, request: Box::new(body) });
                }
                Err(error) => return self.answer(connection, request, Err(error)).await,
            },
            ToParent::Abandoned { connection, request } => {
                if let Some(id) = self.peers.abandoned(connection, request) {
                    let _ = self.inputs.send(Input::Abandoned { id });
                }
            }
            ToParent::Closed { connection } => {
                for id in self.peers.closed(connection) {
                    let _ = self.inputs.send(Input::Abandoned { id });
                }
            }
        }
        Ok(())
    }

    async fn pass_on(&mut self, id: RequestId, answer: Result<Answer, Error>) -> Result<(), ChannelError> {
        let Some((connection, request)) = self.peers.answered(id) else { return Ok(()) };
        self.answer(connection, request, answer).await
    }

    async fn answer(
        &self,
        connection: Connection,
        request: RequestNumber,
        answer: Result<Answer, Error>,
    ) -> Result<(), ChannelError> {
        self.channel.send(&ToControl::Answer { connection, request, answer }, None).await
    }
}

/// The channel that a role has inherited.
///
/// # Errors
/// It was not started by a parent.
pub fn inherited_channel() -> io::Result<OwnedFd> {
    let channel = stockade_jailer::inherited(CHANNEL)?;
    rustix::io::fcntl_setfd(&channel, rustix::io::FdFlags::CLOEXEC)?;
    log::debug!("the channel is descriptor {}", channel.as_raw_fd());
    Ok(channel)
}
