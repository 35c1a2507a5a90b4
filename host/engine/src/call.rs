//! One call as its caller sees it: what it is told, and how it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use http::uri::Scheme;
use skep_core::Outcome;

/// What a call is made with, besides its request.
#[derive(Clone, Debug)]
pub struct CallSetup {
    /// How the client came here, as the guest is told.
    pub scheme: Scheme,
    /// Names the request in what the guest writes to its log.
    pub request_id: Arc<str>,
    /// How long the response's body may stay unpolled while its next frame is
    /// the client's to take: from the head on, after every frame, and after
    /// whatever the witness knows the client to have taken, until the next poll.
    /// Then the client is too slow.
    pub patience: Duration,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its one outcome.
    pub outcome: Outcome,
    /// What happened, in words for the app's owner.
    pub detail: Option<String>,
    /// CPU time of the guest.
    pub cpu: Duration,
    /// What the guest answered, if it did.
    pub status: Option<StatusCode>,
}

/// Learns how a call ended, exactly once. Holds what the call holds: permits,
/// counters.
///
/// A witness that is dropped without a word belongs to a call that was
/// cancelled because its client went away.
pub trait Witness: Send + Unpin + 'static {
    /// The call has ended.
    fn ended(self, ended: Ended);

    /// When the client last took some of what it was given, if that is known. Its
    /// patience counts from then.
    fn last_taken(&self) -> Option<Instant> {
        None
    }
}
