//! What operators change about a running fleet with one request: `promote`,
//! `rollback`, `reload`, `restart`, `scale`, `rotate`, `reset`, `pause` and
//! `resume`. The primary decides and does it; here it is asked, waited for,
//! and quoted.

use std::sync::Arc;

use skep_primary::{Client, ClientError};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::Operation;
use crate::control::Control;
use crate::exit::{Exit, Failure};
use crate::print::Printer;
use crate::progress::{EVERY, Progress};

/// What the user is told where the primary is silent about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Words {
    /// What was done.
    pub(super) done: String,
    /// What goes on when nobody waits for it any more.
    pub(super) goes_on: String,
    /// How to follow it or to undo it.
    pub(super) then: String,
}

/// Does it, and waits until it is done.
pub(super) async fn run(
    control: &Control,
    operation: Operation,
    printer: Printer,
) -> Result<(), Failure> {
    let words = words(&operation);
    let ask = move |client: &mut Client, progress: &Progress| {
        request(client, operation, |said| progress.step(said))
    };
    wait(control, &words, printer, ask).await
}

/// Waits for an answer or for a signal, which ends the waiting and not what is
/// waited for.
pub(super) async fn wait(
    control: &Control,
    words: &Words,
    printer: Printer,
    ask: impl FnOnce(&mut Client, &Progress) -> Result<Option<String>, ClientError> + Send + 'static,
) -> Result<(), Failure> {
    let progress = Arc::new(Progress::new(printer));
    let told = Arc::clone(&progress);
    let answer = control.ask(move |client| ask(client, &told));
    let watched = async {
        let mut ticks = tokio::time::interval(EVERY);
        loop {
            ticks.tick().await;
            progress.tick();
        }
    };
    tokio::select! {
        answer = answer => {
            progress.end();
            let said = answer.map_err(|error| control.failed(error))?;
            printer.note(said.as_deref().unwrap_or(&words.done));
            Ok(())
        }
        () = watched => Ok(()),
        interrupted = interrupted() => {
            progress.end();
            interrupted?;
            Err(Failure::new(Exit::Failed, format!("interrupted; {}", words.goes_on))
                .hint(words.then.clone()))
        }
    }
}

/// Waits for the user to lose patience.
pub(super) async fn interrupted() -> Result<(), Failure> {
    let on = |kind| {
        signal(kind).map_err(|error| {
            Failure::new(Exit::Failed, format!("cannot listen to signals: {error}"))
        })
    };
    let (mut interrupt, mut terminate) =
        (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

fn request(
    client: &mut Client,
    operation: Operation,
    on_progress: impl FnMut(&str),
) -> Result<Option<String>, ClientError> {
    match operation {
        Operation::Promote { app } => client.promote(&app, on_progress),
        Operation::Rollback { app, revision } => client.rollback(&app, revision, on_progress),
        Operation::Reload => client.reload(on_progress),
        Operation::Restart { pool } => client.restart(pool.as_deref(), on_progress),
        Operation::Scale { pool, workers } => client.scale(&pool, workers, on_progress),
        Operation::Rotate { worker } => client.rotate(worker, on_progress),
        Operation::Reset { target } => client.reset(&target),
        Operation::Pause { app } => client.pause(&app),
        Operation::Resume { app } => client.resume(&app),
    }
}

fn words(operation: &Operation) -> Words {
    let (done, what) = match operation {
        Operation::Promote { app } => (
            format!("app {app} is promoted"),
            format!("the promotion of {app}"),
        ),
        Operation::Rollback {
            app,
            revision: Some(revision),
        } => (
            format!("app {app} is back at revision {revision}"),
            format!("the rollback of {app}"),
        ),
        Operation::Rollback { app, .. } => (
            format!("app {app} is rolled back"),
            format!("the rollback of {app}"),
        ),
        Operation::Reload => ("reloaded".to_owned(), "the reload".to_owned()),
        Operation::Restart { pool: Some(pool) } => (
            format!("pool {pool} is restarted"),
            format!("the restart of pool {pool}"),
        ),
        Operation::Restart { pool: None } => ("restarted".to_owned(), "the restart".to_owned()),
        Operation::Scale { pool, workers } => (
            format!("pool {pool} is at {workers}"),
            format!("the scaling of pool {pool}"),
        ),
        Operation::Rotate { worker } => (
            format!("worker {worker} is replaced"),
            format!("the replacement of worker {worker}"),
        ),
        Operation::Reset { target } => (
            format!("{target} is reset"),
            format!("the reset of {target}"),
        ),
        Operation::Pause { app } => (
            format!("app {app} is paused"),
            format!("the pause of {app}"),
        ),
        Operation::Resume { app } => (
            format!("app {app} is resumed"),
            format!("the resumption of {app}"),
        ),
    };
    Words {
        done,
        goes_on: format!("{what} goes on in the primary"),
        then: "`skep status` follows it".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operation_has_words_of_its_own() {
        let said = words(&Operation::Rollback {
            app: "hello".into(),
            revision: Some(skep_core::Revision(3)),
        });
        assert_eq!(
            said,
            Words {
                done: "app hello is back at revision 3".into(),
                goes_on: "the rollback of hello goes on in the primary".into(),
                then: "`skep status` follows it".into(),
            }
        );
        let scale = Operation::Scale {
            pool: "default".into(),
            workers: 4,
        };
        assert_eq!(words(&scale).done, "pool default is at 4");
    }
}
