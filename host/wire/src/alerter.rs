//! Between the primary and the alerter, the short-lived process that talks to
//! the webhook so that nothing else has to.

use serde::{Deserialize, Serialize};

use crate::Message;

/// What the primary tells an alerter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToAlerter {
    /// The first message.
    Begin {
        /// Where alerts go.
        webhook: String,
    },
    /// Deliver one alert.
    Alert {
        /// Its number.
        id: u64,
        /// The event, as JSON text.
        event: String,
    },
}

/// What an alerter answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromAlerter {
    /// The webhook took an alert.
    Delivered {
        /// The alert.
        id: u64,
        /// How often it was tried.
        attempts: u32,
    },
    /// The webhook did not take an alert, however often it was tried.
    GaveUp {
        /// The alert.
        id: u64,
        /// What went wrong the last time.
        #[serde(with = "crate::text")]
        reason: String,
    },
}

impl Message for ToAlerter {
    // An event, of a few texts.
    const MOST: usize = 64 << 10;

    fn name(&self) -> &'static str {
        match self {
            Self::Begin { .. } => "begin",
            Self::Alert { .. } => "alert",
        }
    }

    fn fds(&self) -> usize {
        0
    }
}

impl Message for FromAlerter {
    const MOST: usize = 16 << 10;

    fn name(&self) -> &'static str {
        match self {
            Self::Delivered { .. } => "delivered",
            Self::GaveUp { .. } => "gave-up",
        }
    }

    fn fds(&self) -> usize {
        0
    }
}
