//! What a reload makes, step by step: each step takes what the one before has
//! made.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use skep_core::difference::Difference;
use skep_core::history::SavedHistory;
use skep_core::{AppName, FleetSpec, HandlerId, ListenerName, PoolName, Revision};

use super::app::App;
use crate::artifacts::{Artifact, Digest};
use crate::listeners::Bound;
use crate::prepare::Prepared;

/// What a reload has made so far.
#[derive(Debug, Default)]
pub(super) enum Material {
    #[default]
    Nothing,
    Read(Box<Read>),
    Prepared(Box<Read>, Prepared),
    Next(Box<Next>),
    Applied(Box<Applied>),
    /// The generation before is what is to be again.
    Restored(Attempts),
}

/// A configuration that was read.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) spec: FleetSpec,
    pub(super) difference: Difference,
}

/// The generation that shall be.
#[derive(Debug)]
pub(super) struct Next {
    pub(super) spec: FleetSpec,
    pub(super) difference: Difference,
    pub(super) apps: BTreeMap<AppName, NextApp>,
    pub(super) unbuilt: BTreeMap<AppName, String>,
    pub(super) bound: BTreeMap<ListenerName, Bound>,
}

#[derive(Debug)]
pub(super) struct NextApp {
    pub(super) saved: SavedHistory,
    pub(super) revision: Revision,
    pub(super) artifact: Arc<Artifact>,
    /// The one it has, or one that must be loaded.
    pub(super) handler: HandlerId,
    /// Whether it is what it is, and stays so.
    pub(super) kept: bool,
    /// Whether its revision is a new one.
    pub(super) renewed: bool,
}

/// What answered for an app before.
#[derive(Clone, Debug)]
pub(super) struct Old {
    pub(super) revision: Revision,
    pub(super) handler: HandlerId,
    pub(super) artifact: Arc<Artifact>,
}

/// The generation that is to be, and what it came from.
#[derive(Debug)]
pub(super) struct Applied {
    pub(super) before: Before,
    pub(super) difference: Difference,
    /// Apps with a new revision, and the one before.
    pub(super) renewed: BTreeMap<AppName, Old>,
    /// Listeners that their pools accept from once it is in force.
    pub(super) moved: Vec<ListenerName>,
}

/// What to go back to.
#[derive(Debug)]
pub(super) struct Before {
    pub(super) spec: FleetSpec,
    pub(super) apps: BTreeMap<AppName, App>,
    /// Names that were bound anew or for the first time, with what they had.
    pub(super) listeners: BTreeMap<ListenerName, Option<Bound>>,
    pub(super) sizes: BTreeMap<PoolName, u16>,
}

/// A revision that a reload would have made live.
#[derive(Clone, Debug)]
pub(super) struct Attempt {
    pub(super) revision: Revision,
    pub(super) component: Digest,
    pub(super) source: PathBuf,
}

pub(super) type Attempts = BTreeMap<AppName, Attempt>;

impl Material {
    /// Handlers that no plan may name yet, or any more.
    pub(super) fn handlers(&self) -> Vec<HandlerId> {
        match self {
            Self::Next(next) => next.apps.values().map(|app| app.handler).collect(),
            Self::Applied(applied) => {
                let before = applied.before.apps.values().flat_map(App::handlers);
                let old = applied.renewed.values().map(|old| old.handler);
                before.chain(old).collect()
            }
            Self::Nothing | Self::Read(_) | Self::Prepared(..) | Self::Restored(_) => Vec::new(),
        }
    }

    /// Revisions that are not live, and will not be if it is rejected.
    pub(super) fn attempts(&self) -> Attempts {
        match self {
            Self::Next(next) => {
                let renewed = next.apps.iter().filter(|(_, app)| app.renewed);
                let attempt = |(name, app): (&AppName, &NextApp)| {
                    let attempt = Attempt {
                        revision: app.revision,
                        component: app.artifact.component,
                        source: next.spec.apps.get(name)?.component.clone(),
                    };
                    Some((name.clone(), attempt))
                };
                renewed.filter_map(attempt).collect()
            }
            Self::Restored(attempts) => attempts.clone(),
            Self::Nothing | Self::Read(_) | Self::Prepared(..) | Self::Applied(_) => {
                Attempts::new()
            }
        }
    }
}
