//! What a pool answers a little longer than the specification says: requests
//! for hosts that another pool has now, until no dispatcher sends it any.
//!
//! While a reload is applied the pool that gets a host serves it already; then
//! dispatchers switch; then the pool that had it forgets. So at no moment is a
//! request for it sent to somebody who does not know it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use skep_core::converge::Pace;
use skep_core::route::RoutePattern;
use skep_core::{AppName, FleetSpec, HandlerId, ListenerName, Moment, PlannedApp, PoolName};

use super::{Fleet, now};

/// How long a dispatcher may take to switch, which is one message: one that is
/// stuck keeps nobody from forgetting.
const SWITCH_DEADLINE: Duration = Duration::from_secs(10);

/// Routes that linger. See the module's documentation.
#[derive(Debug, Default)]
pub(super) struct Lingering {
    /// Each app with those of its routes that linger.
    apps: BTreeMap<PoolName, Vec<PlannedApp>>,
    /// Listeners whose dispatchers have not switched yet.
    waiting: BTreeSet<ListenerName>,
    until: Option<Moment>,
}

impl Lingering {
    /// What lingers on the way from one specification to another. `handler` is
    /// what answers for an app before.
    pub(super) fn between(
        before: &FleetSpec,
        next: &FleetSpec,
        handler: impl Fn(&AppName) -> Option<HandlerId>,
    ) -> Self {
        let by_host = |pool: &PoolName| {
            let mut listeners = before.listeners.values().chain(next.listeners.values());
            listeners.any(|listener| listener.pools.len() > 1 && listener.pools.contains(pool))
        };
        let mut kept: BTreeMap<&PoolName, BTreeSet<_>> = BTreeMap::new();
        for app in next.apps.values() {
            let hosts = app.routes.iter().map(RoutePattern::whole_host);
            kept.entry(&app.pool).or_default().extend(hosts);
        }
        let mut apps: BTreeMap<PoolName, Vec<PlannedApp>> = BTreeMap::new();
        for (name, app) in &before.apps {
            if !next.pools.contains_key(&app.pool) || !by_host(&app.pool) {
                continue;
            }
            let mut routes = app.routes.clone();
            let kept = kept.get(&app.pool);
            routes.retain(|route| kept.is_none_or(|kept| !kept.contains(&route.whole_host())));
            let Some(stable) = handler(name).filter(|_| !routes.is_empty()) else {
                continue;
            };
            apps.entry(app.pool.clone()).or_default().push(PlannedApp {
                app: name.clone(),
                tenant: app.tenant.clone(),
                row: 0,
                routes,
                paused: false,
                stable: Some(stable),
                canary: None,
                standby: None,
                observed: false,
            });
        }
        Self {
            apps,
            ..Self::default()
        }
    }

    /// Adds what lingers in a pool to its apps, which are in the order of their
    /// names and stay so.
    pub(super) fn add_to(&self, pool: &PoolName, apps: &mut Vec<PlannedApp>) {
        for lingering in self.apps.get(pool).into_iter().flatten() {
            match apps.binary_search_by(|app| app.app.cmp(&lingering.app)) {
                Ok(at) => apps[at].routes.extend(lingering.routes.iter().cloned()),
                Err(at) => apps.insert(at, lingering.clone()),
            }
        }
    }

    /// When it ends whatever dispatchers say.
    pub(super) const fn deadline(&self) -> Option<Moment> {
        self.until
    }
}

impl Fleet {
    /// These dispatchers were told to switch; when they have, it is over.
    pub(super) fn linger_for(&mut self, listeners: BTreeSet<ListenerName>) {
        if self.lingering.apps.is_empty() {
            return;
        }
        if listeners.is_empty() {
            return self.forget_all_lingering();
        }
        self.lingering.waiting = listeners;
        self.lingering.until = Some(now() + SWITCH_DEADLINE);
    }

    /// A dispatcher has switched.
    pub(super) fn forget_lingering(&mut self, listener: &ListenerName) {
        if self.lingering.waiting.remove(listener) && self.lingering.waiting.is_empty() {
            self.forget_all_lingering();
        }
    }

    pub(super) fn forget_all_lingering(&mut self) {
        let pools = std::mem::take(&mut self.lingering).apps;
        for pool in pools.keys() {
            self.replan(pool, Pace::OneByOne);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(pools: &[&str], apps: &[(&str, &str, &[&str])]) -> FleetSpec {
        let listener = json!({
            "address": {"tcp": "127.0.0.1:0"}, "pools": pools,
            "limits": skep_core::ConnectionLimits::default(),
        });
        let pool = json!({
            "workers": 1, "dispatch": "balanced", "user": null,
            "supervision": skep_core::SupervisionSettings::default(),
        });
        let apps = apps.iter().map(|(name, pool, routes)| {
            let app = json!({
                "component": "x", "tenant": "default", "pool": pool, "routes": routes,
                "strip_prefix": false, "limits": skep_core::AppLimits::default(),
                "instance": skep_core::InstancePolicy::default(), "env": [], "require": [],
                "config": {}, "validate": null, "outbound": [],
                "rollout": skep_core::RolloutSpec::default(),
            });
            ((*name).to_owned(), app)
        });
        let pools = pools.iter().map(|name| ((*name).to_owned(), pool.clone()));
        serde_json::from_value(json!({
            "generation": 1,
            "server": {
                "state_dir": "/", "log": {"format": "text", "level": "info"}, "alert": null,
                "sandbox": "best-effort",
            },
            "listeners": {"web": listener},
            "pools": pools.collect::<serde_json::Map<_, _>>(),
            "tenants": {},
            "apps": apps.collect::<serde_json::Map<_, _>>(),
        }))
        .unwrap()
    }

    fn lingers(before: &FleetSpec, next: &FleetSpec, pool: &str) -> Vec<(String, Vec<String>)> {
        let lingering = Lingering::between(before, next, |_| Some(HandlerId(1)));
        let mut apps = Vec::new();
        lingering.add_to(&PoolName::new(pool).unwrap(), &mut apps);
        apps.into_iter()
            .map(|app| {
                let routes = app.routes.iter().map(ToString::to_string);
                (app.app.to_string(), routes.collect())
            })
            .collect()
    }

    #[test]
    fn hosts_that_leave_a_pool_linger_there_and_paths_do_not() {
        let before = spec(
            &["a", "b"],
            &[
                ("moves", "a", &["m.example/x", "m.example/y"]),
                ("stays", "a", &["s.example/*", "t.example/*"]),
                ("other", "b", &["b.example/*"]),
            ],
        );
        let next = spec(
            &["a", "b"],
            &[
                ("moves", "b", &["m.example/x"]),
                ("stays", "a", &["s.example/other"]),
                ("other", "b", &["b.example/*"]),
            ],
        );
        assert_eq!(
            lingers(&before, &next, "a"),
            [
                (
                    "moves".to_owned(),
                    vec!["m.example/x".to_owned(), "m.example/y".to_owned()]
                ),
                ("stays".to_owned(), vec!["t.example/*".to_owned()]),
            ]
        );
        assert_eq!(lingers(&before, &next, "b"), []);
    }

    #[test]
    fn without_a_choice_of_pools_nothing_lingers() {
        let before = spec(&["a"], &[("gone", "a", &["m.example/*"])]);
        let next = spec(&["a"], &[]);
        assert_eq!(lingers(&before, &next, "a"), []);
    }
}
