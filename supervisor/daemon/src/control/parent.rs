//! The parent's side of `control`: accepts clients without reading a byte of theirs, and passes requests and answers on.

use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use stockade_api::{Answer, Error};
use tokio::net::UnixListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::time::sleep;

use super::peers::Peers;
use crate::roles::channel::{Channel, ChannelError};
use crate::roles::frame::{Connection, FrameError, RequestNumber, ToControl, ToParent};
use crate::roles::keeper::Attendant;
use crate::table::{Input, RequestId};

/// How long no client is accepted when there is no descriptor left.
const OUT_OF_DESCRIPTORS_PAUSE: Duration = Duration::from_secs(1);

/// An answer on its way to a client.
#[derive(Debug)]
pub struct Outgoing {
    /// To which request.
    pub id: RequestId,
    /// What came of it.
    pub answer: Result<Answer, Error>,
    /// What goes with an [`Answer::Attached`].
    pub descriptors: Vec<OwnedFd>,
}

type ParentChannel = Channel<ToControl, ToParent>;

/// Serves the clients of a listener.
#[derive(Debug)]
pub struct Reception<R> {
    listener: UnixListener,
    consoles: OwnedFd,
    peers: Peers,
    inputs: UnboundedSender<Input>,
    answers: UnboundedReceiver<Outgoing>,
    ready: Option<R>,
}

impl<R: FnOnce()> Reception<R> {
    /// For clients at `listener`. `consoles` tells when one was written to (see [`crate::consoles`]). `ready` is told once they are served for the first time.
    pub fn new(
        listener: UnixListener,
        consoles: OwnedFd,
        inputs: UnboundedSender<Input>,
        answers: UnboundedReceiver<Outgoing>,
        ready: R,
    ) -> Self {
        Self { listener, consoles, peers: Peers::default(), inputs, answers, ready: Some(ready) }
    }
}

impl<R: FnOnce()> Attendant for Reception<R> {
    type Says = ToControl;
    type Hears = ToParent;

    async fn attend(&mut self, channel: &ParentChannel) -> ChannelError {
        // Clients wait in the listener's queue until somebody can serve them.
        match channel.receive().await {
            Ok((ToParent::Ready, _)) => {}
            Ok(_) => return FrameError::Malformed.into(),
            Err(error) => return error,
        }
        if let Err(error) = channel.send(&ToControl::Consoles, &[self.consoles.as_fd()]).await {
            return error;
        }
        if let Some(ready) = self.ready.take() {
            ready();
        }
        let Self { listener, peers, inputs, answers, .. } = self;
        let mut life = Life { peers, inputs, channel };
        loop {
            let result = tokio::select! {
                heard = channel.receive() => match heard {
                    Ok((message, _)) => life.hear(message).await,
                    Err(error) => Err(error),
                },
                Some(outgoing) = answers.recv() => life.pass_on(outgoing).await,
                client = listener.accept() => match client {
                    Ok((stream, _)) => life.admit(&stream).await,
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

    fn bereave(&mut self) {
        for id in self.peers.interrupted() {
            let _ = self.inputs.send(Input::Abandoned { id });
        }
    }
}

/// At the daemon's own end as well.
impl<R> Drop for Reception<R> {
    fn drop(&mut self) {
        drop(self.peers.interrupted());
    }
}

/// One life of `control`.
struct Life<'a> {
    peers: &'a mut Peers,
    inputs: &'a UnboundedSender<Input>,
    channel: &'a ParentChannel,
}

impl Life<'_> {
    async fn admit(&mut self, stream: &tokio::net::UnixStream) -> Result<(), ChannelError> {
        match self.peers.admit(stream) {
            Ok(Some((connection, socket))) => {
                let message = ToControl::Connection { connection };
                self.channel.send(&message, &[socket.as_fd()]).await
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
            ToParent::Ready => return Err(FrameError::Malformed.into()),
            ToParent::Request { connection, request, body } => match self.peers.ask(connection, request) {
                Ok((id, caller)) => {
                    let _ = self.inputs.send(Input::Request { id, caller, request: Box::new(body) });
                }
                Err(error) => return self.answer(connection, request, Err(error), &[]).await,
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

    async fn pass_on(&mut self, outgoing: Outgoing) -> Result<(), ChannelError> {
        let Outgoing { id, answer, descriptors } = outgoing;
        let Some((connection, request)) = self.peers.answered(id) else { return Ok(()) };
        if matches!(answer, Ok(Answer::Attached(_)))
            && let Err(error) = self.peers.attach(connection, id)
        {
            let _ = self.inputs.send(Input::Abandoned { id });
            return self.answer(connection, request, Err(error), &[]).await;
        }
        self.answer(connection, request, answer, &descriptors).await
    }

    async fn answer(
        &self,
        connection: Connection,
        request: RequestNumber,
        answer: Result<Answer, Error>,
        descriptors: &[OwnedFd],
    ) -> Result<(), ChannelError> {
        let descriptors: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
        self.channel.send(&ToControl::Answer { connection, request, answer }, &descriptors).await
    }
}
