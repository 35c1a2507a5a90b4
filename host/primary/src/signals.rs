//! The signals that the primary obeys.
//!
//! | signal | first | again |
//! |---|---|---|
//! | `SIGTERM`, `SIGINT` | drain | stop, then kill |
//! | `SIGQUIT` | stop | kill |
//! | `SIGHUP` | reload | reload |
//! | `SIGUSR1`, `SIGUSR2`, `SIGXFSZ` | nothing | nothing |
//!
//! One that comes before the fleet is there waits until it is, but for those
//! that end the process.

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
    /// Children end, among them those of others, who are ours to reap where
    /// this process is the first of its namespace.
    child: Option<Signal>,
}

impl Signals {
    /// Takes the signals over from their default dispositions.
    pub(crate) fn install() -> io::Result<Self> {
        skep_sys::signals::ignore_foreign()?;
        let is_first = std::process::id() == 1;
        let signals = Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            child: is_first.then(|| signal(SignalKind::child())).transpose()?,
        };
        // Now that nothing is lost of what waited.
        skep_sys::signals::release()?;
        Ok(signals)
    }

    /// The next wish. Cancelling loses nothing.
    pub(crate) async fn next(&mut self) -> Wish {
        loop {
            select! {
                _ = self.terminate.recv() => return Wish::Finish,
                _ = self.interrupt.recv() => return Wish::Finish,
                _ = self.quit.recv() => return Wish::EndNow,
                _ = self.hangup.recv() => return Wish::Reload,
                () = ended(self.child.as_mut()) => drop(skep_sys::reap_strangers()),
            }
        }
    }

    /// The next wish that ends the process. A reload that is asked for waits.
    pub(crate) async fn next_end(&mut self) -> Wish {
        select! {
            _ = self.terminate.recv() => Wish::Finish,
            _ = self.interrupt.recv() => Wish::Finish,
            _ = self.quit.recv() => Wish::EndNow,
        }
    }
}

/// A child has ended; never, where nobody is to be told.
async fn ended(child: Option<&mut Signal>) {
    match child {
        Some(child) => drop(child.recv().await),
        None => std::future::pending().await,
    }
}
