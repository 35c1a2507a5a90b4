//! The worker process: accept, HTTP, route, admit, call, drain.
//!
//! A worker is single-threaded: guests, sockets and timers share one event
//! loop, and a guest that computes yields to it every millisecond. It learns
//! everything from the primary over its channel (who it is, what it serves,
//! the sockets, the artifacts) and reads neither files, configuration nor
//! environment. What it knows about itself it writes into its cell of the
//! scoreboard, which costs no message and no lock.
//!
//! Not here: wasmtime (`engine`), system calls (`sys`), decisions about
//! processes (`core`, driven by `primary`).
#![deny(unsafe_code)]

mod accept;
mod account;
mod app;
mod connection;
mod desk;
mod inbound;
mod link;
mod load;
mod log;
mod reply;
mod service;
mod socket;
mod strict;
mod target;
mod ticker;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use skep_core::LogLevel;
use skep_sys::clock;
use skep_wire::{FromWorker, ToWorker};

use crate::desk::Desk;
use crate::link::Link;
use crate::load::Unfit;

/// How often a worker beats and looks after its idle instances.
const BEAT: Duration = Duration::from_millis(500);

/// How long a worker that has lost its primary finishes requests before it
/// leaves: nobody is there to hurry it.
const ORPHAN_DRAIN: Duration = Duration::from_secs(30);

/// Exit code of a worker that reported that it cannot serve.
const UNFIT: u8 = 78;

/// The whole life of a worker process. Called by the hidden role of the `skep`
/// binary, never by people.
#[must_use]
pub fn run() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return ExitCode::from(UNFIT);
    };
    let code = runtime.block_on(work());
    // Whatever still runs is cut; its sockets close with the process.
    runtime.shutdown_background();
    code
}

async fn work() -> ExitCode {
    let Ok(mut link) = Link::inherited() else {
        return ExitCode::from(UNFIT);
    };
    let _ = skep_sys::process::raise_nofile_limit();
    let fit = match load::load(&mut link).await {
        Ok(fit) => fit,
        Err(Unfit { app, message }) => {
            // If the primary is gone there is nobody to tell.
            let _ = link.tell(&FromWorker::Unfit { app, message }).await;
            return ExitCode::from(UNFIT);
        }
    };
    let desk = fit.desk;
    desk.cell().beat(clock::monotonic());
    desk.cell().set_ready(true);
    for (socket, limits) in fit.listeners {
        tokio::spawn(accept::accept(Arc::clone(&desk), socket, limits));
    }
    tokio::spawn(beat(Arc::clone(&desk)));
    if link.tell(&FromWorker::Ready).await.is_err() {
        return leave(&desk, "the primary has gone").await;
    }
    serve(&desk, &mut link).await
}

/// Serves until told otherwise.
async fn serve(desk: &Arc<Desk>, link: &mut Link) -> ExitCode {
    loop {
        match link.next().await {
            Ok(Some((ToWorker::Drain, _))) => break,
            Ok(Some((ToWorker::Stop, _))) => return ExitCode::SUCCESS,
            Ok(Some(_)) => {}
            Ok(None) => return leave(desk, "the primary has gone").await,
            Err(error) => return leave(desk, &format!("{error:#}")).await,
        }
    }
    desk.drain();
    tokio::select! {
        () = desk.all_quiet() => {
            let _ = link.tell(&FromWorker::Drained).await;
            ExitCode::SUCCESS
        }
        // Told to hurry, or left alone with a drain that nobody will end.
        () = hurried(link) => ExitCode::SUCCESS,
    }
}

/// Ends at a `stop`; an orphan drains for as long as it may.
async fn hurried(link: &mut Link) {
    loop {
        match link.next().await {
            Ok(Some((ToWorker::Stop, _))) => return,
            Ok(Some(_)) => {}
            Ok(None) | Err(_) => {
                tokio::time::sleep(ORPHAN_DRAIN).await;
                return;
            }
        }
    }
}

/// Without a primary: accepts nothing more, finishes, and leaves no orphan.
async fn leave(desk: &Arc<Desk>, reason: &str) -> ExitCode {
    if let Some(record) = desk.log.record(LogLevel::Warn, "worker.orphaned") {
        desk.log.write(record.text("reason", reason));
    }
    desk.drain();
    let _ = tokio::time::timeout(ORPHAN_DRAIN, desk.all_quiet()).await;
    ExitCode::SUCCESS
}

async fn beat(desk: Arc<Desk>) {
    let mut interval = tokio::time::interval(BEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        desk.cell().beat(clock::monotonic());
        let (mut instances, mut made) = (0_usize, 0);
        for app in desk.apps() {
            app.handler.expire_idle();
            let counts = app.handler.instances();
            instances += counts.idle;
            made += counts.made;
        }
        desk.cell()
            .set_instances(u32::try_from(instances).unwrap_or(u32::MAX));
        desk.cell().set_instantiations(made);
        desk.log.report_dropped();
    }
}
