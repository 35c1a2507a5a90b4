//! The watch over one request's body while its call holds a permit: an upload
//! that is too slow is ended when other requests wait for that permit.
//!
//! Pauses are bounded by the listener's `body_timeout` whoever waits; a drip
//! keeps every pause short and holds on all the same. How slow is too slow is
//! said by [`skep_core::pace`].

use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use skep_core::pace::Pace;
use tokio::sync::futures::OwnedNotified;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::admission::Admission;

/// The watch over one body.
pub(crate) struct Upload {
    admission: Arc<Admission>,
    pace: Pace,
    stage: Stage,
}

/// ```text
///           Pending                   pace used up
/// Flows ──────────────▶ Awaited ──────────────────▶ Dawdles ──somebody waits──▶ too slow
///   ▲                      │ bytes                     │ bytes
///   └──────────────────────┴───────────────────────────┘
/// ```
enum Stage {
    /// Nobody waits for bytes.
    Flows,
    /// Bytes are waited for.
    Awaited {
        since: Instant,
        used_up: Pin<Box<Sleep>>,
    },
    /// They were waited for as long as they may be: only for as long as nobody
    /// waits for the permit.
    Dawdles(Pin<Box<OwnedNotified>>),
}

impl Upload {
    pub(crate) fn new(admission: &Arc<Admission>) -> Self {
        Self {
            admission: Arc::clone(admission),
            pace: Pace::NEW,
            stage: Stage::Flows,
        }
    }

    /// Bytes came.
    pub(crate) fn brought(&mut self, bytes: u64) {
        self.pace = match std::mem::replace(&mut self.stage, Stage::Flows) {
            Stage::Flows => self.pace,
            Stage::Awaited { since, .. } => self.pace.waited(since.elapsed()),
            Stage::Dawdles(_) => self.pace.waited(self.pace.left()),
        }
        .brought(bytes);
    }

    /// Ready when the upload is to end as too slow. To be asked whenever there
    /// are no bytes and somebody wants them.
    pub(crate) fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut self.stage {
                Stage::Flows => {
                    let since = Instant::now();
                    let used_up = Box::pin(sleep_until(since + self.pace.left()));
                    self.stage = Stage::Awaited { since, used_up };
                }
                Stage::Awaited { used_up, .. } => {
                    ready!(used_up.as_mut().poll(cx));
                    self.stage = Stage::Dawdles(Box::pin(self.admission.pressed()));
                }
                Stage::Dawdles(pressed) => {
                    let told = pressed.as_mut().poll(cx);
                    if self.admission.is_pressed() {
                        return Poll::Ready(());
                    }
                    ready!(told);
                    // That request waits no more.
                    self.stage = Stage::Dawdles(Box::pin(self.admission.pressed()));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use skep_core::pace::GRACE;
    use skep_sys::Peer;
    use tokio::time::timeout;

    use super::*;
    use crate::admission::Share;
    use crate::budget::Origin;

    /// What is left of the uploads' grace here.
    const LEFT: Duration = Duration::from_millis(20);

    fn run(test: impl Future<Output = ()>) {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        runtime.enable_all().build().unwrap().block_on(test);
    }

    fn admission(concurrency: u32) -> Arc<Admission> {
        Admission::new(Share {
            concurrency,
            queue: 10,
        })
    }

    fn upload(admission: &Arc<Admission>) -> Upload {
        Upload {
            pace: Pace::NEW.waited(GRACE - LEFT),
            ..Upload::new(admission)
        }
    }

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    async fn too_slow(upload: &mut Upload, within: Duration) -> bool {
        let slow = poll_fn(|cx| upload.poll_too_slow(cx));
        timeout(within, slow).await.is_ok()
    }

    #[test]
    fn a_drip_may_take_its_time_until_somebody_waits() {
        run(async {
            let admission = admission(1);
            let origin = Origin::of(&Peer::Unix);
            let permit = admission.try_admit(origin).unwrap();
            let mut upload = upload(&admission);
            for _ in 0..5 {
                assert!(!too_slow(&mut upload, LEFT).await);
                upload.brought(1);
            }
            let waits = admission.admit(origin, later());
            let mut waits = std::pin::pin!(waits);
            assert!(timeout(LEFT, &mut waits).await.is_err());
            assert!(too_slow(&mut upload, Duration::from_secs(10)).await);
            drop(permit);
            let _permit = waits.await.unwrap();
            assert!(!too_slow(&mut upload, 2 * LEFT).await);
        });
    }

    #[test]
    fn one_that_brings_something_is_left_in_peace_whoever_waits() {
        run(async {
            let admission = admission(1);
            let origin = Origin::of(&Peer::Unix);
            let _permit = admission.try_admit(origin).unwrap();
            let waits = admission.admit(origin, later());
            let mut waits = std::pin::pin!(waits);
            assert!(timeout(LEFT, &mut waits).await.is_err());
            let mut upload = upload(&admission);
            upload.brought(5000);
            assert!(!too_slow(&mut upload, 10 * LEFT).await);
            upload.brought(0);
            upload.pace = upload.pace.waited(GRACE - LEFT);
            assert!(too_slow(&mut upload, Duration::from_secs(10)).await);
        });
    }

    #[test]
    fn for_each_that_waits_one_ends() {
        run(async {
            let admission = admission(2);
            let origin = Origin::of(&Peer::Unix);
            let mut held: Vec<_> = (0..2)
                .map(|_| (admission.try_admit(origin).unwrap(), upload(&admission)))
                .collect();
            for (_, upload) in &mut held {
                assert!(!too_slow(upload, 2 * LEFT).await);
            }
            let waits = admission.admit(origin, later());
            let mut waits = std::pin::pin!(waits);
            assert!(timeout(LEFT, &mut waits).await.is_err());
            let (permit, mut upload) = held.remove(0);
            assert!(too_slow(&mut upload, Duration::from_secs(10)).await);
            drop((permit, upload));
            let _permit = waits.await.unwrap();
            assert!(!too_slow(&mut held[0].1, 2 * LEFT).await);
        });
    }
}
