//! Between the CLI and the primary: one JSON object a line, so that an
//! operator can speak it with `nc -U`.

use std::path::PathBuf;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use skep_core::{AppName, Portion, Revision, Strategy, WorkerId};

use crate::FleetStatus;

/// What an operator asks of the primary. Names of things that do not exist are
/// refused with exit code 2, what cannot be done now with 5.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "command")]
pub enum ControlRequest {
    /// The state of everything.
    Status,
    /// Drain and end.
    Stop {
        /// Do not wait for requests in flight.
        now: bool,
    },
    /// Roll a component out as a new revision of an app.
    Deploy {
        /// The app's name.
        app: String,
        /// The component's file, absolute.
        source: PathBuf,
        /// In place or by restarting; as configured when absent.
        #[serde(default)]
        strategy: Option<Strategy>,
        /// Share of the requests that it gets until it is promoted; as
        /// configured when absent.
        #[serde(default)]
        canary: Option<Portion>,
        /// Go on although the digest was rolled back before or validation
        /// failed.
        #[serde(default)]
        force: bool,
        /// Stop before the roll-out.
        #[serde(default)]
        dry_run: bool,
        /// Answer as soon as it was begun.
        #[serde(default)]
        detach: bool,
    },
    /// Give a canary, or a revision that is still observed, all requests.
    Promote {
        /// The app's name.
        app: String,
    },
    /// Return to an earlier revision: the one before when absent. Ends a canary.
    Rollback {
        /// The app's name.
        app: String,
        /// The revision to return to.
        #[serde(default)]
        revision: Option<Revision>,
    },
    /// The revisions of an app.
    History {
        /// The app's name.
        app: String,
    },
    /// Read the configuration again and roll out the difference.
    Reload,
    /// Replace the workers of a pool one by one; of all pools when absent.
    Restart {
        /// The pool's name.
        #[serde(default)]
        pool: Option<String>,
    },
    /// Change the number of workers of a pool.
    Scale {
        /// The pool's name.
        pool: String,
        /// From 1.
        workers: u16,
    },
    /// Replace one worker.
    Rotate {
        /// The worker.
        worker: WorkerId,
    },
    /// Clear the breakers of a pool, or of the pool of an app.
    Reset {
        /// The name of the pool or the app.
        #[serde(alias = "pool")]
        target: String,
    },
    /// Answer 503 for an app.
    Pause {
        /// The app's name.
        app: String,
    },
    /// Let an app answer again.
    Resume {
        /// The app's name.
        app: String,
    },
    /// The newest events, and those to come.
    Events {
        /// Go on until the client hangs up.
        #[serde(default)]
        follow: bool,
    },
}

/// What the primary answers. A request is answered by any number of
/// [`ControlReply::Progress`] and [`ControlReply::Event`], and then one other
/// reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reply")]
pub enum ControlReply {
    /// The state of everything.
    Status(Box<FleetStatus>),
    /// The revisions of an app.
    History(AppHistory),
    /// Something happened on the way.
    Progress {
        /// A sentence for people.
        message: String,
    },
    /// One event (SPEC §5).
    Event {
        /// The event, a JSON object.
        event: serde_json::Value,
    },
    /// It was done.
    Done {
        /// What was done, in a sentence, where that is worth saying.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
    },
    /// It was not done.
    Refused {
        /// Why not.
        message: String,
        /// The exit code of SPEC §1 for it.
        code: u8,
    },
}

/// The revisions of an app: `skep history --json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppHistory {
    /// The app.
    pub app: AppName,
    /// The revision that answers, but for a canary's share.
    pub active: Option<Revision>,
    /// The canary.
    pub canary: Option<Revision>,
    /// Newest first.
    pub revisions: Vec<RevisionStatus>,
}

/// One revision of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionStatus {
    /// Its number.
    pub revision: Revision,
    /// `sha256:…` of the component.
    pub digest: String,
    /// Where the component came from.
    pub source: String,
    /// When it was made, RFC 3339 in UTC.
    pub time: String,
    /// `deploying`, `live`, `rejected`, `rolled-back` or `superseded`.
    pub outcome: String,
    /// Why it was rejected or rolled back.
    pub reason: Option<String>,
}

/// The longest line that either side accepts. A status of 1,000 apps and 64
/// workers is well under it.
const MAX_LINE: usize = 16 << 20;

/// One message as a line, newline included.
#[must_use]
pub fn encode_line<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("control messages have string keys only");
    line.push(b'\n');
    line
}

/// Reads one line, with or without its newline.
///
/// # Errors
///
/// A line that is too long, not JSON, or not such a message; the text says
/// which.
pub fn decode_line<T: DeserializeOwned>(line: &[u8]) -> Result<T, String> {
    if line.len() > MAX_LINE {
        return Err(format!("a line of {} bytes is too long", line.len()));
    }
    serde_json::from_slice(line).map_err(|error| error.to_string())
}
