//! Why a generation cannot be put into force, at a start or at a reload.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::PathBuf;

use skep_core::AppName;
use skep_wire::Refusal;

use crate::fleet::worded;
use crate::listeners::BindFailure;
use crate::start::StartError;

/// Exit codes of SPEC §1.
const FAILED: u8 = 1;
const PROBLEMS: u8 = 3;
const REFUSED: u8 = 5;
const UNAVAILABLE: u8 = 69;

/// Why a generation cannot be put into force.
#[derive(Debug)]
pub(crate) enum Rejection {
    /// The configuration asks for what cannot be.
    Problems(String),
    /// Components cannot be served; all of them are named.
    Components(BTreeMap<AppName, Unservable>),
    /// Listeners cannot be bound; all of them are named.
    Listeners(Vec<BindFailure>),
    /// What it changes is being changed already.
    Busy(String),
    /// The disk or the system does not do what is asked of it.
    System {
        /// What we were doing, and to what.
        doing: String,
        /// What the system said.
        source: io::Error,
    },
}

/// A component that cannot be served.
#[derive(Debug)]
pub(crate) struct Unservable {
    pub(crate) component: PathBuf,
    pub(crate) refusal: Refusal,
}

impl Rejection {
    /// The exit code of whoever asked for it.
    pub(crate) const fn code(&self) -> u8 {
        match self {
            Self::Problems(_) | Self::Components(_) => PROBLEMS,
            Self::Listeners(_) => UNAVAILABLE,
            Self::Busy(_) => REFUSED,
            Self::System { .. } => FAILED,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reasons: Vec<String> = match self {
            Self::Problems(why) | Self::Busy(why) => return f.write_str(why),
            Self::System { doing, source } => return write!(f, "cannot {doing}: {source}"),
            Self::Components(refused) => {
                let reason = |(app, it): (&AppName, &Unservable)| {
                    let why = worded(it.refusal.clone());
                    format!("app {app}: {}: {why}", it.component.display())
                };
                refused.iter().map(reason).collect()
            }
            Self::Listeners(failures) => {
                let reason = |failure: &BindFailure| format!("{failure}: {}", failure.source);
                failures.iter().map(reason).collect()
            }
        };
        f.write_str(&reasons.join("; "))
    }
}

impl From<Rejection> for StartError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Problems(why) | Rejection::Busy(why) => Self::Problems(vec![why]),
            Rejection::Components(refused) => {
                let refusals = refused.into_iter().map(|(app, it)| (app, it.refusal));
                Self::Components(refusals.collect())
            }
            Rejection::Listeners(failures) => Self::Listeners(failures),
            Rejection::System { doing, source } => Self::System {
                step: doing,
                source,
            },
        }
    }
}
