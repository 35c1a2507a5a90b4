//! One app as the primary runs it: its revisions, the handlers that answer for
//! it, and its passage to another revision.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use skep_core::claims::Claim;
use skep_core::history::SavedHistory;
use skep_core::rollout::{Output, Rollout, Wanted};
use skep_core::{AppName, FleetSpec, HandlerId, Portion, Revision, Tally, WorkerId};
use skep_wire::HandlerTally;

use crate::artifacts::{Artifact, Digest};
use crate::catalog::Catalog;
use crate::control::Asker;
use crate::prepare::FirstApp;

/// What the old revision answers while both are compared.
const HALF: Portion = Portion::percent(50);

/// One app.
#[derive(Debug)]
pub(super) struct App {
    pub(super) saved: SavedHistory,
    /// The revision that `stable` is of.
    pub(super) revision: Revision,
    pub(super) artifact: Arc<Artifact>,
    /// These four are what its pool's next plan says.
    pub(super) stable: HandlerId,
    pub(super) canary: Option<(HandlerId, Portion)>,
    pub(super) standby: Option<HandlerId>,
    pub(super) observed: bool,
    /// Its way to another revision.
    pub(super) passage: Option<Passage>,
    /// Whether its first revision is still to be recorded as live.
    pub(super) unrecorded: bool,
    /// Why its stable handler is in quarantine, in some worker at least.
    pub(super) quarantine: Option<String>,
}

/// An app's way to another revision: what the rollout that decides it does not
/// need to know.
#[derive(Debug)]
pub(super) struct Passage {
    /// Unique in this primary: one that was called off early gives its
    /// revision's number to the next.
    pub(super) number: u64,
    pub(super) rollout: Rollout,
    pub(super) purpose: Purpose,
    pub(super) to: Revision,
    /// Where the component comes from.
    pub(super) source: PathBuf,
    pub(super) force: bool,
    /// What answered before, and answers again if this fails.
    pub(super) old: HandlerId,
    pub(super) old_artifact: Arc<Artifact>,
    /// Once it is known, also of one that is not rolled out.
    pub(super) component: Option<Digest>,
    /// Once there is an artifact.
    pub(super) new: Option<(HandlerId, Arc<Artifact>)>,
    /// What it needs for itself, until the revision is live or is a canary.
    pub(super) claim: Option<Claim>,
    /// The canary worker that tries it.
    pub(super) trial: Option<WorkerId>,
    pub(super) watch: Watch,
    /// Whether it reaches workers only as they are born.
    pub(super) by_birth: bool,
    /// Workers that have come along, as it was told last.
    pub(super) spread: Option<usize>,
    /// What is to be done once something is written down.
    pub(super) backlog: Option<Vec<Output>>,
    /// Who waits for its end.
    pub(super) asker: Option<Asker>,
    /// Who has ended it before its time and waits for that.
    pub(super) called_off: Vec<Asker>,
}

impl Passage {
    /// One that nobody waits for, to what is not there yet. `old` is what
    /// answers now, with its artifact.
    pub(super) fn new(
        number: u64,
        rollout: Rollout,
        purpose: Purpose,
        source: PathBuf,
        old: (HandlerId, Arc<Artifact>),
    ) -> Self {
        let order = rollout.order();
        let (to, force) = (order.to, order.force);
        let (old, old_artifact) = old;
        Self {
            number,
            rollout,
            purpose,
            to,
            source,
            force,
            old,
            old_artifact,
            component: None,
            new: None,
            claim: None,
            trial: None,
            watch: Watch::default(),
            by_birth: false,
            spread: None,
            backlog: None,
            asker: None,
            called_off: Vec::new(),
        }
    }
}

/// What a passage is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// A new revision.
    Deploy,
    /// A revision of before.
    Return,
    /// A revision that a reload has made live: it is only observed.
    Reload,
}

/// What the old and the new handler of a passage count.
#[derive(Debug, Default)]
pub(super) struct Watch {
    /// What each worker first said of a handler.
    first: BTreeMap<(HandlerId, WorkerId), HandlerTally>,
    /// What it said last.
    last: BTreeMap<(HandlerId, WorkerId), Tally>,
}

impl Watch {
    pub(super) fn note(&mut self, worker: WorkerId, tally: &HandlerTally) {
        let key = (tally.handler, worker);
        self.first.entry(key).or_insert_with(|| tally.clone());
        self.last.insert(key, tally.total.clone());
    }

    /// What all workers counted of a handler since the passage began, and in
    /// the minute or two before.
    pub(super) fn with_past(&self, handler: HandlerId) -> Tally {
        let mut sum = self.all(handler);
        let firsts = self.first.iter().filter(|((of, _), _)| *of == handler);
        for (_, first) in firsts {
            sum = sum.since(&first.total);
            sum.add(&first.recent);
        }
        sum
    }

    /// All that workers counted of a handler.
    pub(super) fn all(&self, handler: HandlerId) -> Tally {
        let mut sum = Tally::default();
        let lasts = self.last.iter().filter(|((of, _), _)| *of == handler);
        for (_, tally) in lasts {
            sum.add(tally);
        }
        sum
    }
}

impl App {
    pub(super) fn first(
        catalog: &mut Catalog,
        spec: &FleetSpec,
        name: &AppName,
        first: FirstApp,
    ) -> Self {
        let app = &spec.apps[name];
        let patience = spec.pools[&app.pool].supervision.start_timeout;
        let artifact = first.artifact;
        let stable = catalog.add(name, app, first.revision, Arc::clone(&artifact), patience);
        Self {
            saved: first.saved,
            revision: first.revision,
            artifact,
            stable,
            canary: None,
            standby: None,
            observed: false,
            passage: None,
            unrecorded: first.unrecorded,
            quarantine: None,
        }
    }

    /// Whether this is the component that it began with and that nobody has
    /// found valid yet.
    pub(super) fn is_untried(&self, artifact: &Artifact) -> bool {
        self.unrecorded && self.artifact.component == artifact.component
    }

    /// A revision answers for it from now on.
    pub(super) fn answer_with(
        &mut self,
        revision: Revision,
        handler: HandlerId,
        artifact: Arc<Artifact>,
    ) {
        self.revision = revision;
        self.stable = handler;
        self.artifact = artifact;
    }

    /// Its rollout wants these of its two handlers in the next plan.
    pub(super) fn want(&mut self, wanted: Wanted, old: HandlerId, new: HandlerId) {
        (self.stable, self.canary, self.standby) = match wanted {
            Wanted::Old => (old, None, None),
            Wanted::Canary(share) => (old, Some((new, share)), None),
            Wanted::New { standby_old } => (new, None, standby_old.then_some(old)),
            Wanted::Both => (new, Some((old, HALF)), None),
        };
        self.observed = match wanted {
            Wanted::Old => false,
            Wanted::Canary(_) | Wanted::Both => true,
            Wanted::New { standby_old } => standby_old,
        };
    }

    /// The handlers that must be kept for it.
    pub(super) fn handlers(&self) -> impl Iterator<Item = HandlerId> {
        let canary = self.canary.map(|(handler, _)| handler);
        let planned = [Some(self.stable), canary, self.standby];
        let passing = self.passage.iter().flat_map(|passage| {
            let new = passage.new.as_ref().map(|(handler, _)| *handler);
            [Some(passage.old), new].into_iter().flatten()
        });
        planned.into_iter().flatten().chain(passing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(handler: u64, total: u64, recent: u64) -> HandlerTally {
        let tally = |requests| Tally {
            requests,
            errors: 0,
            latency: vec![(5, requests)],
        };
        HandlerTally {
            handler: HandlerId(handler),
            total: tally(total),
            recent: tally(recent),
            outcomes: Vec::new(),
        }
    }

    #[test]
    fn the_old_revision_is_judged_by_now_and_just_before() {
        let mut watch = Watch::default();
        watch.note(WorkerId(1), &tally(7, 1000, 100));
        watch.note(WorkerId(2), &tally(7, 500, 50));
        watch.note(WorkerId(1), &tally(7, 1010, 110));
        watch.note(WorkerId(1), &tally(8, 30, 30));
        let old = watch.with_past(HandlerId(7));
        assert_eq!(old.requests, 160);
        assert_eq!(old.latency, [(5, 160)]);
        assert_eq!(watch.all(HandlerId(8)).requests, 30);
    }
}
