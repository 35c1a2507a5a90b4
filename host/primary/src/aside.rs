//! Reads of others' files, which may take for ever: a hung disk, a file system
//! whose server is gone. Each has a thread of its own and a deadline, so that it
//! holds up nothing but what asked for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The configuration and the files that it names.
    Configuration,
    /// A component, of up to 256 MiB.
    Component,
}

impl What {
    /// How long it may take.
    const fn patience(self) -> Duration {
        match self {
            Self::Configuration => Duration::from_secs(30),
            Self::Component => Duration::from_secs(180),
        }
    }

    /// Reads at a time, those among them that nobody waits for any more. What
    /// hangs of components leaves some to configurations.
    const fn most(self) -> usize {
        match self {
            Self::Configuration => 16,
            Self::Component => 12,
        }
    }
}

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stuck {
    /// It took too long. Its thread goes on.
    #[error("it could not be read within {} s: its disk is too slow, or does not answer", .0.as_secs())]
    Late(Duration),
    /// As many are under way as may be.
    #[error("too many earlier reads still wait for a disk that does not answer")]
    TooMany,
    /// There is no thread for it, or it panicked.
    #[error("reading it failed")]
    Failed,
}

/// Does what may take for ever, and waits for it no longer than is sensible.
///
/// # Errors
///
/// [`Stuck`].
pub(crate) async fn aside<T: Send + 'static>(
    what: What,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stuck> {
    aside_within(what.most(), what.patience(), work).await
}

async fn aside_within<T: Send + 'static>(
    most: usize,
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stuck> {
    let turn = Turn::take(most).ok_or(Stuck::TooMany)?;
    let (told, result) = oneshot::channel();
    std::thread::Builder::new()
        .name("skep-read".to_owned())
        .spawn(move || {
            let result = work();
            drop(turn);
            let _ = told.send(result);
        })
        .map_err(|_| Stuck::Failed)?;
    match timeout(patience, result).await {
        Ok(Ok(result)) => Ok(result),
        Ok(Err(_)) => Err(Stuck::Failed),
        Err(_) => Err(Stuck::Late(patience)),
    }
}

/// One of those that are under way.
struct Turn;

impl Turn {
    fn take(most: usize) -> Option<Self> {
        let more = |count| (count < most).then_some(count + 1);
        let taken = UNDER_WAY.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        // Made only if there is one: one that is dropped gives its place back.
        taken.ok().map(|_| Self)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        UNDER_WAY.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_never_ends_holds_up_a_bounded_number() {
        let (held, hold) = mpsc::channel::<()>();
        let hold = std::sync::Arc::new(std::sync::Mutex::new(hold));
        const SHORT: Duration = Duration::from_millis(20);
        let most = What::Component.most();
        let stuck = (0..most).map(|_| {
            let hold = std::sync::Arc::clone(&hold);
            aside_within(most, SHORT, move || {
                drop(hold.lock().map(|hold| hold.recv()));
            })
        });
        let mut tasks = tokio::task::JoinSet::new();
        for one in stuck {
            tasks.spawn(one);
        }
        while let Some(one) = tasks.join_next().await {
            assert_eq!(one.unwrap(), Err(Stuck::Late(SHORT)));
        }
        assert_eq!(aside(What::Component, || ()).await, Err(Stuck::TooMany));
        assert_eq!(aside(What::Configuration, || 1).await, Ok(1));
        drop(held);
        while UNDER_WAY.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        assert_eq!(aside(What::Component, || 7).await, Ok(7));
    }
}
