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
mod admission;
mod alarm;
mod app;
#[cfg(feature = "attacker")]
mod attack;
mod budget;
mod connection;
mod counts;
mod date;
mod desk;
mod home;
mod http1;
mod http2;
mod ids;
mod inbound;
mod intake;
mod jail;
mod lifeline;
mod listeners;
mod load;
mod log;
mod news;
mod orders;
mod outbound;
mod pipe;
mod plan;
mod proving;
mod register;
mod reply;
mod rooms;
mod service;
mod shelf;
mod tenants;
mod ticker;
mod transport;
mod upload;
mod validate;
mod writing;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_core::{Moment, window_at};
use skep_engine::Tenants;
use skep_link::Link;
use skep_sys::{Channel, clock};
use skep_wire::{FromWorker, ToWorker};

use crate::alarm::BEAT;
use crate::desk::Desk;
use crate::orders::Orders;
use crate::outbound::Outlet;

/// Beats in which the counts of a handler become a turn older: a minute's.
const TURN: u32 = 120;

/// How long the primary may take to accept a message: workers serve on while
/// somebody holds it in a debugger; after this it counts as gone.
const PATIENCE: Duration = Duration::from_secs(60);

/// The channel to the primary.
type Primary = Link<ToWorker, FromWorker>;

/// Exit code of a worker that reported that it cannot serve.
const UNFIT: u8 = 78;

/// The whole life of a worker process. Called by the hidden role of the `skep`
/// binary, never by people.
#[must_use]
pub fn run() -> ExitCode {
    let _ = alarm::origin();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // What waits for the sockets waits from here on.
        .on_thread_park(skep_engine::sockets_are_looked_at)
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
    // Not started by skep, or without room for one more descriptor.
    let Ok(mut link) = Channel::inherited().and_then(Primary::new) else {
        return ExitCode::from(UNFIT);
    };
    let _ = skep_sys::process::raise_nofile_limit();
    let fit = match load::load(&mut link).await {
        Ok(fit) => fit,
        Err(error) => {
            // If the primary is gone there is nobody to tell.
            let message = format!("{error:#}");
            let unfit = FromWorker::Unfit { message };
            let _ = link.tell(&unfit, &[], Instant::now() + PATIENCE).await;
            return ExitCode::from(UNFIT);
        }
    };
    let desk = Arc::clone(&fit.desk);
    let now = clock::monotonic();
    desk.cell().beat(now);
    desk.open_window(window_at(Moment::after_origin(now)));
    desk.cell().set_ready(true);
    tokio::spawn(beat(desk, fit.loader.tenants(), fit.loader.outlet()));
    Orders::begin(fit, link).follow().await
}

async fn beat(desk: Arc<Desk>, tenants: Tenants, outlet: Arc<Outlet>) {
    // Timers of connections fire with these.
    let mut interval = tokio::time::interval_at(alarm::origin().into(), BEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut beats = 0_u32;
    loop {
        interval.tick().await;
        let now = clock::monotonic();
        desk.cell().beat(now);
        desk.open_window(window_at(Moment::after_origin(now)));
        let (made, idle) = {
            let shelf = desk.shelf();
            for valid in shelf.ready() {
                valid.handler.expire_idle();
                if beats == TURN {
                    valid.counts.turn();
                }
            }
            shelf.tell_use();
            shelf.instances()
        };
        outlet.expire_idle();
        #[cfg(feature = "attacker")]
        if beats == 1 {
            attack::make(&desk.log);
        }
        beats = if beats == TURN { 1 } else { beats + 1 };
        desk.cell()
            .set_instances(u32::try_from(idle).unwrap_or(u32::MAX));
        desk.cell().set_instantiations(made);
        desk.cell().set_guest_memory(tenants.guest_memory());
        desk.log.report_dropped();
    }
}
