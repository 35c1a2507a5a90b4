//! The operator: runs skep's commands, and tells the traffic which revisions
//! may answer.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use skep_tests::Traffic;
use skep_wire::RevisionStatus;
use tokio::process::Command;
use tokio::time::timeout;

use super::schedule::{APP, Kind, POOL, configuration, size};
use crate::fleet::Fleet;

/// How long a command may take: a restart drains every worker.
const COMMAND: Duration = Duration::from_secs(120);

/// Who does it.
#[derive(Debug)]
pub(super) struct Operator<'a> {
    pub(super) program: PathBuf,
    pub(super) fleet: &'a Fleet,
    pub(super) traffic: &'a Traffic,
    /// What the configuration names.
    pub(super) component: PathBuf,
    pub(super) file: PathBuf,
    /// What is deployed in turn.
    pub(super) variants: [Variant; 2],
    pub(super) done: Vec<Done>,
}

/// A component under another digest.
#[derive(Clone, Debug)]
pub(super) struct Variant {
    pub(super) path: PathBuf,
    /// `sha256:…`
    pub(super) digest: String,
}

/// An operation that was done, or failed.
#[derive(Clone, Debug)]
pub(super) struct Done {
    pub(super) kind: Kind,
    /// When the command was begun.
    pub(super) start: Instant,
    /// When it had ended.
    pub(super) end: Instant,
    /// Whether it was the first with its component, which is compiled then.
    pub(super) compiles: bool,
    /// Why it failed.
    pub(super) failure: Option<String>,
}

impl Operator<'_> {
    /// Does one thing.
    ///
    /// # Errors
    ///
    /// The primary does not answer: there is nothing more to be done. A
    /// command that fails is told in [`Self::done`].
    pub(super) async fn perform(&mut self, kind: Kind) -> Result<()> {
        let earlier = self.done.iter().filter(|done| done.kind == kind).count();
        match kind {
            Kind::Swap => self.swap(earlier).await,
            Kind::Restart => self.keep(kind, vec!["restart".to_owned()]).await,
            Kind::Reload => {
                let reloads = u32::try_from(earlier).context("too many reloads")? + 1;
                fs::write(&self.file, configuration(&self.component, reloads))
                    .context("cannot write skep.toml")?;
                self.keep(kind, vec!["reload".to_owned()]).await
            }
            Kind::Scale => {
                let command = [
                    "scale".to_owned(),
                    POOL.to_owned(),
                    size(earlier).to_string(),
                ];
                self.keep(kind, command.into()).await
            }
        }
    }

    async fn swap(&mut self, earlier: usize) -> Result<()> {
        let variant = self.variants[earlier % self.variants.len()].clone();
        let before = self.fleet.history(APP).await?;
        // It becomes a new revision, or the one that had the same digest.
        let number = |known: &RevisionStatus| u64::from(known.revision.0);
        let newest = before.revisions.iter().map(number).max();
        let same = before
            .revisions
            .iter()
            .filter(|known| known.digest.as_ref() == Some(&variant.digest))
            .map(number);
        let expected: BTreeSet<u64> = same.chain([newest.unwrap_or(0) + 1]).collect();
        for revision in &expected {
            self.traffic.revisions().begin(*revision);
        }
        let path = variant.path.display().to_string();
        let command = ["deploy".to_owned(), APP.to_owned(), path];
        let mut done = self.command(Kind::Swap, &command).await?;
        done.compiles = earlier < self.variants.len();
        let active = self.active().await?;
        // The others were no more than possible.
        for revision in self.traffic.revisions().live() {
            if revision != active {
                self.traffic.revisions().end(revision);
            }
        }
        if done.failure.is_none() && !expected.contains(&active) {
            done.failure = Some(format!(
                "deploy succeeded, but revision {active} is active and not one of {expected:?}"
            ));
        }
        self.done.push(done);
        Ok(())
    }

    /// What must not change the revision.
    async fn keep(&mut self, kind: Kind, command: Vec<String>) -> Result<()> {
        let before = self.active().await?;
        let mut done = self.command(kind, &command).await?;
        let after = self.active().await?;
        if done.failure.is_none() && before != after {
            done.failure = Some(format!(
                "{kind} made revision {after} active instead of {before}"
            ));
        }
        self.done.push(done);
        Ok(())
    }

    /// The revision that answers.
    ///
    /// # Errors
    ///
    /// The primary does not answer, or there is none.
    pub(super) async fn active(&self) -> Result<u64> {
        let history = self.fleet.history(APP).await?;
        let active = history.active.context("no revision is active")?;
        Ok(active.0.into())
    }

    async fn command(&self, kind: Kind, arguments: &[String]) -> Result<Done> {
        let mut command = Command::new(&self.program);
        command
            .arg("--control")
            .arg(self.fleet.control())
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let start = Instant::now();
        let output = timeout(COMMAND, command.output()).await;
        let end = Instant::now();
        let failure = match output {
            Ok(output) => failure(&output.context("cannot run skep")?),
            Err(_) => Some(format!("did not end within {COMMAND:?}")),
        };
        let failure = failure.map(|why| format!("{}: {why}", arguments.join(" ")));
        if failure.is_some() {
            // A primary that is gone makes every further command fail.
            let alive = self.fleet.status().await;
            ensure!(
                alive.is_ok(),
                "{} and the primary is gone",
                failure.unwrap_or_default()
            );
        }
        Ok(Done {
            kind,
            start,
            end,
            compiles: false,
            failure,
        })
    }
}

/// What a command says that did not exit with 0.
fn failure(output: &Output) -> Option<String> {
    if output.status.success() {
        return None;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Some(format!("{}: {}", output.status, said.trim()))
}
