//! The plan that requests are routed by: routes, and for each app the handlers
//! that answer.
//!
//! Pure but for the counters of canaries. Generic over what a handler is, so
//! that it can be tried without one; in a worker it is [`Valid`], and nothing
//! else gets into a plan.
//!
//! [`Valid`]: crate::validate::Valid

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use skep_core::route::{DuplicateRoute, RouteTable};
use skep_core::{HandlerId, Outcome, Plan, Portion, TenantName};

use crate::budget::{Budget, Tenant};

/// A plan as requests meet it.
pub(crate) struct Serving<H> {
    /// Where an app is in `apps`, by its routes.
    routes: RouteTable<usize>,
    apps: Vec<Serves<H>>,
    tenants: BTreeMap<TenantName, Arc<Tenant>>,
    /// All handlers, those on standby included.
    handlers: Vec<H>,
    /// Where each of them is counted.
    rows: Vec<u32>,
    /// Those whose tallies are wanted several times a second.
    observed: Vec<H>,
}

/// Who answers a request.
pub(crate) struct Found<'a, H> {
    pub(crate) handler: &'a H,
    /// Bytes of the request's path that its route's prefix has.
    pub(crate) prefix: usize,
    /// What the app may do.
    pub(crate) budget: &'a Arc<Budget>,
}

/// Nobody answers a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unserved {
    pub(crate) outcome: Outcome,
    /// Where that is counted, if it is for an app.
    pub(crate) row: Option<u32>,
}

/// A plan cannot be served. A bug of the primary.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PlanError {
    #[error("plan {plan} names handler {handler}, which is not loaded")]
    Unknown { plan: u64, handler: HandlerId },
    #[error(transparent)]
    Routes(#[from] DuplicateRoute),
}

/// A handler that a plan names.
pub(crate) enum Loaded<H> {
    Valid(H),
    /// It could not be loaded or validated, or is not yet.
    Quarantined,
}

impl<H> Loaded<H> {
    fn valid(self) -> Option<H> {
        match self {
            Self::Valid(handler) => Some(handler),
            Self::Quarantined => None,
        }
    }
}

struct Serves<H> {
    budget: Arc<Budget>,
    paused: bool,
    /// None in quarantine.
    stable: Option<H>,
    canary: Option<(H, Arc<Canary>)>,
}

impl<H: Clone> Serving<H> {
    /// Serves nothing.
    pub(crate) fn nothing() -> Self {
        let never: [_; 0] = [];
        Self {
            routes: RouteTable::build(never).expect("no two routes are the same"),
            apps: Vec::new(),
            tenants: BTreeMap::new(),
            handlers: Vec::new(),
            rows: Vec::new(),
            observed: Vec::new(),
        }
    }

    /// Makes `plan` servable by the handlers that `find` finds. A canary that
    /// `before` had with the same share goes on where it was; one in quarantine
    /// gets nothing.
    pub(crate) fn new(
        plan: &Plan,
        before: &Self,
        find: impl Fn(HandlerId) -> Option<Loaded<H>>,
    ) -> Result<Self, PlanError> {
        let known = |handler| {
            let found = find(handler).ok_or(PlanError::Unknown {
                plan: plan.number,
                handler,
            })?;
            Ok::<_, PlanError>(found.valid())
        };
        let mut serving = Self::nothing();
        for planned in &plan.tenants {
            let before = before.tenants.get(&planned.tenant).map(Arc::as_ref);
            let tenant = Tenant::new(planned, plan.workers, before);
            serving.tenants.insert(planned.tenant.clone(), tenant);
        }
        let mut routes = Vec::new();
        for (index, planned) in plan.apps.iter().enumerate() {
            let handlers = planned.handlers().map(known);
            let handlers = handlers.filter_map(Result::transpose);
            let handlers = handlers.collect::<Result<Vec<_>, _>>()?;
            if planned.observed {
                serving.observed.extend(handlers.iter().cloned());
            }
            serving
                .rows
                .extend(std::iter::repeat_n(planned.row, handlers.len()));
            serving.handlers.extend(handlers);
            let tenant = serving.tenants.get(&planned.tenant).cloned();
            serving.apps.push(Serves {
                budget: Arc::new(Budget::new(planned.row, tenant)),
                paused: planned.paused,
                stable: match planned.stable {
                    Some(handler) => known(handler)?,
                    None => None,
                },
                canary: match planned.canary {
                    Some((handler, portion)) => {
                        let canary = before.canary(handler, portion);
                        known(handler)?.map(|handler| (handler, canary))
                    }
                    None => None,
                },
            });
            let patterns = planned.routes.iter().cloned();
            routes.extend(patterns.map(|pattern| (pattern, index)));
        }
        serving.routes = RouteTable::build(routes)?;
        Ok(serving)
    }

    /// Who answers a request, or why nobody does.
    pub(crate) fn route(&self, host: Option<&str>, path: &str) -> Result<Found<'_, H>, Unserved> {
        let found = self.routes.find(host, path).ok_or(Unserved {
            outcome: Outcome::NoRoute,
            row: None,
        })?;
        let app = &self.apps[*found.target];
        if app.paused {
            return Err(Unserved {
                outcome: Outcome::Tripped,
                row: Some(app.budget.row()),
            });
        }
        let handler = match &app.canary {
            Some((handler, canary)) if canary.next() => handler,
            _ => app.stable.as_ref().ok_or_else(|| Unserved {
                outcome: Outcome::Quarantined,
                row: Some(app.budget.row()),
            })?,
        };
        Ok(Found {
            handler,
            prefix: found.prefix,
            budget: &app.budget,
        })
    }

    /// Whether a route names exactly this host.
    pub(crate) fn names(&self, host: &str) -> bool {
        self.routes.names(host)
    }

    pub(crate) fn handlers(&self) -> &[H] {
        &self.handlers
    }

    /// All handlers, each with the row in which it is counted.
    pub(crate) fn rows(&self) -> impl Iterator<Item = (&H, u32)> {
        self.handlers.iter().zip(self.rows.iter().copied())
    }

    pub(crate) fn observed(&self) -> &[H] {
        &self.observed
    }

    /// The stable handler of each app.
    pub(crate) fn stable(&self) -> impl Iterator<Item = &H> {
        self.apps.iter().filter_map(|app| app.stable.as_ref())
    }

    fn canary(&self, handler: HandlerId, portion: Portion) -> Arc<Canary> {
        let same = |canary: &&Arc<Canary>| canary.handler == handler && canary.portion == portion;
        self.apps
            .iter()
            .filter_map(|app| app.canary.as_ref().map(|(_, canary)| canary))
            .find(same)
            .map_or_else(|| Arc::new(Canary::new(handler, portion)), Arc::clone)
    }
}

/// Which requests a canary gets: its share of them, spread evenly, and never
/// off by more than one request (error diffusion).
struct Canary {
    handler: HandlerId,
    portion: Portion,
    seen: AtomicU64,
}

impl Canary {
    fn new(handler: HandlerId, portion: Portion) -> Self {
        Self {
            handler,
            portion: portion.min(Portion::ALL),
            seen: AtomicU64::new(0),
        }
    }

    /// Whether the next request is the canary's.
    fn next(&self) -> bool {
        let seen = self.seen.fetch_add(1, Relaxed);
        self.due(seen.wrapping_add(1)) != self.due(seen)
    }

    /// How many of the first `seen` requests are the canary's: the share of
    /// them, rounded to the nearest.
    fn due(&self, seen: u64) -> u128 {
        let all = u128::from(Portion::ALL.0);
        (u128::from(seen) * u128::from(self.portion.0) + all / 2) / all
    }
}

#[cfg(test)]
mod tests {
    use skep_core::{AppName, PlannedApp, TenantName};

    use super::*;

    fn planned(app: &str, route: &str, stable: u64) -> PlannedApp {
        PlannedApp {
            app: AppName::new(app).unwrap(),
            tenant: TenantName::new("t").unwrap(),
            row: 40 + u32::try_from(stable).unwrap(),
            routes: vec![route.parse().unwrap()],
            paused: false,
            stable: Some(HandlerId(stable)),
            canary: None,
            standby: None,
            observed: false,
        }
    }

    fn plan(number: u64, apps: Vec<PlannedApp>) -> Plan {
        Plan {
            number,
            apps,
            ..Plan::default()
        }
    }

    /// Handlers below 100 are loaded, and those below 200 in quarantine.
    fn find(handler: HandlerId) -> Option<Loaded<u64>> {
        match handler.0 {
            ..100 => Some(Loaded::Valid(handler.0)),
            100..200 => Some(Loaded::Quarantined),
            _ => None,
        }
    }

    fn who(serving: &Serving<u64>, path: &str) -> Result<(u64, usize), Outcome> {
        let found = serving.route(None, path);
        let found = found.map_err(|unserved| unserved.outcome)?;
        Ok((*found.handler, found.prefix))
    }

    fn serving(plan: &Plan, before: &Serving<u64>) -> Serving<u64> {
        Serving::new(plan, before, find).ok().unwrap()
    }

    #[test]
    fn a_plan_takes_the_place_of_the_one_before() {
        let nothing = Serving::nothing();
        assert_eq!(who(&nothing, "/"), Err(Outcome::NoRoute));

        let mut other = planned("b", "/b/*", 2);
        let one = serving(
            &plan(1, vec![planned("a", "/*", 1), other.clone()]),
            &nothing,
        );
        assert_eq!(who(&one, "/"), Ok((1, 0)));
        assert_eq!(who(&one, "/b/c"), Ok((2, 2)));
        assert!(one.observed().is_empty());

        other.paused = true;
        let mut swapped = planned("a", "/*", 3);
        swapped.standby = Some(HandlerId(1));
        swapped.observed = true;
        let two = serving(&plan(2, vec![swapped, other]), &one);
        assert_eq!(who(&two, "/"), Ok((3, 0)));
        assert_eq!(who(&two, "/b/c"), Err(Outcome::Tripped));
        // It is its app's, unlike one that no app has a route for.
        let row = |path| two.route(None, path).err().unwrap().row;
        assert_eq!(row("/b/c"), Some(42));
        let rows: Vec<_> = two.rows().map(|(handler, row)| (*handler, row)).collect();
        assert_eq!(rows, [(3, 43), (1, 43), (2, 42)]);
        assert_eq!(two.handlers(), [3, 1, 2]);
        assert_eq!(two.observed(), [3, 1]);
        assert_eq!(two.stable().copied().collect::<Vec<_>>(), [3, 2]);

        let three = serving(&plan(3, vec![planned("b", "/b/*", 2)]), &two);
        assert_eq!(who(&three, "/"), Err(Outcome::NoRoute));
        assert_eq!(who(&three, "/b/c"), Ok((2, 2)));
    }

    #[test]
    fn plans_that_cannot_be_served_are_told() {
        let nothing = Serving::nothing();
        let unknown = plan(4, vec![planned("a", "/*", 200)]);
        let error = Serving::new(&unknown, &nothing, find).err().unwrap();
        assert_eq!(
            error.to_string(),
            "plan 4 names handler 200, which is not loaded"
        );
        let twice = plan(5, vec![planned("a", "/x", 1), planned("b", "/x", 2)]);
        assert!(matches!(
            Serving::new(&twice, &nothing, find).err(),
            Some(PlanError::Routes(_))
        ));
    }

    #[test]
    fn what_is_in_quarantine_answers_nothing_and_its_neighbours_do() {
        let mut half = planned("c", "/c", 2);
        half.canary = Some((HandlerId(100), Portion::ALL));
        half.standby = Some(HandlerId(101));
        half.observed = true;
        let apps = vec![planned("a", "/a", 1), planned("b", "/b", 100), half];
        let one = serving(&plan(1, apps), &Serving::nothing());
        assert_eq!(who(&one, "/a"), Ok((1, 0)));
        assert_eq!(who(&one, "/b"), Err(Outcome::Quarantined));
        assert_eq!(
            who(&one, "/c"),
            Ok((2, 0)),
            "a canary that is there gets some"
        );
        assert_eq!(one.handlers(), [1, 2]);
        assert_eq!(one.observed(), [2]);
        assert_eq!(one.stable().copied().collect::<Vec<_>>(), [1, 2]);
    }

    fn with_canary(number: u64, portion: u32) -> Plan {
        let mut app = planned("a", "/*", 1);
        app.canary = Some((HandlerId(2), Portion(portion)));
        plan(number, vec![app])
    }

    #[test]
    fn a_canary_gets_its_share_exactly_at_every_moment() {
        for portion in [
            0, 1, 3, 100, 333, 1000, 1250, 3333, 5000, 9999, 10_000, 16_000,
        ] {
            let serving = serving(&with_canary(1, portion), &Serving::nothing());
            let mut canaries = 0_i64;
            for seen in 1..=10_000_i64 {
                match who(&serving, "/") {
                    Ok((2, _)) => canaries += 1,
                    Ok((1, _)) => {}
                    other => panic!("{other:?}"),
                }
                let due = seen * i64::from(portion.min(10_000));
                let off = (canaries * 10_000 - due).abs();
                assert!(off <= 10_000, "{portion}: {canaries} of {seen}");
            }
            assert_eq!(canaries, i64::from(portion.min(10_000)));
        }
    }

    #[test]
    fn a_canary_goes_on_where_it_was_when_others_change() {
        let mut before = serving(&with_canary(1, 1000), &Serving::nothing());
        let mut canaries = 0;
        for number in 0..10_000 {
            canaries += usize::from(who(&before, "/") == Ok((2, 0)));
            if number % 7 == 0 {
                before = serving(&with_canary(number, 1000), &before);
            }
        }
        assert_eq!(canaries, 1000);
        // Another share begins anew.
        let more = serving(&with_canary(1, 5000), &before);
        assert_eq!(who(&more, "/"), Ok((2, 0)));
        assert_eq!(who(&more, "/"), Ok((1, 0)));
    }
}
