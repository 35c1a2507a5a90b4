//! Apps of the specification that have no handler at all: they served before, but
//! their component could not be built when skep started, nor what was kept of an
//! earlier revision. They are in quarantine: their routes answer 503, and the build is tried again by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use skep_core::converge::Pace;
use skep_core::{AppName, AppSpec, LogLevel, Moment, PlannedApp};
use skep_wire::ControlReply;

use super::app::App;
use super::operation::REFUSED;
use super::words::worded;
use super::{Fleet, now};
use crate::prepare::FirstApp;

/// The delay before a component is built again that could not be, which doubles
/// with every failure.
const FIRST_DELAY: Duration = Duration::from_secs(2);

/// The longest delay.
const LONGEST_DELAY: Duration = Duration::from_secs(60);

/// Why an app has no handler.
#[derive(Debug)]
pub(super) struct Unbuilt {
    pub(super) reason: String,
    failures: u32,
    /// When it is built again; `None` while that is under way.
    retry: Option<Moment>,
}

impl Fleet {
    /// Takes up apps that cannot be built, each with the reason.
    pub(super) fn begin_unbuilt(&mut self, reasons: BTreeMap<AppName, String>) {
        for (name, reason) in reasons {
            let retry = Some(now() + FIRST_DELAY);
            let unbuilt = Unbuilt {
                reason,
                failures: 1,
                retry,
            };
            self.unbuilt.insert(name, unbuilt);
        }
    }

    /// Says which apps have no handler.
    pub(super) fn tell_unbuilt(&self) {
        for (name, unbuilt) in &self.unbuilt {
            self.journal
                .event(LogLevel::Error, "app.quarantined", |line| {
                    line.text("app", name.as_str())
                        .text("step", "build")
                        .text("reason", &unbuilt.reason)
                });
        }
    }

    /// What the workers of its pool know of such an app: its routes.
    pub(super) fn planned_unbuilt(&self, name: &AppName, spec: &AppSpec) -> Option<PlannedApp> {
        self.unbuilt.get(name)?;
        Some(PlannedApp {
            app: name.clone(),
            tenant: spec.tenant.clone(),
            row: 0,
            routes: spec.routes.clone(),
            paused: false,
            stable: None,
            canary: None,
            standby: None,
            observed: false,
        })
    }

    /// Why nothing can be done with an app, if it is one of these.
    pub(super) fn is_unbuilt(&self, name: &str) -> Option<ControlReply> {
        let found = self.unbuilt.iter().find(|(app, _)| app.as_str() == name);
        let (name, unbuilt) = found?;
        Some(ControlReply::Refused {
            message: format!(
                "{name} is in quarantine: its component cannot be built: {}; it is tried again by \
                 itself, and at `skep reload`",
                unbuilt.reason
            ),
            code: REFUSED,
        })
    }

    /// Where their components are to be found.
    pub(super) fn unbuilt_components(&self) -> BTreeSet<PathBuf> {
        let specs = self
            .unbuilt
            .keys()
            .filter_map(|name| self.spec.apps.get(name));
        specs.map(|spec| spec.component.clone()).collect()
    }

    /// When one of them is built again.
    pub(super) fn unbuilt_deadline(&self) -> Option<Moment> {
        self.unbuilt
            .values()
            .filter_map(|unbuilt| unbuilt.retry)
            .min()
    }

    /// Builds those again whose delay is over.
    pub(super) fn build_unbuilt(&mut self) {
        let now = now();
        let mut due = Vec::new();
        for (name, unbuilt) in &mut self.unbuilt {
            let Some(spec) = self.spec.apps.get(name) else {
                continue;
            };
            if unbuilt.retry.is_none_or(|at| at > now) {
                continue;
            }
            unbuilt.retry = None;
            due.push((name.clone(), spec.component.clone()));
        }
        for (name, source) in due {
            let preparation = self.preparation();
            let work = async move {
                let first = preparation.retry(&name, &source).await;
                (name, first)
            };
            self.later(work, |fleet, (name, first)| match first {
                Ok(first) => fleet.built_at_last(&name, first),
                Err(refusal) => fleet.unbuilt_still(&name, worded(refusal)),
            });
        }
    }

    fn unbuilt_still(&mut self, name: &AppName, reason: String) {
        if let Some(unbuilt) = self.unbuilt.get_mut(name) {
            let doublings = unbuilt.failures.min(16);
            let delay = (FIRST_DELAY * (1 << doublings)).min(LONGEST_DELAY);
            unbuilt.failures = unbuilt.failures.saturating_add(1);
            unbuilt.retry = Some(now() + delay);
            unbuilt.reason = reason;
        }
    }

    /// The component of such an app could be built. The workers validate it like
    /// any other, and it is in quarantine until one of them has.
    fn built_at_last(&mut self, name: &AppName, first: FirstApp) {
        if self.is_reloading() {
            // That builds it as well.
            let reason = match self.unbuilt.get(name) {
                Some(unbuilt) => unbuilt.reason.clone(),
                None => return,
            };
            return self.unbuilt_still(name, reason);
        }
        let Some(spec) = self.spec.apps.get(name) else {
            return;
        };
        if self.unbuilt.remove(name).is_none() {
            return;
        }
        let pool = spec.pool.clone();
        let app = App::first(&mut self.catalog, &self.spec, name, first);
        self.apps.insert(name.clone(), app);
        self.quarantine(name, "it is validated");
        self.replan(&pool, Pace::AllAtOnce);
    }

    /// Forgets those that have a handler by now, or are not wanted any more.
    pub(super) fn forget_unbuilt(&mut self) {
        let (spec, apps) = (&self.spec, &self.apps);
        self.unbuilt
            .retain(|name, _| spec.apps.contains_key(name) && !apps.contains_key(name));
    }
}
