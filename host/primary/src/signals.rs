//! The signals that the primary obeys.
//!
//! | signal | first | again |
//! |---|---|---|
//! | `SIGTERM`, `SIGINT` | drain | stop, then kill |
//! | `SIGQUIT` | stop | kill |
//! | `SIGHUP` | reload | reload |

use std::io;

use tokio::select;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Finish and end; asked again, end now.
    Finish,
    /// End now.
    EndNow,
    /// Read the configuration again.
    Reload,
}

/// The streams of signals. Dropping them does not bring back the default
/// dispositions; they live as long as the process does anything.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes the signals over from their default dispositions.
    pub(crate) fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The next wish. Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Wish {
        select! {
            _ = self.terminate.recv() => Wish::Finish,
            _ = self.interrupt.recv() => Wish::Finish,
            _ = self.quit.recv() => Wish::EndNow,
            _ = self.hangup.recv() => Wish::Reload,
        }
    }

    /// The next wish that ends the process.
    pub(crate) async fn next_end(&mut self) -> Wish {
        loop {
            match self.next().await {
                Wish::Reload => {}
                wish => return wish,
            }
        }
    }
}
