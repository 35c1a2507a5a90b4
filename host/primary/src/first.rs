//! What apps begin with when skep starts.

use std::path::Path;
use std::sync::Arc;

use skep_core::history::{AtStart, History};
use skep_core::{AppName, LogLevel};
use skep_wire::Refusal;

use crate::artifacts::{Artifact, Workshop};
use crate::fleet::FirstApp;
use crate::journal::Journal;
use crate::scribe::{Scribe, unix_millis};

/// An app whose component cannot be built, as it was when skep ended last, if it
/// was live then and its component was kept.
pub(crate) async fn last_app(
    workshop: &Workshop,
    scribe: &Scribe,
    name: &AppName,
) -> Option<FirstApp> {
    let history = scribe.read(name.clone()).await;
    let revision = history.active()?;
    let digest = history.get(revision)?.digest.clone();
    let artifact = workshop.make(scribe.component_path(&digest)?).await.ok()?;
    (artifact.component.to_string() == digest).then(|| FirstApp {
        recorded: history.clone(),
        history,
        revision,
        artifact,
        unrecorded: false,
    })
}

/// What an app begins with (DESIGN §7): a source that has changed since it was
/// read last is a new revision, otherwise the one that was active last goes on.
pub(crate) async fn first_app(
    workshop: &Workshop,
    scribe: &Scribe,
    journal: &Journal,
    name: &AppName,
    source: &Path,
    artifact: Arc<Artifact>,
) -> FirstApp {
    let recorded = scribe.read(name.clone()).await;
    let mut history = recorded.clone();
    let digest = artifact.component.to_string();
    let at = history.at_start(&digest, source.to_owned(), unix_millis());
    let first = |history: History, revision, artifact: Arc<Artifact>, unrecorded| FirstApp {
        recorded: recorded.clone(),
        history,
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
    let kept = active_digest.and_then(|digest| scribe.component_path(&digest));
    let made = match kept {
        Some(path) => workshop.make(path).await,
        None => Err(Refusal {
            problem: "its digest is none".to_owned(),
            hint: None,
        }),
    };
    let recorded_digest = history.get(active).map(|record| record.digest.clone());
    let made = made.and_then(|artifact| {
        if recorded_digest == Some(artifact.component.to_string()) {
            return Ok(artifact);
        }
        Err(Refusal {
            problem: "the component that was kept of it is not what it was".to_owned(),
            hint: None,
        })
    });
    match made {
        Ok(artifact) => first(history, active, artifact, unrecorded),
        Err(refusal) => {
            // Its source is at hand, and answering with it is better than not
            // to answer.
            journal.event(LogLevel::Error, "app.revision_lost", |line| {
                line.text("app", name.as_str())
                    .number("revision", active)
                    .text("reason", &refusal.problem)
            });
            let revision = history.begin(digest, source.to_owned(), unix_millis());
            first(history, revision, artifact, true)
        }
    }
}
