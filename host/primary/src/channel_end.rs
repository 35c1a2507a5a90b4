//! Our end of a channel to a child: messages with descriptors, in and out.
//!
//! Responsible for framing, queueing and waiting. Nothing is ever waited for
//! in order to write: what the socket does not take at once is kept and goes
//! out while [`ChannelEnd::next`] waits for an answer. The queue is bounded by what
//! is said to one child in its life.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use skep_sys::Channel;
use skep_wire::{Decoder, FrameError, Message, encode};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes received at a time; what children say is short.
const PIECE: usize = 4 << 10;

/// Pieces that are received of a child that has ended: 2 MiB, more than a
/// channel holds.
const LAST_PIECES: usize = 512;

/// Why a channel is of no more use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChannelEndError {
    /// The child speaks no message of ours.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The child sent descriptors, which no message to the primary carries.
    #[error("unasked-for descriptors")]
    Descriptors,
    /// The socket failed.
    #[error("the channel failed")]
    Io(#[from] io::Error),
}

/// What is there to be read without waiting.
enum Heard<M> {
    Message(M),
    Nothing,
    Closed,
}

/// A message on its way out.
#[derive(Debug)]
struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    /// Kept until the first byte went; the kernel holds them from then on.
    fds: Vec<Arc<OwnedFd>>,
}

/// Our end of one channel.
#[derive(Debug)]
pub(crate) struct ChannelEnd {
    channel: AsyncFd<Channel>,
    outgoing: VecDeque<Outgoing>,
    decoder: Decoder<OwnedFd>,
    heard: usize,
}

impl ChannelEnd {
    /// Takes our end of a channel. Must be called within a tokio runtime.
    pub(crate) fn new(channel: Channel) -> io::Result<Self> {
        Ok(Self {
            channel: skep_sys::watch(channel)?,
            outgoing: VecDeque::new(),
            decoder: Decoder::default(),
            heard: 0,
        })
    }

    /// Says something with as many descriptors as [`Message::fds`] announces.
    pub(crate) fn say<M: Message>(
        &mut self,
        message: &M,
        fds: Vec<Arc<OwnedFd>>,
    ) -> Result<(), FrameError> {
        if fds.len() != message.fds() {
            return Err(FrameError::FdCount {
                name: message.name(),
                got: fds.len(),
                expected: message.fds(),
            });
        }
        self.outgoing.push_back(Outgoing {
            bytes: encode(message)?,
            sent: 0,
            fds,
        });
        Ok(())
    }

    /// The next thing that the child says, or `None` once it has closed its
    /// end. Writes what is queued meanwhile. Cancelling loses nothing.
    pub(crate) async fn next<M: Message>(&mut self) -> Result<Option<M>, ChannelEndError> {
        loop {
            self.flush()?;
            match self.hear()? {
                Heard::Message(message) => return Ok(Some(message)),
                Heard::Closed => return Ok(None),
                Heard::Nothing => {}
            }
            let interest = if self.outgoing.is_empty() {
                Interest::READABLE
            } else {
                Interest::READABLE | Interest::WRITABLE
            };
            // Readiness is consumed by `flush` and `hear`.
            self.channel.ready(interest).await?.retain_ready();
        }
    }

    /// What the child said last, without waiting: for after its end. Somebody
    /// else may have its end of the channel, so what is no message, or more than
    /// a channel holds, is the end.
    pub(crate) fn last_words<M: Message>(&mut self) -> Vec<M> {
        let mut words = Vec::new();
        let mut piece = [0; PIECE];
        for _ in 0..LAST_PIECES {
            loop {
                match self.decoder.message() {
                    Ok(Some((message, _))) => words.push(message),
                    Ok(None) => break,
                    Err(_) => return words,
                }
            }
            // Not through the runtime, which may not have seen yet that there
            // is something.
            match self.channel.get_ref().recv(&mut piece, &mut Vec::new()) {
                Ok(count) if count > 0 => self.received(&piece[..count]),
                _ => return words,
            }
        }
        words
    }

    /// Bytes that the child has said since this was last asked.
    pub(crate) fn take_heard(&mut self) -> usize {
        std::mem::take(&mut self.heard)
    }

    fn received(&mut self, bytes: &[u8]) {
        self.heard += bytes.len();
        self.decoder.push(bytes, []);
    }

    /// Writes what is queued, as much as goes now.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(first) = self.outgoing.front_mut() {
            let fds: Vec<BorrowedFd<'_>> = first.fds.iter().map(|fd| fd.as_fd()).collect();
            let rest = &first.bytes[first.sent..];
            let sent = self
                .channel
                .try_io(Interest::WRITABLE, |channel| channel.send(rest, &fds));
            match sent {
                Ok(sent) => {
                    first.fds.clear();
                    first.sent += sent;
                    if first.sent == first.bytes.len() {
                        self.outgoing.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Nobody listens; what the child said before is still there.
                Err(error) if is_hangup(&error) => self.outgoing.clear(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn hear<M: Message>(&mut self) -> Result<Heard<M>, ChannelEndError> {
        let mut piece = [0; PIECE];
        loop {
            if let Some((message, _)) = self.decoder.message()? {
                return Ok(Heard::Message(message));
            }
            let mut fds = Vec::new();
            let received = self.channel.try_io(Interest::READABLE, |channel| {
                channel.recv(&mut piece, &mut fds)
            });
            match received {
                Ok(0) => return Ok(Heard::Closed),
                Ok(_) if !fds.is_empty() => return Err(ChannelEndError::Descriptors),
                Ok(count) => self.received(&piece[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Heard::Nothing);
                }
                Err(error) if is_hangup(&error) => return Ok(Heard::Closed),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

fn is_hangup(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset
    )
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use skep_wire::{FromWorker, ToBuilder, ToWorker};

    use super::*;

    fn end() -> (ChannelEnd, UnixStream) {
        let (ours, theirs) = Channel::pair().unwrap();
        (ChannelEnd::new(ours).unwrap(), UnixStream::from(theirs))
    }

    #[tokio::test]
    async fn a_child_that_does_not_read_blocks_nobody() {
        let (mut end, theirs) = end();
        let component = Arc::new(OwnedFd::from(File::open("/dev/null").unwrap()));
        for _ in 0..5000 {
            end.say(
                &ToBuilder::Compile,
                vec![component.clone(), component.clone()],
            )
            .unwrap();
        }
        let mut child = theirs.try_clone().unwrap();
        let words = tokio::task::spawn_blocking(move || {
            child.set_nonblocking(false).unwrap();
            child.write_all(&encode(&ready()).unwrap()).unwrap();
            let whole = encode(&ToBuilder::Compile).unwrap().len() * 5000;
            let mut read = vec![0; whole];
            child.read_exact(&mut read).unwrap();
            child
                .write_all(&encode(&FromWorker::Drained).unwrap())
                .unwrap();
        });
        assert_eq!(end.next().await.unwrap(), Some(ready()));
        assert_eq!(end.next().await.unwrap(), Some(FromWorker::Drained));
        words.await.unwrap();
        assert_eq!(Arc::strong_count(&component), 1);
        drop(theirs);
        assert_eq!(end.next::<FromWorker>().await.unwrap(), None);
    }

    #[tokio::test]
    async fn what_was_said_before_the_end_is_heard() {
        let (mut end, mut theirs) = end();
        end.say(&ToWorker::Drain, vec![]).unwrap();
        theirs
            .write_all(&encode(&FromWorker::Drained).unwrap())
            .unwrap();
        theirs.write_all(&encode(&ready()).unwrap()).unwrap();
        drop(theirs);
        assert_eq!(
            end.last_words::<FromWorker>(),
            [FromWorker::Drained, ready()]
        );
    }

    #[tokio::test]
    async fn garbage_and_wrong_counts_are_errors() {
        let (mut end, mut theirs) = end();
        assert!(end.say(&ToBuilder::Compile, vec![]).is_err());
        theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert!(matches!(
            end.next::<FromWorker>().await,
            Err(ChannelEndError::Frame(FrameError::NotOurs))
        ));
    }

    fn ready() -> FromWorker {
        FromWorker::Ready { late: Vec::new() }
    }
}
