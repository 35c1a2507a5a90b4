//! What the tenants of one worker share, and what each has of it.
//!
//! One [`Tenants`] per worker, one [`TenantShare`] per tenant on it, made by
//! whoever loads handlers. Every handler of a tenant has the same share, and
//! everything that its guests use is counted there.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Context;
use std::time::{Duration, Instant};

use skep_core::fair::{self, Member};

use crate::line::{Go, Line, Place};

/// The limits of one tenant on one worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TenantLimits {
    /// Its part of the CPU, relative to the other tenants' weights.
    pub weight: NonZeroU32,
}

impl Default for TenantLimits {
    fn default() -> Self {
        Self { weight: fair::EVEN }
    }
}

/// What the tenants of one worker share. Cheap to clone.
#[derive(Clone)]
pub struct Tenants {
    line: Arc<Line>,
}

impl std::fmt::Debug for Tenants {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tenants").finish_non_exhaustive()
    }
}

impl Tenants {
    /// A worker without tenants. `pace` is called when the period of
    /// [`tick`](crate::tick)s should be another: a millisecond, or a quarter of
    /// that while tenants compete.
    #[must_use]
    pub fn new(pace: fn(Duration)) -> Self {
        Self {
            line: Arc::new(Line::new(pace)),
        }
    }

    /// Another tenant.
    #[must_use]
    pub fn join(&self, name: &str, limits: TenantLimits) -> Arc<TenantShare> {
        Arc::new(TenantShare {
            name: name.into(),
            member: self.line.join(limits.weight),
            line: Arc::clone(&self.line),
            cpu: AtomicU64::new(0),
        })
    }
}

/// What one tenant has of its worker.
pub struct TenantShare {
    name: Box<str>,
    line: Arc<Line>,
    member: Member,
    /// CPU time of its guests in nanoseconds.
    cpu: AtomicU64,
}

impl std::fmt::Debug for TenantShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TenantShare")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl TenantShare {
    /// The tenant's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// CPU time that its guests have used on this worker so far.
    #[must_use]
    pub fn cpu_used(&self) -> Duration {
        Duration::from_nanos(self.cpu.load(Relaxed))
    }

    /// Whether one of its guests may run, which else is in line afterwards.
    pub(crate) fn may_go(&self, place: &mut Place, now: Instant, cx: &Context<'_>) -> Option<Go> {
        self.line.may_go(self.member, place, now, cx)
    }

    /// One of its guests met a tick.
    pub(crate) fn preempted(&self, place: &mut Place, now: Instant, cx: &Context<'_>) {
        self.line.preempted(self.member, place, now, cx);
    }

    /// One of its guests has run for so long, for which the worker had
    /// `overhead` besides.
    pub(crate) fn charge(&self, now: Instant, spent: Duration, overhead: Duration) {
        let nanos = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
        self.cpu.fetch_add(nanos, Relaxed);
        self.line.charge(self.member, now, spent + overhead);
    }

    /// One of its guests is gone.
    pub(crate) fn leave(&self, place: &mut Place) {
        self.line.leave(self.member, place);
    }
}

impl Drop for TenantShare {
    fn drop(&mut self) {
        self.line.part(self.member);
    }
}
