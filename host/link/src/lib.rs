//! The async end of a channel between two of skep's processes: messages with
//! descriptors, in tokio's event loop.
//!
//! Responsible for waiting, for framing, and for two promises. Nobody waits for
//! the other side without a deadline when telling it something: [`Link::tell`]
//! takes one, and a message that has not gone by then ends the conversation,
//! because half a message is none. And nobody who floods the channel holds its
//! reader: [`Link::next`] lets others of the same thread go on after
//! [`TURN_MESSAGES`] messages or [`TURN_BYTES`] bytes.
//!
//! A [`Link`] is for one task that hears and tells in turns. Where a task must
//! hear while another one tells, it is [split](Link::split). Where nobody can
//! wait in order to tell, [`Voice::tell_now`] says what the other side takes at
//! once, and [`Voice::room`] is waited for elsewhere.
#![forbid(unsafe_code)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use skep_sys::Channel;
use skep_wire::{Decoder, FrameError, Message, encode};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout_at;

/// Messages after which the reader lets others go on: as many as an honest
/// process says at once, and a fraction of a millisecond's work.
pub const TURN_MESSAGES: u32 = 64;

/// Bytes after which the reader lets others go on.
pub const TURN_BYTES: usize = 64 << 10;

/// After which the reader lets others go on.
const TURN: Turn = Turn {
    messages: TURN_MESSAGES,
    bytes: TURN_BYTES,
};

/// Messages, and bytes, that are heard of a process that has ended: more than a
/// channel holds, so that one whose end somebody else has does not speak for
/// ever.
const LAST_WORDS: Turn = Turn {
    messages: 4096,
    bytes: 4 << 20,
};

/// Bytes of one read. Most messages are some hundred bytes.
const READ: usize = 16 << 10;

/// Why a conversation is over.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The other side says what is no message, or this one was about to.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The other side did not take the message in time.
    #[error("the other side takes no messages")]
    Late,
    /// A message was not sent whole before, so none can follow it.
    #[error("the conversation has broken off")]
    Broken,
    /// The socket failed; a side that has gone is no such failure when hearing.
    #[error("the channel failed")]
    Io(#[from] io::Error),
}

/// A message with its descriptors, or `None` for the end.
pub type Heard<In> = Result<Option<(In, Vec<OwnedFd>)>, LinkError>;

/// One end of a channel on which messages `In` come and messages `Out` go.
#[derive(Debug)]
pub struct Link<In, Out> {
    ears: Ears<In>,
    voice: Voice<Out>,
}

/// The half of a [`Link`] that hears.
#[derive(Debug)]
pub struct Ears<In> {
    channel: Arc<AsyncFd<Channel>>,
    decoder: Decoder<OwnedFd>,
    turn: Turn,
    /// Whether the other side has ended and its last words are heard.
    ended: bool,
    hears: PhantomData<fn() -> In>,
}

/// The half of a [`Link`] that tells.
#[derive(Debug)]
pub struct Voice<Out> {
    channel: Arc<AsyncFd<Channel>>,
    /// What did not go at once of the last message. Its descriptors have gone.
    rest: Vec<u8>,
    broken: bool,
    tells: PhantomData<fn(Out)>,
}

/// What was heard since others were let go on.
#[derive(Clone, Copy, Debug, Default)]
struct Turn {
    messages: u32,
    bytes: usize,
}

impl<In: Message, Out: Message> Link<In, Out> {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    ///
    /// The event loop has no room for the channel.
    pub fn new(channel: Channel) -> io::Result<Self> {
        let channel = Arc::new(skep_sys::watch(channel)?);
        Ok(Self {
            ears: Ears {
                channel: Arc::clone(&channel),
                decoder: Decoder::default(),
                turn: Turn::default(),
                ended: false,
                hears: PhantomData,
            },
            voice: Voice {
                channel,
                rest: Vec::new(),
                broken: false,
                tells: PhantomData,
            },
        })
    }

    /// The next message with its descriptors; `None` when the other side has
    /// gone. May be given up and called again: nothing is lost.
    ///
    /// # Errors
    ///
    /// The conversation is over, for this reason.
    pub async fn next(&mut self) -> Heard<In> {
        if self.voice.broken {
            return Err(LinkError::Broken);
        }
        self.ears.next().await
    }

    /// Tells the other side something, with as many descriptors as
    /// [`Message::fds`] says. Must not be given up before it is done: that ends
    /// the conversation as lateness does.
    ///
    /// # Errors
    ///
    /// [`LinkError::Late`] when the other side has not taken it all at `by`. The
    /// conversation is over then, as after every other error.
    pub async fn tell(
        &mut self,
        message: &Out,
        descriptors: &[BorrowedFd<'_>],
        by: Instant,
    ) -> Result<(), LinkError> {
        self.voice.tell(message, descriptors, by).await
    }

    /// Both halves, for tasks of their own. Who tells hears of no end, and who
    /// hears does not know that a message did not go: whoever has both ends
    /// both.
    #[must_use]
    pub fn split(self) -> (Ears<In>, Voice<Out>) {
        (self.ears, self.voice)
    }
}

impl<In: Message> Ears<In> {
    /// As [`Link::next`].
    ///
    /// # Errors
    ///
    /// The conversation is over, for this reason.
    pub async fn next(&mut self) -> Heard<In> {
        loop {
            if self.turn.reaches(TURN) {
                self.turn = Turn::default();
                tokio::task::yield_now().await;
            }
            // After the wait above, so that who gives up loses no message.
            if let Some(message) = self.message()? {
                return Ok(Some(message));
            }
            let mut readable = self.channel.readable().await?;
            match readable.try_io(|channel| receive(channel.get_ref(), &mut self.decoder)) {
                Ok(Ok(0)) => return Ok(None),
                Ok(Ok(bytes)) => self.turn.bytes += bytes,
                Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Ok(None);
                }
                Ok(Err(error)) => return Err(error.into()),
                // Somebody was quicker, or nothing had come.
                Err(_) => {}
            }
        }
    }

    /// The next of the messages that have come already; `None` when there is
    /// none, or when others are to go on first, which [`Ears::next`] sees to.
    /// Never waits.
    ///
    /// # Errors
    ///
    /// The conversation is over, for this reason.
    pub fn next_of_these(&mut self) -> Heard<In> {
        self.next_unless(TURN)
    }

    /// The next of what a process said before it ended; `None` when there is
    /// nothing more. Never waits.
    ///
    /// # Errors
    ///
    /// The conversation is over, for this reason.
    pub fn next_of_the_last(&mut self) -> Heard<In> {
        if !self.ended {
            self.ended = true;
            self.turn = Turn::default();
        }
        self.next_unless(LAST_WORDS)
    }

    /// The next message that has come already, unless so much was heard.
    fn next_unless(&mut self, most: Turn) -> Heard<In> {
        loop {
            if self.turn.reaches(most) {
                return Ok(None);
            }
            if let Some(message) = self.message()? {
                return Ok(Some(message));
            }
            match receive(self.channel.get_ref(), &mut self.decoder) {
                Ok(0) => return Ok(None),
                Ok(bytes) => self.turn.bytes += bytes,
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionReset
                    ) =>
                {
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn message(&mut self) -> Heard<In> {
        let message = self.decoder.message::<In>()?;
        self.turn.messages += u32::from(message.is_some());
        Ok(message)
    }
}

impl<Out: Message> Voice<Out> {
    /// As [`Link::tell`].
    ///
    /// # Errors
    ///
    /// As those of [`Link::tell`].
    pub async fn tell(
        &mut self,
        message: &Out,
        descriptors: &[BorrowedFd<'_>],
        by: Instant,
    ) -> Result<(), LinkError> {
        let frame = self.frame(message, descriptors)?;
        // Until all of it has gone.
        self.broken = true;
        let (channel, rest) = (&self.channel, &self.rest);
        let sending = async {
            send_all(channel, rest, &[]).await?;
            send_all(channel, &frame, descriptors).await
        };
        timeout_at(by.into(), sending)
            .await
            .map_err(|_| LinkError::Late)??;
        self.rest.clear();
        self.broken = false;
        Ok(())
    }

    /// Tells the other side something if it takes at least the beginning of it
    /// at once; the rest goes before anything else does. Returns whether it was
    /// taken: if not, nothing of it was, and [`Voice::room`] says when to try
    /// again. Never waits.
    ///
    /// # Errors
    ///
    /// The conversation is over, for this reason.
    pub fn tell_now(
        &mut self,
        message: &Out,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<bool, LinkError> {
        let mut frame = self.frame(message, descriptors)?;
        if !self.flush_now()? {
            return Ok(false);
        }
        // The event loop learns that there is no room, if there is none.
        let send = |channel: &Channel| channel.send(&frame, descriptors);
        match self.channel.try_io(Interest::WRITABLE, send) {
            Ok(sent) => {
                frame.drain(..sent);
                self.rest = frame;
                self.flush_now()?;
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Goes on with what was told before. Returns whether all of it has gone.
    /// Never waits.
    ///
    /// # Errors
    ///
    /// The conversation is over, for this reason.
    pub fn flush_now(&mut self) -> Result<bool, LinkError> {
        if self.broken {
            return Err(LinkError::Broken);
        }
        while !self.rest.is_empty() {
            let send = |channel: &Channel| channel.send(&self.rest, &[]);
            match self.channel.try_io(Interest::WRITABLE, send) {
                Ok(sent) => drop(self.rest.drain(..sent)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(true)
    }

    /// Ends when the other side takes something again; for ever, if it never
    /// does. Does not borrow this.
    pub fn room(&self) -> impl Future<Output = io::Result<()>> + use<Out> {
        let channel = Arc::clone(&self.channel);
        async move {
            channel.writable().await?.retain_ready();
            Ok(())
        }
    }

    fn frame(&self, message: &Out, descriptors: &[BorrowedFd<'_>]) -> Result<Vec<u8>, LinkError> {
        if self.broken {
            return Err(LinkError::Broken);
        }
        if descriptors.len() != message.fds() {
            return Err(LinkError::Frame(FrameError::FdCount {
                name: message.name(),
                got: descriptors.len(),
                expected: message.fds(),
            }));
        }
        Ok(encode(message)?)
    }
}

impl Turn {
    const fn reaches(self, most: Self) -> bool {
        self.messages >= most.messages || self.bytes >= most.bytes
    }
}

async fn send_all(
    channel: &AsyncFd<Channel>,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let mut sent = 0;
    while sent < bytes.len() {
        // They go with the first byte.
        let descriptors = if sent == 0 { descriptors } else { &[] };
        let send = |channel: &Channel| channel.send(&bytes[sent..], descriptors);
        sent += channel.async_io(Interest::WRITABLE, send).await?;
    }
    Ok(())
}

/// Moves what one read delivers to the decoder. Returns how many bytes it was.
fn receive(channel: &Channel, decoder: &mut Decoder<OwnedFd>) -> io::Result<usize> {
    let mut piece = [0; READ];
    let mut descriptors = Vec::new();
    let bytes = channel.recv(&mut piece, &mut descriptors)?;
    decoder.push(&piece[..bytes], descriptors);
    Ok(bytes)
}

#[cfg(test)]
mod tests;
