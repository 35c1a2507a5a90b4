//! How a role talks with the primary, and how it ends.
//!
//! Builder and alerter have no event loop: their reads and writes wait, for so
//! long at most. What they say is `skep-wire`'s.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use skep_core::Sandbox;
use skep_sys::Channel;
use skep_sys::confine::Strictness;
use skep_wire::{Decoder, Message};

use crate::exit::{Exit, Failure};
use crate::print::{ColorChoice, Printer};

/// Plays a role to its end; a failure is told on standard error.
pub(super) fn play(role: &'static str, serve: impl FnOnce() -> anyhow::Result<()>) -> ExitCode {
    match serve() {
        Ok(()) => Exit::Done.into(),
        Err(error) => {
            let failure = Failure::from(error).while_doing(role);
            Printer::new(ColorChoice::Never).failure(&failure);
            Exit::Failed.into()
        }
    }
}

/// Makes reads and writes of the channel block, for so long at most.
pub(super) fn wait_at_most(channel: &Channel, reads: Duration, writes: Duration) -> io::Result<()> {
    // The settings are the socket's, not the descriptor's: a duplicate will do.
    let socket = UnixStream::from(channel.as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(reads))?;
    socket.set_write_timeout(Some(writes))
}

/// The next message with its descriptors, or `None` once the primary has hung
/// up.
pub(super) fn receive<M: Message>(
    channel: &Channel,
    decoder: &mut Decoder<OwnedFd>,
) -> anyhow::Result<Option<(M, Vec<OwnedFd>)>> {
    let mut piece = [0; 4096];
    loop {
        if let Some(message) = decoder.message::<M>()? {
            return Ok(Some(message));
        }
        let mut fds = Vec::new();
        match channel.recv(&mut piece, &mut fds) {
            Ok(0) => return Ok(None),
            Ok(received) => decoder.push(&piece[..received], fds),
            // Killed, with an answer of ours unread.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error).context("nothing came from the primary"),
        }
    }
}

/// Sends a message that carries no descriptors.
pub(super) fn send<M: Message>(channel: &Channel, message: &M) -> anyhow::Result<()> {
    let frame = skep_wire::encode(message)?;
    let mut rest = frame.as_slice();
    while !rest.is_empty() {
        let sent = channel
            .send(rest, &[])
            .context("the primary does not take the answer")?;
        rest = &rest[sent..];
    }
    Ok(())
}

/// What the configuration wants, in the words of who does it.
pub(super) const fn strictness(sandbox: Sandbox) -> Strictness {
    match sandbox {
        Sandbox::Require => Strictness::Require,
        Sandbox::BestEffort => Strictness::BestEffort,
        Sandbox::Off => Strictness::Off,
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use skep_wire::{FromBuilder, Refusal, ToBuilder};

    use super::*;

    #[test]
    fn a_request_comes_in_pieces_and_not_too_late() {
        let patience = Duration::from_millis(20);
        let (ours, theirs) = Channel::pair().unwrap();
        let theirs = Channel::from_fd(theirs).unwrap();
        wait_at_most(&theirs, patience, patience).unwrap();
        let mut decoder = Decoder::default();
        let mut next = || receive::<ToBuilder>(&theirs, &mut decoder);
        assert!(next().is_err(), "nothing came");

        let frame = skep_wire::encode(&ToBuilder::Compile).unwrap();
        let null = File::open("/dev/null").unwrap();
        ours.send(&frame[..1], &[null.as_fd(), null.as_fd()])
            .unwrap();
        ours.send(&frame[1..], &[]).unwrap();
        let (request, fds) = next().unwrap().unwrap();
        assert_eq!(request, ToBuilder::Compile);
        assert_eq!(fds.len(), 2);

        let refused = FromBuilder::Refused(Refusal {
            problem: "large".into(),
            hint: None,
        });
        send(&theirs, &refused).unwrap();
        drop(ours);
        assert!(next().unwrap().is_none(), "the primary is gone");
    }
}
