//! Messages with descriptors over a channel, in tokio's loop.

use std::collections::VecDeque;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use anyhow::{Context as _, ensure};
use skep_sys::Channel;
use skep_wire::{Decoder, Message};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of one read. A question is about a hundred.
const READ: usize = 4 << 10;

/// One end of a channel on which messages `I` come and messages `O` go.
pub(crate) struct Link<I, O> {
    channel: AsyncFd<Channel>,
    decoder: Decoder<OwnedFd>,
    ready: VecDeque<(I, Vec<OwnedFd>)>,
    says: PhantomData<O>,
}

impl<I: Message, O: Message> Link<I, O> {
    /// Must be called within a tokio runtime.
    pub(crate) fn new(channel: Channel) -> io::Result<Self> {
        Ok(Self {
            channel: skep_sys::watch(channel)?,
            decoder: Decoder::default(),
            ready: VecDeque::new(),
            says: PhantomData,
        })
    }

    /// The next message with its descriptors; `None` when the other side has
    /// gone. May be given up and called again.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<(I, Vec<OwnedFd>)>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            while let Some(message) = self.decoder.message::<I>()? {
                self.ready.push_back(message);
            }
            if !self.ready.is_empty() {
                continue;
            }
            let mut buffer = [0; READ];
            let mut fds = Vec::new();
            let read = self
                .channel
                .async_io(Interest::READABLE, |channel| {
                    channel.recv(&mut buffer, &mut fds)
                })
                .await;
            match read {
                Ok(0) => return Ok(None),
                Ok(bytes) => self.decoder.push(&buffer[..bytes], fds),
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error).context("cannot read"),
            }
        }
    }

    /// Says something. Must not be given up in between: half a message is none.
    pub(crate) async fn tell(&self, message: &O, fd: Option<OwnedFd>) -> anyhow::Result<()> {
        let frame = skep_wire::encode(message)?;
        let fds: Vec<BorrowedFd<'_>> = fd.iter().map(|fd| fd.as_fd()).collect();
        ensure!(fds.len() == message.fds(), "descriptors do not match");
        let mut sent = 0;
        while sent < frame.len() {
            // They go with the first byte.
            let fds = if sent == 0 { &fds[..] } else { &[] };
            sent += self
                .channel
                .async_io(Interest::WRITABLE, |channel| {
                    channel.send(&frame[sent..], fds)
                })
                .await
                .context("cannot write")?;
        }
        Ok(())
    }
}
