//! What a worker has used up of its limits of requests, age and memory.

use serde::{Deserialize, Serialize};

use crate::limits::SupervisionSettings;
use crate::moment::Moment;
use crate::supervise::backoff::SplitMix64;
use crate::supervise::event::RecycleCause;

/// What one worker has used up.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Wear {
    /// Requests that it has ever read.
    requests: u64,
    /// Bytes of its resident memory when it last beat; 0 is unknown.
    memory: u64,
    /// How much less than the limits it gets, in parts of `FULL_JITTER`.
    jitter: u16,
}

/// The parts of a whole limit in which jitter is measured: ten times what fits
/// into its type, so that it is less than 10 %.
const FULL_JITTER: u32 = 10 << 16;

impl Wear {
    pub(super) fn new(random: &mut SplitMix64) -> Self {
        Self {
            requests: 0,
            memory: 0,
            jitter: random.share(),
        }
    }

    pub(super) fn beat(&mut self, requests: u64, memory: u64) {
        self.requests = self.requests.max(requests);
        self.memory = memory;
    }

    /// Which limit is reached first, and when: a moment that may have passed.
    pub(super) fn out(
        &self,
        ready: Moment,
        settings: &SupervisionSettings,
    ) -> Option<(Moment, RecycleCause)> {
        let age = settings.max_age;
        let age = age.saturating_sub(age / FULL_JITTER * u32::from(self.jitter));
        let requests = settings.max_requests;
        let less = u128::from(requests) * u128::from(self.jitter) / u128::from(FULL_JITTER);
        let requests = requests.saturating_sub(u64::try_from(less).unwrap_or(u64::MAX));
        let many = settings.max_requests > 0 && self.requests >= requests;
        let old = !settings.max_age.is_zero();
        let big = settings
            .soft_memory()
            .is_some_and(|soft| self.memory > 0 && self.memory >= soft);
        [
            many.then_some((Moment::ORIGIN, RecycleCause::Requests)),
            big.then_some((Moment::ORIGIN, RecycleCause::Memory)),
            old.then_some((ready + age, RecycleCause::Age)),
        ]
        .into_iter()
        .flatten()
        .min()
    }
}
