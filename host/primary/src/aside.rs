//! Reads of others' files, which may take for ever: a hung disk, a file system
//! whose server is gone. Each has a thread of its own and a deadline, so that it
//! holds up nothing but what asked for it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a read may take: longer than a large component takes from a slow
/// disk.
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads at a time, those among them that nobody waits for any more.
const MOST: usize = 16;

static UNDER_WAY: AtomicUsize = AtomicUsize::new(0);

/// Why there is no result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stuck {
    /// It took too long. Its thread goes on.
    #[error("it could not be read within {} s: its disk does not answer", PATIENCE.as_secs())]
    Late,
    /// As many are under way as may be.
    #[error("{MOST} earlier reads still wait for a disk that does not answer")]
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
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stuck> {
    aside_within(PATIENCE, work).await
}

async fn aside_within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Stuck> {
    let turn = Turn::take().ok_or(Stuck::TooMany)?;
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
        Err(_) => Err(Stuck::Late),
    }
}

/// One of those that are under way.
struct Turn;

impl Turn {
    fn take() -> Option<Self> {
        let more = |count| (count < MOST).then_some(count + 1);
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
        let stuck = (0..MOST).map(|_| {
            let hold = std::sync::Arc::clone(&hold);
            aside_within(Duration::from_millis(20), move || {
                drop(hold.lock().map(|hold| hold.recv()));
            })
        });
        let mut tasks = tokio::task::JoinSet::new();
        for one in stuck {
            tasks.spawn(one);
        }
        while let Some(one) = tasks.join_next().await {
            assert_eq!(one.unwrap(), Err(Stuck::Late));
        }
        assert_eq!(aside(|| ()).await, Err(Stuck::TooMany));
        drop(held);
        while UNDER_WAY.load(Ordering::Relaxed) > 0 {
            std::thread::yield_now();
        }
        assert_eq!(aside(|| 7).await, Ok(7));
    }
}
