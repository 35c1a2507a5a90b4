//! Threads beside the one that confines the process.
//!
//! Landlock and seccomp confine threads. One that is to live on beside a
//! confined one must take the same confinement, so it is started for that: it
//! waits to be confined before it does anything.

use std::fmt;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use super::{ConfineError, Prepared};

/// A thread confines itself in a millisecond; later means that the machine is
/// stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// A thread that waits to be confined. Dropping it unconfined ends the thread.
pub struct Companion {
    orders: SyncSender<Prepared>,
    answers: Receiver<Result<(), ConfineError>>,
}

impl fmt::Debug for Companion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Companion").finish_non_exhaustive()
    }
}

impl Companion {
    /// Confines the thread and lets it work.
    pub(super) fn confine(self, prepared: Prepared) -> Result<(), ConfineError> {
        let failed = |source| ConfineError::Step {
            step: "confine a companion thread",
            source,
        };
        self.orders
            .send(prepared)
            .map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))?;
        self.answers
            .recv_timeout(PATIENCE)
            .map_err(|_| failed(io::ErrorKind::TimedOut.into()))?
    }
}

/// Starts a thread that does `work` once
/// [`confine_worker`](super::confine_worker) has confined it, and nothing if
/// that does not happen. Nobody joins it: it ends with the process.
///
/// # Errors
///
/// No thread can be had.
pub fn companion(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<Companion> {
    let (orders, order) = sync_channel::<Prepared>(1);
    let (answer, answers) = sync_channel(1);
    thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            let Ok(prepared) = order.recv() else { return };
            match prepared.apply() {
                Ok(_) => {
                    let _ = answer.send(Ok(()));
                    work();
                }
                Err(error) => {
                    let _ = answer.send(Err(error));
                }
            }
        })?;
    Ok(Companion { orders, answers })
}
