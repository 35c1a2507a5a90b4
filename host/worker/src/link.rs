//! The worker's end of its channel to the primary.

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;

use anyhow::{Context as _, bail};
use skep_sys::Channel;
use skep_wire::{Decoder, FromWorker, Message as _, ToWorker};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of one read. A `load` is about a kilobyte.
const READ: usize = 16 << 10;

/// The channel to the primary.
pub(crate) struct Link {
    channel: AsyncFd<Channel>,
    decoder: Decoder<OwnedFd>,
    ready: VecDeque<(ToWorker, Vec<OwnedFd>)>,
}

impl Link {
    /// Takes the channel that this process was born with.
    pub(crate) fn inherited() -> anyhow::Result<Self> {
        let channel = Channel::inherited().context("this process was not started by skep")?;
        Ok(Self {
            channel: skep_sys::watch(channel)?,
            decoder: Decoder::default(),
            ready: VecDeque::new(),
        })
    }

    /// The next message with its descriptors; `None` when the primary is gone.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<(ToWorker, Vec<OwnedFd>)>> {
        loop {
            if let Some(message) = self.ready.pop_front() {
                return Ok(Some(message));
            }
            while let Some(message) = self.decoder.message::<ToWorker>()? {
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
                Err(error) => return Err(error).context("cannot read from the primary"),
            }
        }
    }

    /// Tells the primary something.
    pub(crate) async fn tell(&self, message: &FromWorker) -> anyhow::Result<()> {
        let frame = skep_wire::encode(message)?;
        if message.fds() != 0 {
            bail!("workers send no descriptors");
        }
        let mut sent = 0;
        while sent < frame.len() {
            sent += self
                .channel
                .async_io(Interest::WRITABLE, |channel| {
                    channel.send(&frame[sent..], &[])
                })
                .await
                .context("cannot write to the primary")?;
        }
        Ok(())
    }
}
