//! Between the CLI and the primary: one JSON object a line, so that an
//! operator can speak it with `nc -U`.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::FleetStatus;

/// What an operator asks of the primary.
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
    /// Clear the breakers of a pool.
    Reset {
        /// The pool's name.
        pool: String,
    },
}

/// What the primary answers. A request is answered by any number of
/// [`ControlReply::Progress`] and then one other reply.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "reply")]
pub enum ControlReply {
    /// The state of everything.
    Status(Box<FleetStatus>),
    /// Something happened on the way.
    Progress {
        /// A sentence for people.
        message: String,
    },
    /// It was done.
    Done,
    /// It was not done.
    Refused {
        /// Why not.
        message: String,
        /// The exit code of SPEC §1 for it.
        code: u8,
    },
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
