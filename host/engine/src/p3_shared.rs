//! Several calls of `wasi:http/handler@0.3` at a time on one instance.
//!
//! Each instance is driven by a task of its own, which takes calls from its
//! handler for as long as the policy allows. The blast radius is what
//! `concurrent` says: when one call traps, the others on its instance fail
//! too.
//!
//! A guest's tasks cannot be told apart nor cancelled one by one, so for a
//! shared instance
//! - the CPU budget is that of the instance and renewed with each call that it
//!   takes, which it only does while it is not computing;
//! - a call that is given up makes its instance take no more; it ends with its
//!   last call.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use skep_core::Outcome;
use tokio::sync::{mpsc, oneshot};
use wasmtime::component::Accessor;
use wasmtime_wasi_http::p3::bindings::{Service, ServicePre};

use crate::HandlerSetup;
use crate::blueprint::Blueprint;
use crate::fault::{Verdict, verdict};
use crate::guest::Guest;
use crate::instances::InstanceCounts;
use crate::meter::Meter;
use crate::p3;
use crate::world::Job;

/// One call on its way into an instance.
struct Seated {
    job: Job,
    done: oneshot::Sender<Verdict>,
}

/// An instance that may take calls.
struct Seat {
    calls: mpsc::UnboundedSender<Seated>,
    occupancy: Arc<Occupancy>,
}

#[derive(Default)]
struct Occupancy {
    /// Calls that it is working on.
    now: AtomicU32,
    /// Calls that it has taken.
    ever: AtomicU32,
    /// Not 0 once it takes no more.
    closed: AtomicU32,
}

/// A handler whose instances answer several calls at a time.
pub(crate) struct Shared {
    blueprint: Arc<Blueprint>,
    pub(crate) pre: ServicePre<Guest>,
    seats: Mutex<Vec<Seat>>,
    made: AtomicU64,
    calls: AtomicU64,
}

impl Shared {
    pub(crate) fn new(blueprint: &Arc<Blueprint>, pre: ServicePre<Guest>) -> Arc<Self> {
        Arc::new(Self {
            blueprint: Arc::clone(blueprint),
            pre,
            seats: Mutex::default(),
            made: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        })
    }

    /// Runs one call to its end on an instance with room, or on a new one.
    pub(crate) async fn run(self: Arc<Self>, request_id: Arc<str>, job: Job) -> Verdict {
        let (done, verdict) = oneshot::channel();
        self.seat(request_id, Seated { job, done });
        match verdict.await {
            Ok(verdict) => verdict,
            // The instance was dropped with this call on it.
            Err(_) => Verdict {
                outcome: Outcome::Trap,
                detail: Some("the instance ended with this call on it".into()),
            },
        }
    }

    /// What became of its instances.
    pub(crate) fn counts(&self) -> InstanceCounts {
        let made = self.made.load(Relaxed);
        InstanceCounts {
            made,
            reused: self.calls.load(Relaxed).saturating_sub(made),
            idle: 0,
        }
    }

    /// Lets the instances end with the calls that they have.
    pub(crate) fn retire(&self) {
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        for seat in seats.drain(..) {
            // Before its queue goes, whose end would end the calls, too.
            seat.occupancy.closed.store(1, Relaxed);
        }
    }

    fn seat(&self, request_id: Arc<str>, mut job: Seated) {
        self.calls.fetch_add(1, Relaxed);
        let policy = &self.blueprint.setup.instance;
        let mut seats = self.seats.lock().unwrap_or_else(PoisonError::into_inner);
        seats.retain(|seat| seat.occupancy.closed.load(Relaxed) == 0);
        for seat in seats.iter() {
            let occupancy = &seat.occupancy;
            if occupancy.now.load(Relaxed) >= policy.concurrent
                || occupancy.ever.load(Relaxed) >= policy.reuse
            {
                continue;
            }
            occupancy.now.fetch_add(1, Relaxed);
            occupancy.ever.fetch_add(1, Relaxed);
            match seat.calls.send(job) {
                Ok(()) => return,
                Err(unsent) => {
                    occupancy.closed.store(1, Relaxed);
                    job = unsent.0;
                }
            }
        }
        self.made.fetch_add(1, Relaxed);
        let occupancy = Arc::new(Occupancy {
            now: AtomicU32::new(1),
            ever: AtomicU32::new(1),
            closed: AtomicU32::new(0),
        });
        let (calls, queue) = mpsc::unbounded_channel();
        let sent = calls.send(job);
        debug_assert!(sent.is_ok(), "the receiver is right here");
        seats.push(Seat {
            calls,
            occupancy: Arc::clone(&occupancy),
        });
        drop(seats);
        tokio::spawn(drive(
            Arc::clone(&self.blueprint),
            self.pre.clone(),
            request_id,
            queue,
            occupancy,
        ));
    }
}

/// The life of one shared instance.
async fn drive(
    blueprint: Arc<Blueprint>,
    pre: ServicePre<Guest>,
    request_id: Arc<str>,
    mut queue: mpsc::UnboundedReceiver<Seated>,
    occupancy: Arc<Occupancy>,
) {
    let setup = &blueprint.setup;
    let pending = Pending::default();
    let mut store = match Guest::store(&blueprint, request_id) {
        Ok(store) => store,
        Err(refused) => {
            occupancy.closed.store(1, Relaxed);
            while let Ok(job) = queue.try_recv() {
                let _ = job.done.send(refused.clone());
            }
            return;
        }
    };
    let life = async {
        let proxy = pre.instantiate_async(&mut store).await?;
        store.set_epoch_deadline(1);
        store
            .run_concurrent(async |accessor| {
                take_calls(accessor, &proxy, &mut queue, &occupancy, &pending, setup).await
            })
            .await?
    };
    let meter = Meter::new(&setup.tenant, blueprint.clock, setup.cpu);
    let result = Metered {
        inner: pin!(life),
        meter,
        renewed: 0,
        occupancy: &occupancy,
    }
    .await;
    occupancy.closed.store(1, Relaxed);
    if let Err(error) = result {
        // Before the store goes: a body that ends because its store is gone
        // must find out that it was cut.
        pending.fail_all(|| verdict(&error, Some(&store.data().ledger)));
        while let Ok(job) = queue.try_recv() {
            let _ = job.done.send(verdict(&error, Some(&store.data().ledger)));
        }
    }
}

/// The calls whose end nobody has been told of yet.
#[derive(Default)]
struct Pending(Mutex<Vec<oneshot::Sender<Verdict>>>);

impl Pending {
    fn list(&self) -> std::sync::MutexGuard<'_, Vec<oneshot::Sender<Verdict>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail_all(&self, verdict: impl Fn() -> Verdict) {
        for done in self.list().drain(..) {
            let _ = done.send(verdict());
        }
    }

    /// Forgets calls that nobody waits for any more; says how many are left.
    fn prune(&self) -> usize {
        let mut list = self.list();
        list.retain(|done| !done.is_closed());
        list.len()
    }
}

/// How often an instance looks whether its calls are still wanted.
const LOOK: Duration = Duration::from_millis(50);

async fn take_calls(
    accessor: &Accessor<Guest>,
    proxy: &Service,
    queue: &mut mpsc::UnboundedReceiver<Seated>,
    occupancy: &Occupancy,
    pending: &Pending,
    setup: &HandlerSetup,
) -> wasmtime::Result<()> {
    let mut calls = FuturesUnordered::new();
    let mut idle_since = None;
    let mut look = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            biased;
            Some(result) = calls.next(), if !calls.is_empty() => {
                let answered: Option<oneshot::Sender<Verdict>> = result?;
                if let Some(done) = answered {
                    pending.list().push(done);
                }
            }
            job = queue.recv(), if occupancy.closed.load(Relaxed) == 0 => match job {
                Some(job) => calls.push(answer(accessor, proxy, job)),
                // Its handler is gone or retired: it ends with its last call.
                None => occupancy.closed.store(1, Relaxed),
            },
            _ = look.tick() => {}
        }
        // A call is over for the instance's purposes when its guest has
        // answered and its body is whole or unwanted.
        let waiting = pending.prune();
        let busy = u32::try_from(calls.len() + waiting).unwrap_or(u32::MAX);
        occupancy
            .now
            .store(busy + u32::try_from(queue.len()).unwrap_or(0), Relaxed);
        let spent = occupancy.ever.load(Relaxed) >= setup.instance.reuse;
        if busy > 0 || !queue.is_empty() {
            idle_since = None;
            continue;
        }
        let since = *idle_since.get_or_insert_with(std::time::Instant::now);
        if spent || occupancy.closed.load(Relaxed) != 0 || since.elapsed() > setup.instance.idle {
            occupancy.closed.store(1, Relaxed);
            if queue.is_empty() {
                return Ok(());
            }
        }
    }
}

/// One call, until its guest has answered. Gives back whom to tell of its end,
/// or `None` if that was done.
async fn answer(
    accessor: &Accessor<Guest>,
    proxy: &Service,
    seated: Seated,
) -> wasmtime::Result<Option<oneshot::Sender<Verdict>>> {
    let Seated { job, mut done } = seated;
    let verdict = tokio::select! {
        biased;
        verdict = p3::answer(accessor, proxy, job) => verdict?,
        () = done.closed() => return Ok(None),
    };
    if verdict.outcome == Outcome::Ok {
        return Ok(Some(done));
    }
    let _ = done.send(verdict);
    Ok(None)
}

/// Meters an instance whose budget is renewed with every call that it takes.
struct Metered<'a, F> {
    inner: Pin<&'a mut F>,
    meter: Meter,
    renewed: u32,
    occupancy: &'a Occupancy,
}

impl<R, F: Future<Output = wasmtime::Result<R>>> Future for Metered<'_, F> {
    type Output = wasmtime::Result<R>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let ever = this.occupancy.ever.load(Relaxed);
        if ever != this.renewed {
            this.renewed = ever;
            this.meter.renew();
        }
        let inner = this.inner.as_mut();
        this.meter.poll(cx, |cx| inner.poll(cx))
    }
}
