//! What a worker serves, as the primary wants it.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::limits::TenantLimits;
use crate::name::{AppName, Generation, HandlerId, TenantName};
use crate::route::RoutePattern;
use crate::spec::Portion;

/// What a worker serves. It takes the place of the plan before it at once: a
/// request is routed by one plan and ends on the handler that it began on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Its number in its pool; a newer plan has a higher one.
    pub number: u64,
    /// The specification that it is part of.
    pub generation: Generation,
    /// Workers of the pool, for shares of limits.
    pub workers: u16,
    /// Apps with their routes, in the order of their names.
    pub apps: Vec<PlannedApp>,
    /// The owners of those apps, in the order of their names.
    pub tenants: Vec<PlannedTenant>,
}

/// One tenant in a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedTenant {
    /// The tenant.
    pub tenant: TenantName,
    /// What all its apps have together.
    pub limits: TenantLimits,
    /// Where the pool's workers count what they share of it.
    pub row: u32,
}

/// One app in a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedApp {
    /// The app.
    pub app: AppName,
    /// Its owner.
    pub tenant: TenantName,
    /// Where the pool's workers count what they share of it.
    pub row: u32,
    /// What it answers.
    pub routes: Vec<RoutePattern>,
    /// Whether its requests are refused for now.
    pub paused: bool,
    /// What answers all requests that `canary` does not; `None` if there is
    /// nothing that could be loaded (*quarantine*).
    pub stable: Option<HandlerId>,
    /// What answers a part of the requests.
    pub canary: Option<(HandlerId, Portion)>,
    /// Kept loaded without requests, so that going back takes no time.
    pub standby: Option<HandlerId>,
    /// Whether workers report what its handlers count, several times a second.
    pub observed: bool,
}

impl PlannedApp {
    /// The handlers that it needs.
    pub fn handlers(&self) -> impl Iterator<Item = HandlerId> {
        let canary = self.canary.map(|(handler, _)| handler);
        [self.stable, canary, self.standby].into_iter().flatten()
    }
}

impl Plan {
    /// The handlers that a worker must have loaded before it can serve this.
    #[must_use]
    pub fn handlers(&self) -> BTreeSet<HandlerId> {
        self.apps.iter().flat_map(PlannedApp::handlers).collect()
    }
}
