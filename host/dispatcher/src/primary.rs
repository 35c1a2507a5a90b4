//! The dispatcher's end of its channel to the primary.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::{Context as _, bail};
use skep_sys::Channel;
use skep_wire::{Decoder, FromDispatcher, Message as _, ToDispatcher};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Bytes of one read. Most messages are small; hosts may be many.
const READ: usize = 16 << 10;

/// How long the primary may take to take a message; longer means that it is
/// stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// The channel to the primary.
pub(crate) struct Link {
    channel: AsyncFd<Channel>,
    decoder: Decoder<OwnedFd>,
}

impl Link {
    pub(crate) fn new(channel: Channel) -> anyhow::Result<Self> {
        Ok(Self {
            channel: skep_sys::watch(channel)?,
            decoder: Decoder::default(),
        })
    }

    /// The next message with its descriptors; `None` when the primary is gone.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Option<(ToDispatcher, Vec<OwnedFd>)>> {
        loop {
            if let Some(message) = self.decoder.message::<ToDispatcher>()? {
                return Ok(Some(message));
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
    pub(crate) async fn tell(&self, message: &FromDispatcher) -> anyhow::Result<()> {
        let frame = skep_wire::encode(message)?;
        if message.fds() != 0 {
            bail!("dispatchers send no descriptors");
        }
        let sending = async {
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
        };
        tokio::time::timeout(PATIENCE, sending)
            .await
            .context("the primary takes no messages")?
    }
}
