//! What a client that has half-closed its connection may still expect: an answer,
//! for as long as it is there.

use std::time::{Duration, Instant};

use super::{Finish, Http1, Turn};
use crate::transport::Transport;

/// When a client that has half-closed its connection is asked for the first time
/// whether it is there: most answers are whole by then.
const PROBE_FIRST: Duration = Duration::from_secs(1);

/// How long the answer to that takes at most on its way.
const PROBE_LOOK: Duration = Duration::from_millis(100);

/// How often it is asked again.
const PROBE_AGAIN: Duration = Duration::from_secs(5);

/// Whether the client says anything more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Listening {
    Open,
    /// It has sent its last byte and waits; it is to be asked then whether it is
    /// there, or, if it was asked, to be looked at.
    HalfClosed(Instant, Probe),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Probe {
    Ask,
    Look,
}

impl<T: Transport> Http1<'_, T> {
    /// The client has sent its last byte, and may still want to hear.
    pub(super) fn at_eof(&mut self) -> Result<Turn, Finish> {
        self.machine.eof();
        if self.machine.is_closed() {
            return Err(Finish::Closed);
        }
        let then = self.now + PROBE_FIRST;
        self.listening = Listening::HalfClosed(then, Probe::Ask);
        Ok(Turn::Again)
    }

    /// Asks whether the client is there, or looks what came of it.
    pub(super) fn probe(&mut self, now: Instant) -> Result<(), Finish> {
        if self.transport.is_broken() {
            return Err(self.gone());
        }
        let Listening::HalfClosed(_, probe) = self.listening else {
            return Ok(());
        };
        let next = match probe {
            Probe::Ask if self.writing.is_empty() && self.machine.probe(self.writing.out()) => {
                (now + PROBE_LOOK, Probe::Look)
            }
            Probe::Ask | Probe::Look => (now + PROBE_AGAIN, Probe::Ask),
        };
        self.listening = Listening::HalfClosed(next.0, next.1);
        Ok(())
    }
}
