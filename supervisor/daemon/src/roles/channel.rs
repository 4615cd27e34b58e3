//! One end of the socket between the parent and a role: frames, and the descriptors that come with them.

use std::io::{self, IoSlice, IoSliceMut};
use std::marker::PhantomData;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::net::UnixDatagram;

use super::frame::{Frame, FrameError, MAX_BYTES, MAX_DESCRIPTORS, decode, encode};

/// Most descriptors that are taken from the kernel with a packet; more than any frame has, so that one too many is seen.
const MOST_DESCRIPTORS: usize = 4;

/// One end: says `Out`, hears `In`.
#[derive(Debug)]
pub struct Channel<Out, In> {
    /// `SOCK_SEQPACKET`, for which tokio has no type of its own; only readiness is asked of this one.
    socket: UnixDatagram,
    messages: PhantomData<fn(Out) -> In>,
}

/// The other end is gone, or broke the rules.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChannelError {
    /// It is gone.
    #[error("the other end is gone")]
    Gone,
    /// It broke the rules.
    #[error("the other end broke the protocol: {0}")]
    Frame(#[from] FrameError),
    /// The socket failed.
    #[error("talk to the other end")]
    Socket(#[from] io::Error),
}

/// Both ends of a channel.
///
/// # Errors
/// As socketpair(2).
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

impl<Out: Frame, In: Frame> Channel<Out, In> {
    /// Talks over `socket`. To be called within a runtime.
    ///
    /// # Errors
    /// The socket can't be watched.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&socket, true)?;
        Ok(Self { socket: UnixDatagram::from_std(socket.into())?, messages: PhantomData })
    }

    /// Says something, with the descriptors that go with it.
    ///
    /// # Errors
    /// It is too long, or nobody hears it.
    pub async fn send(&self, message: &Out, descriptors: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let missing = message.descriptors().abs_diff(descriptors.len());
        if missing != 0 {
            return Err(FrameError::Descriptors(missing).into());
        }
        let bytes = encode(message)?;
        let sent = self.socket.async_io(Interest::WRITABLE, || send(self.socket.as_fd(), &bytes, descriptors)).await;
        sent.map_err(ChannelError::from_io)
    }

    /// The next thing that is said. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The other end is gone, or broke the rules; nothing is to be heard after that.
    pub async fn receive(&self) -> Result<(In, Vec<OwnedFd>), ChannelError> {
        let received = self.socket.async_io(Interest::READABLE, || receive(self.socket.as_fd())).await;
        let (packet, descriptors) = received.map_err(ChannelError::from_io)?;
        if packet.is_empty() {
            return Err(ChannelError::Gone);
        }
        let message = decode(&packet, descriptors.len())?;
        Ok((message, descriptors))
    }
}

impl ChannelError {
    fn from_io(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => Self::Gone,
            _ => Self::Socket(error),
        }
    }
}

fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !control.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive(socket: BorrowedFd<'_>) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    // One byte more shows that a packet was longer.
    let mut packet = vec![0; MAX_BYTES.saturating_add(1)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let buffers = &mut [IoSliceMut::new(&mut packet)];
    let received = recvmsg(socket, buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            descriptors.extend(rights);
        }
    }
    if received.flags.contains(ReturnFlags::CTRUNC) {
        // There were more than anybody may send.
        descriptors.clear();
        return Ok((vec![u8::MAX], descriptors));
    }
    packet.truncate(received.bytes);
    Ok((packet, descriptors))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::fs::File;

    use stockade_api::{Answer, Attached, ConsoleAccess, VmId};

    use super::super::frame::{ToControl, ToParent};
    use super::*;

    type Ours = Channel<ToControl, ToParent>;
    type Theirs = Channel<ToParent, ToControl>;

    fn ends() -> (Ours, Theirs) {
        let (ours, theirs) = pair().unwrap();
        (Channel::new(ours).unwrap(), Channel::new(theirs).unwrap())
    }

    #[tokio::test]
    async fn descriptors_come_with_what_needs_them_alone() {
        let (ours, theirs) = ends();
        let null = File::open("/dev/null").unwrap();
        let connection = ToControl::Connection { connection: 3 };
        ours.send(&connection, &[null.as_fd()]).await.unwrap();
        let (heard, descriptors) = theirs.receive().await.unwrap();
        assert_eq!((heard, descriptors.len()), (connection.clone(), 1));
        assert!(matches!(ours.send(&connection, &[]).await, Err(ChannelError::Frame(FrameError::Descriptors(1)))));
        let access = ConsoleAccess::Write;
        let console = Attached::Console { vm: VmId(1), ring_bytes: 1, watch: 1, access };
        let attached = ToControl::Answer { connection: 3, request: 1, answer: Ok(Answer::Attached(console)) };
        assert!(matches!(
            ours.send(&attached, &[null.as_fd()]).await,
            Err(ChannelError::Frame(FrameError::Descriptors(1)))
        ));
        ours.send(&attached, &[null.as_fd(), null.as_fd()]).await.unwrap();
        let (heard, descriptors) = theirs.receive().await.unwrap();
        assert_eq!((heard, descriptors.len()), (attached, 2));
        theirs.send(&ToParent::Ready, &[]).await.unwrap();
        assert_eq!(ours.receive().await.unwrap().0, ToParent::Ready);
        drop(theirs);
        assert!(matches!(ours.receive().await, Err(ChannelError::Gone)));
        assert!(matches!(ours.send(&connection, &[null.as_fd()]).await, Err(ChannelError::Gone)));
    }

    #[tokio::test]
    async fn who_breaks_the_rules_is_not_heard() {
        let null = File::open("/dev/null").unwrap();
        let ready = encode(&ToParent::Ready).unwrap();
        let bodies: [(&[u8], usize); 5] =
            [(&ready, 1), (&ready, 9), (b"\x02", 0), (b"\x01\xff", 0), (&[1; MAX_BYTES + 9], 0)];
        for (bytes, count) in bodies {
            let (ours, theirs) = pair().unwrap();
            let ours = Ours::new(ours).unwrap();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(9))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            let descriptors = vec![null.as_fd(); count];
            assert!(count == 0 || control.push(SendAncillaryMessage::ScmRights(&descriptors)));
            sendmsg(&theirs, &[IoSlice::new(bytes)], &mut control, SendFlags::empty()).unwrap();
            assert!(matches!(ours.receive().await, Err(ChannelError::Frame(_))), "{count}");
        }
    }
}
