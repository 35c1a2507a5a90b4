//! How one request ended, and what the client is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::rate::OverRate;

/// The one way in which a request ended (DESIGN §8). Every request that was
/// read gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Outcome {
    /// The guest answered; its response was sent whole.
    Ok,
    /// The guest trapped, or the host failed on its behalf.
    Trap,
    /// The guest returned without a response, or with an error in its place.
    NoResponse,
    /// The wall-clock limit of the call passed.
    Deadline,
    /// The CPU limit of the call was used up.
    CpuBudget,
    /// The guest died at its memory limit.
    MemoryBudget,
    /// No instance was to be had.
    InstancesExhausted,
    /// The app's queue was full, or the call waited in it for too long.
    QueueFull,
    /// The app's breaker is tripped, or the app is paused.
    Tripped,
    /// The tenant is over its budget.
    TenantOverBudget,
    /// The request was over its rate.
    RateLimited,
    /// The request body was larger than `max_body`.
    BodyTooLarge,
    /// The client was too slow: its request's body did not come, or its response
    /// was not taken.
    TooSlow,
    /// The client went away before the response was whole.
    ClientGone,
    /// No app serves this host and path.
    NoRoute,
    /// The request was not one that HTTP allows.
    BadRequest,
    /// The request's head was larger than `max_head` or `max_headers`.
    HeadTooLarge,
    /// The request came over an HTTP/2 connection that another pool serves.
    Misdirected,
    /// The app's handler could not be loaded or validated in this worker, which
    /// tries it again.
    Quarantined,
}

/// A "no" before work started: which outcome it is, and when to come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// How the request ended.
    pub outcome: Outcome,
    /// When the client may come back, where that is known; otherwise as the
    /// outcome's reply says.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// The response to send.
    #[must_use]
    pub fn reply(self) -> Reply {
        let reply = self.outcome.reply();
        Reply {
            retry_after: self.retry_after.or(reply.retry_after),
            ..reply
        }
    }
}

impl From<Outcome> for Refusal {
    fn from(outcome: Outcome) -> Self {
        Self {
            outcome,
            retry_after: None,
        }
    }
}

impl From<OverRate> for Refusal {
    fn from(OverRate(wait): OverRate) -> Self {
        Self {
            outcome: Outcome::RateLimited,
            retry_after: Some(wait),
        }
    }
}

/// What the client gets when the guest's own response is not it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Whether the connection ends with this response.
    pub close: bool,
    /// How long the client is asked to stay away.
    pub retry_after: Option<Duration>,
}

impl Reply {
    /// The value of `Retry-After`: whole seconds, rounded up, so that who comes
    /// back then is not too early.
    #[must_use]
    pub fn retry_after_seconds(&self) -> Option<u64> {
        let wait = self.retry_after?;
        let up = u64::from(wait.subsec_nanos() > 0);
        Some(wait.as_secs().saturating_add(up).max(1))
    }
}

/// How long a client that was turned away for load is asked to wait. One
/// second is the shortest that the header can say; queues drain faster.
const RETRY_SOON: Duration = Duration::from_secs(1);

/// When clients of an app may come back whose handler does not work: about as
/// long as a database takes to be started again.
const RETRY_LATER: Duration = Duration::from_secs(5);

impl Outcome {
    /// All outcomes, in the order of their discriminants.
    pub const ALL: [Self; 19] = [
        Self::Ok,
        Self::Trap,
        Self::NoResponse,
        Self::Deadline,
        Self::CpuBudget,
        Self::MemoryBudget,
        Self::InstancesExhausted,
        Self::QueueFull,
        Self::Tripped,
        Self::TenantOverBudget,
        Self::RateLimited,
        Self::BodyTooLarge,
        Self::TooSlow,
        Self::ClientGone,
        Self::NoRoute,
        Self::BadRequest,
        Self::HeadTooLarge,
        Self::Misdirected,
        Self::Quarantined,
    ];

    /// The stable name used in logs, metrics and `status`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Trap => "trap",
            Self::NoResponse => "no-response",
            Self::Deadline => "deadline",
            Self::CpuBudget => "cpu-budget",
            Self::MemoryBudget => "memory-budget",
            Self::InstancesExhausted => "instances-exhausted",
            Self::QueueFull => "queue-full",
            Self::Tripped => "tripped",
            Self::TenantOverBudget => "tenant-over-budget",
            Self::RateLimited => "rate-limited",
            Self::BodyTooLarge => "body-too-large",
            Self::TooSlow => "too-slow",
            Self::ClientGone => "client-gone",
            Self::NoRoute => "no-route",
            Self::BadRequest => "bad-request",
            Self::HeadTooLarge => "head-too-large",
            Self::Misdirected => "misdirected",
            Self::Quarantined => "quarantined",
        }
    }

    /// The response to send while none was begun; once headers are out, every
    /// outcome but [`Outcome::Ok`] ends in a cut connection instead.
    ///
    /// [`Outcome::Ok`] has a reply as well (500) because the function is
    /// total: an `ok` without a response of the guest's own is a bug of ours.
    #[must_use]
    pub const fn reply(self) -> Reply {
        let (status, close, retry_after) = match self {
            Self::Ok | Self::Trap | Self::NoResponse | Self::MemoryBudget => (500, true, None),
            Self::Deadline | Self::CpuBudget => (504, true, None),
            Self::InstancesExhausted | Self::QueueFull | Self::Tripped | Self::TenantOverBudget => {
                (503, false, Some(RETRY_SOON))
            }
            Self::RateLimited => (429, false, Some(RETRY_SOON)),
            Self::BodyTooLarge => (413, true, None),
            Self::TooSlow => (408, true, None),
            // Never sent: nobody is there. The number is nginx's, for the log.
            Self::ClientGone => (499, true, None),
            Self::NoRoute => (404, false, None),
            Self::BadRequest => (400, true, None),
            Self::HeadTooLarge => (431, true, None),
            // The client may ask again over another connection (RFC 9110,
            // section 15.5.20); the others of this one go on.
            Self::Misdirected => (421, false, None),
            Self::Quarantined => (503, false, Some(RETRY_LATER)),
        };
        Reply {
            status,
            close,
            retry_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_discriminant_order_and_names_are_unique() {
        let mut names = std::collections::BTreeSet::new();
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index);
            assert!(names.insert(outcome.name()));
            let json = serde_json::to_string(&outcome).unwrap();
            assert_eq!(json, format!("\"{}\"", outcome.name()));
        }
    }

    #[test]
    fn overload_is_503_with_retry_after_and_never_500() {
        for outcome in [
            Outcome::InstancesExhausted,
            Outcome::QueueFull,
            Outcome::Tripped,
            Outcome::TenantOverBudget,
            Outcome::Quarantined,
        ] {
            let reply = outcome.reply();
            assert_eq!(reply.status, 503);
            assert!(reply.retry_after.is_some());
            assert!(!reply.close);
        }
    }
    #[test]
    fn who_is_over_a_rate_is_told_the_whole_second_in_which_the_next_window_begins() {
        let told = |millis| {
            let refusal = Refusal::from(OverRate(Duration::from_millis(millis)));
            let reply = refusal.reply();
            assert_eq!((reply.status, reply.close), (429, false));
            reply.retry_after_seconds().unwrap()
        };
        assert_eq!(
            [told(1), told(1000), told(1001), told(60_000)],
            [1, 1, 2, 60]
        );
        let full = Refusal::from(Outcome::QueueFull).reply();
        assert_eq!(full.retry_after_seconds(), Some(1));
        assert_eq!(Outcome::NoRoute.reply().retry_after_seconds(), None);
    }
}
