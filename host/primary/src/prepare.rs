//! What a generation needs of the disk: its components, built and kept, and the
//! revisions that its apps begin with. Nothing of it changes what serves.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;

use skep_core::history::{AtStart, History, SavedHistory};
use skep_core::{AppName, FleetSpec, LogLevel, PoolName, Revision};
use skep_wire::Refusal;

use crate::artifacts::{Artifact, Artifacts, Digest, Made, Workshop, components_of};
use crate::fleet::worded;
use crate::journal::Journal;
use crate::rejection::{Rejection, Unservable};
use crate::scribe::{Scribe, unix_millis};
use crate::shelf::{Folder, Shelf};

/// Where generations are prepared.
#[derive(Clone, Debug)]
pub(crate) struct Preparation {
    pub(crate) workshop: Arc<Workshop>,
    pub(crate) scribe: Scribe,
    pub(crate) shelf: Shelf,
    pub(crate) journal: Journal,
}

/// Of which apps the component may be missing.
#[derive(Clone, Debug)]
pub(crate) enum Excused {
    /// At a start: of those that were live before. They keep nobody else from
    /// serving; one that never was is a mistake in the configuration.
    LiveBefore,
    /// At a reload: of those that have no handler anyway.
    Unbuilt(BTreeSet<AppName>),
}

/// What there is for a generation.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// Of apps that have a handler: what their source is now.
    pub(crate) artifacts: Artifacts,
    /// What the others begin with.
    pub(crate) first: BTreeMap<AppName, FirstApp>,
    /// Apps whose component cannot be built, and why.
    pub(crate) unbuilt: BTreeMap<AppName, String>,
    /// The folders of pools that are new.
    pub(crate) folders: BTreeMap<PoolName, Folder>,
}

/// What an app begins with.
#[derive(Debug)]
pub(crate) struct FirstApp {
    /// Its revisions.
    pub(crate) saved: SavedHistory,
    /// The revision that it begins with.
    pub(crate) revision: Revision,
    /// That revision's artifact.
    pub(crate) artifact: Arc<Artifact>,
    /// Whether the history must be written down once the app serves.
    pub(crate) unrecorded: bool,
}

impl Preparation {
    /// Builds and keeps what a generation needs. `new` are its apps that have no
    /// handler yet, `pools` its pools that have no folder.
    ///
    /// # Errors
    ///
    /// Components that cannot be served and are not `excused`, or kept.
    pub(crate) async fn prepare(
        &self,
        spec: &FleetSpec,
        new: &BTreeSet<AppName>,
        pools: &[PoolName],
        excused: &Excused,
    ) -> Result<Prepared, Rejection> {
        let Made { artifacts, refused } = self.workshop.make_all(&components_of(spec)).await;
        let mut prepared = Prepared::default();
        self.excuse(spec, refused, excused, &mut prepared).await?;
        for (name, artifact) in artifacts {
            let source = &spec.apps[&name].component;
            let digest = artifact.component;
            if !new.contains(&name) {
                self.keep(&name, source, digest, excused).await?;
                prepared.artifacts.insert(name, artifact);
                continue;
            }
            let app = self.first_app(&name, source, artifact).await;
            if app.artifact.component == digest {
                self.keep(&name, source, digest, excused).await?;
            }
            prepared.first.insert(name, app);
        }
        for pool in pools {
            let folder = self.shelf.folder(pool).await;
            let folder = folder.map_err(|source| Rejection::System {
                doing: format!("make a folder for pool {pool}"),
                source,
            })?;
            prepared.folders.insert(pool.clone(), folder);
        }
        Ok(prepared)
    }

    /// What an app begins with whose component could not be built before, if it can
    /// be now.
    ///
    /// # Errors
    ///
    /// It still cannot be, or not be kept.
    pub(crate) async fn retry(&self, name: &AppName, source: &Path) -> Result<FirstApp, Refusal> {
        let artifact = self.workshop.make(source.to_owned()).await?;
        let digest = artifact.component;
        let app = self.first_app(name, source, artifact).await;
        let kept = self.scribe.keep(source.to_owned(), digest).await;
        kept.map_err(|problem| Refusal {
            problem,
            hint: None,
        })?;
        Ok(app)
    }

    /// Sees what there is instead of components that cannot be built.
    async fn excuse(
        &self,
        spec: &FleetSpec,
        refused: BTreeMap<AppName, Refusal>,
        excused: &Excused,
        prepared: &mut Prepared,
    ) -> Result<(), Rejection> {
        let mut unservable = BTreeMap::new();
        for (name, refusal) in refused {
            let history = match excused {
                // It stays as it is.
                Excused::Unbuilt(apps) if apps.contains(&name) => continue,
                Excused::Unbuilt(_) => None,
                Excused::LiveBefore => Some(self.scribe.read(name.clone()).await),
            };
            let Some(history) = history.filter(|history| history.active().is_some()) else {
                let component = spec.apps[&name].component.clone();
                unservable.insert(name, Unservable { component, refusal });
                continue;
            };
            match self.last_app(history).await {
                Some(app) => {
                    let (revision, reason) = (app.revision, worded(refusal));
                    self.journal.event(LogLevel::Error, "app.rejected", |line| {
                        line.text("app", name.as_str())
                            .text("step", "build")
                            .text("reason", &reason)
                            .text("serving", &format!("revision {revision}"))
                    });
                    prepared.first.insert(name, app);
                }
                None => drop(prepared.unbuilt.insert(name, worded(refusal))),
            }
        }
        if unservable.is_empty() {
            Ok(())
        } else {
            Err(Rejection::Components(unservable))
        }
    }

    /// Keeps a component, so that whatever happens to its file, what is served can
    /// be served again.
    async fn keep(
        &self,
        name: &AppName,
        source: &Path,
        digest: Digest,
        excused: &Excused,
    ) -> Result<(), Rejection> {
        let kept = self.scribe.keep(source.to_owned(), digest).await;
        let (Err(reason), Excused::LiveBefore) = (&kept, excused) else {
            return kept.map_err(|reason| Rejection::System {
                doing: format!("record app {name}"),
                source: io::Error::other(reason),
            });
        };
        // It serves; only a later return to it needs its source then.
        self.journal
            .event(LogLevel::Error, "component.unkept", |line| {
                line.text("app", name.as_str()).text("reason", reason)
            });
        Ok(())
    }

    /// An app whose component cannot be built, as it was when it served last, if
    /// its component was kept.
    async fn last_app(&self, history: History) -> Option<FirstApp> {
        let revision = history.active()?;
        let digest = history.get(revision)?.digest.clone();
        let kept = self.scribe.component_path(&digest)?;
        let artifact = self.workshop.make(kept).await.ok()?;
        (artifact.component.to_string() == digest).then(|| FirstApp {
            saved: SavedHistory::new(history.clone(), history),
            revision,
            artifact,
            unrecorded: false,
        })
    }

    /// What an app begins with (DESIGN §7): a source that has changed since it was
    /// read last is a new revision, otherwise the one that was active last goes on.
    async fn first_app(&self, name: &AppName, source: &Path, artifact: Arc<Artifact>) -> FirstApp {
        let recorded = self.scribe.read(name.clone()).await;
        let mut history = recorded.clone();
        let digest = artifact.component.to_string();
        let at = history.at_start(&digest, source.to_owned(), unix_millis());
        let first = |history: History, revision, artifact: Arc<Artifact>, unrecorded| FirstApp {
            saved: SavedHistory::new(recorded.clone(), history),
            revision,
            artifact,
            unrecorded,
        };
        let active = match at {
            AtStart::New(revision) => return first(history, revision, artifact, true),
            AtStart::Active(active) | AtStart::Refused { active, .. } => active,
        };
        let unrecorded = history != recorded;
        let active_digest = history.get(active).map(|record| record.digest.clone());
        if active_digest.as_ref() == Some(&digest) {
            return first(history, active, artifact, unrecorded);
        }
        match self.kept(active_digest.as_deref()).await {
            Ok(artifact) => first(history, active, artifact, unrecorded),
            Err(refusal) => {
                // Its source is at hand, and answering with it is better than not
                // to answer.
                self.journal
                    .event(LogLevel::Error, "app.revision_lost", |line| {
                        line.text("app", name.as_str())
                            .number("revision", active)
                            .text("reason", &refusal.problem)
                    });
                let revision = history.begin(digest, source.to_owned(), unix_millis());
                first(history, revision, artifact, true)
            }
        }
    }

    /// The artifact of a component that was kept.
    async fn kept(&self, digest: Option<&str>) -> Result<Arc<Artifact>, Refusal> {
        let refusal = |problem: &str| Refusal {
            problem: problem.to_owned(),
            hint: None,
        };
        let path = digest.and_then(|digest| self.scribe.component_path(digest));
        let path = path.ok_or_else(|| refusal("its digest is none"))?;
        let artifact = self.workshop.make(path).await?;
        if digest == Some(artifact.component.to_string().as_str()) {
            return Ok(artifact);
        }
        Err(refusal(
            "the component that was kept of it is not what it was",
        ))
    }
}
