//! Reads of others' files, which may take for ever: a hung disk, a file system
//! whose server is gone. Each has a thread of its own and a deadline, so that it
//! holds up nothing but what asked for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// What is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The configuration and the files that it names.
    Configuration,
    /// A component, of up to 256 MiB.
    Component,
}

impl Reading {
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
    reading: Reading,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stuck> {
    aside_within(&UNDER_WAY, reading.most(), reading.patience(), work).await
}

async fn aside_within<T: Send + 'static>(
    under_way: &'static AtomicUsize,
    most: usize,
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stuck> {
    let turn = Turn::take(under_way, most).ok_or(Stuck::TooMany)?;
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
struct Turn(&'static AtomicUsize);

impl Turn {
    fn take(under_way: &'static AtomicUsize, most: usize) -> Option<Self> {
        let more = |count| (count < most).then_some(count + 1);
        let taken = under_way.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more);
        // Made only if there is one: one that is dropped gives its place back.
        taken.ok().map(|_| Self(under_way))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_never_ends_holds_up_a_bounded_number() {
        const MOST: usize = 3;
        const SHORT: Duration = Duration::from_millis(20);
        const LONG: Duration = Duration::from_secs(20);
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let mut held = Vec::new();
        for _ in 0..MOST {
            let (ends, end) = mpsc::channel::<()>();
            held.push(ends);
            let stuck = aside_within(&COUNT, MOST, SHORT, move || end.recv().is_ok());
            assert_eq!(stuck.await, Err(Stuck::Late(SHORT)));
        }
        let one_more = aside_within(&COUNT, MOST, LONG, || ());
        assert_eq!(one_more.await, Err(Stuck::TooMany));
        // Where more are allowed there is room.
        assert_eq!(aside_within(&COUNT, MOST + 1, LONG, || 1).await, Ok(1));
        drop(held);
        let again = async {
            while aside_within(&COUNT, 1, LONG, || ()).await.is_err() {
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, again).await.unwrap();
    }
}
