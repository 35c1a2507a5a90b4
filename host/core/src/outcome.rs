//! How one request ended, and what the client is told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

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
    /// The guest returned without setting a response.
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
    /// The request body came too slowly.
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
}

/// What the client gets when the guest's own response is not it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Whether the connection ends with this response.
    pub close: bool,
    /// The value of `Retry-After`, in whole seconds.
    pub retry_after: Option<Duration>,
}

/// How long a client that was turned away for load is asked to wait. One
/// second is the shortest that the header can say; queues drain faster.
const RETRY_SOON: Duration = Duration::from_secs(1);

impl Outcome {
    /// All outcomes, in the order of their discriminants.
    pub const ALL: [Self; 18] = [
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
        ] {
            let reply = outcome.reply();
            assert_eq!(reply.status, 503);
            assert!(reply.retry_after.is_some());
            assert!(!reply.close);
        }
    }
}
