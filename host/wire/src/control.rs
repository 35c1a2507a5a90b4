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
    /// Delete what of the state directory nothing needs.
    Gc {
        /// Only say what that is.
        #[serde(default)]
        dry_run: bool,
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
    /// What of the state directory nothing needed.
    Swept(SweptFiles),
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
    /// What is not told, because a reply would have been too large with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_out: Option<String>,
}

/// One revision of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevisionStatus {
    /// Its number.
    pub revision: Revision,
    /// `sha256:…` of the component; absent for one that could not be built.
    pub digest: Option<String>,
    /// Where the component came from.
    pub source: String,
    /// When it was made, RFC 3339 in UTC.
    pub time: String,
    /// `deploying`, `live`, `rejected`, `rolled-back` or `superseded`.
    pub outcome: String,
    /// Why it was rejected or rolled back.
    pub reason: Option<String>,
}

/// What of a state directory nothing needed: `skep gc --json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweptFiles {
    /// The state directory.
    pub state_dir: String,
    /// Whether it is there still.
    pub dry_run: bool,
    /// How many files.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The first [`SweptFiles::MOST`] of them.
    pub files: Vec<SweptFile>,
    /// What could not be deleted and why; the first [`SweptFiles::MOST_FAILED`].
    pub failed: Vec<String>,
}

impl SweptFiles {
    /// Most files that are named.
    pub const MOST: usize = 10_000;
    /// Most that could not be deleted that are named.
    pub const MOST_FAILED: usize = 100;
}

/// One file that nothing needed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweptFile {
    /// Its path in the state directory.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Why nothing needs it.
    pub why: String,
}

/// The longest line that either side accepts. A status of 1,000 apps and 64
/// workers is well under it.
pub const MAX_LINE: usize = 16 << 20;

/// One message as a line, newline included.
#[must_use]
pub fn encode_line<T: Serialize>(message: &T) -> Vec<u8> {
    let mut line = serde_json::to_vec(message).expect("control messages have string keys only");
    line.push(b'\n');
    line
}

/// A reply as a line that the other side takes. Of a status or a history that is
/// too long for that the last apps and workers, or the oldest revisions, are left
/// out, and that is said; anything else is refused.
#[must_use]
pub fn encode_reply(reply: &ControlReply) -> Vec<u8> {
    encode_within(reply, MAX_LINE)
}

fn encode_within(reply: &ControlReply, most: usize) -> Vec<u8> {
    let line = encode_line(reply);
    if line.len() <= most {
        return line;
    }
    let mut shorter = reply.clone();
    loop {
        if !halve(&mut shorter) {
            return encode_line(&ControlReply::Refused {
                message: format!(
                    "the answer would have {} bytes, and {most} are too many",
                    line.len()
                ),
                code: 1,
            });
        }
        let line = encode_line(&shorter);
        if line.len() <= most {
            return line;
        }
    }
}

/// Leaves half of a reply's longest list out; false if nothing can be left out.
fn halve(reply: &mut ControlReply) -> bool {
    fn shorten<T>(list: &mut Vec<T>) -> bool {
        let any = !list.is_empty();
        list.truncate(list.len() / 2);
        any
    }
    match reply {
        ControlReply::History(history) => {
            let any = shorten(&mut history.revisions);
            let left = history.revisions.len();
            history.left_out = Some(format!("revisions before the newest {left}"));
            any
        }
        ControlReply::Status(status) => {
            // Which is the longest is not known without writing each: the routes
            // of apps are what has no bound of its own.
            let any = if status.apps.iter().any(|app| app.routes.len() > 1) {
                for app in &mut status.apps {
                    app.routes.truncate(app.routes.len().div_ceil(2));
                }
                true
            } else if status.apps.len() >= status.workers.len() {
                shorten(&mut status.apps)
            } else {
                shorten(&mut status.workers)
            };
            status.left_out = Some(format!(
                "routes, apps beyond the first {} or workers beyond the first {}",
                status.apps.len(),
                status.workers.len()
            ));
            any
        }
        _ => false,
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_that_is_too_long_says_what_it_leaves_out() {
        let revision = |number| RevisionStatus {
            revision: Revision(number),
            digest: None,
            source: "x".repeat(100),
            time: String::new(),
            outcome: "rejected".to_owned(),
            reason: None,
        };
        let history = AppHistory {
            app: AppName::new("a").unwrap(),
            active: None,
            canary: None,
            revisions: (1..=100).rev().map(revision).collect(),
            left_out: None,
        };
        let reply = ControlReply::History(history.clone());
        assert_eq!(encode_reply(&reply), encode_line(&reply));
        let line = encode_within(&reply, 6000);
        assert!(line.len() <= 6000);
        let Ok(ControlReply::History(shorter)) = decode_line(&line) else {
            panic!("{}", String::from_utf8_lossy(&line));
        };
        assert_eq!(shorter.revisions[..], history.revisions[..25]);
        let left_out = shorter.left_out.unwrap();
        assert_eq!(left_out, "revisions before the newest 25");
        let progress = ControlReply::Progress {
            message: "x".repeat(200),
        };
        let Ok(ControlReply::Refused { message, .. }) = decode_line(&encode_within(&progress, 150))
        else {
            panic!("it is refused");
        };
        assert!(message.contains("too many"), "{message}");
    }
}
