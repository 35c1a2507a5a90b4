//! Why a worker process ended.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The recorded reason of one process exit. Every exit has exactly one.
///
/// Whether an exit was voluntary is decided by what the primary had asked
/// for, never by the exit code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum ExitReason {
    /// The primary asked the worker to go and it went in time.
    Requested,
    /// The worker ended by itself with this exit code.
    Crash {
        /// The exit code.
        code: i32,
    },
    /// A signal that the primary did not send ended the worker.
    Signal {
        /// The signal's number.
        signal: i32,
    },
    /// The kernel or the worker itself ended it for want of memory.
    OutOfMemory,
    /// The worker was not ready within `start_timeout`.
    StartTimeout,
    /// The worker reported that it cannot serve; the text is its own.
    ValidationFailed {
        /// What the worker said.
        message: String,
    },
    /// The worker stopped beating for `hang_timeout` and was killed.
    Hung,
    /// The worker did not finish its requests within `drain_timeout`.
    DrainTimeout,
    /// The process could not be created at all.
    SpawnFailed {
        /// What the system said.
        message: String,
    },
}

impl ExitReason {
    /// Whether we asked for this exit; what we did not ask for is a crash.
    #[must_use]
    pub const fn is_voluntary(&self) -> bool {
        matches!(self, Self::Requested | Self::DrainTimeout)
    }

    /// The stable name used in events and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Requested => "requested",
            Self::Crash { .. } => "crash",
            Self::Signal { .. } => "signal",
            Self::OutOfMemory => "out-of-memory",
            Self::StartTimeout => "start-timeout",
            Self::ValidationFailed { .. } => "validation-failed",
            Self::Hung => "hung",
            Self::DrainTimeout => "drain-timeout",
            Self::SpawnFailed { .. } => "spawn-failed",
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        match self {
            Self::Crash { code } => write!(f, " (exit code {code})"),
            Self::Signal { signal } => write!(f, " (signal {signal})"),
            Self::ValidationFailed { message } | Self::SpawnFailed { message } => {
                write!(f, ": {message}")
            }
            _ => Ok(()),
        }
    }
}
