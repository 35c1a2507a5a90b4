//! Becoming a worker: from the primary's first message to validated handlers.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use skep_core::route::{RoutePattern, RouteTable};
use skep_core::{AppName, ConnectionLimits, PoolName, SlotIndex, WorkerId};
use skep_engine::{Capacity, Clock, Flavor, GuestLog, Handler, HandlerSetup, Runtime};
use skep_sys::Board;
use skep_wire::{LoadApp, ToWorker};

use crate::app::{Admission, App};
use crate::desk::Desk;
use crate::link::Link;
use crate::log::{AppLog, Log};
use crate::ticker;

/// Most instances that one worker holds, whatever its apps allow: each
/// reserves 4 GiB of address space, of which a process has 128 TiB.
const MAX_INSTANCES: u32 = 2000;

/// Fewest, so that an app with a small share can still be tried out.
const MIN_INSTANCES: u32 = 16;

/// Why a worker cannot serve.
pub(crate) struct Unfit {
    pub(crate) app: Option<AppName>,
    pub(crate) message: String,
}

impl From<anyhow::Error> for Unfit {
    fn from(error: anyhow::Error) -> Self {
        Self {
            app: None,
            message: format!("{error:#}"),
        }
    }
}

/// A worker whose handlers are loaded and valid: what serving needs, and the
/// proof that it may begin.
pub(crate) struct Fit {
    pub(crate) desk: Arc<Desk>,
    pub(crate) listeners: Vec<(OwnedFd, ConnectionLimits)>,
}

struct Identity {
    worker: WorkerId,
    pool: PoolName,
    slot: SlotIndex,
    workers: u16,
}

/// Listens to the primary until everything is loaded.
pub(crate) async fn load(link: &mut Link) -> Result<Fit, Unfit> {
    let Some((message, fds)) = link.next().await? else {
        return Err(anyhow::anyhow!("the primary has gone").into());
    };
    let ToWorker::Begin {
        worker,
        pool,
        slot,
        cell,
        workers,
        log,
        listeners,
        apps,
        ..
    } = message
    else {
        return Err(anyhow::anyhow!("the first message was not `begin`").into());
    };
    let mut fds = fds.into_iter();
    let board = fds.next().context("no scoreboard came")?;
    let board = Board::open(board).context("the scoreboard is none")?;
    if board.cell(cell).is_none() {
        return Err(anyhow::anyhow!("the scoreboard has no cell {cell}").into());
    }
    let listeners: Vec<_> = fds
        .zip(listeners)
        .map(|(socket, role)| (socket, role.limits))
        .collect();

    let identity = Identity {
        worker,
        pool,
        slot,
        workers,
    };
    let log = Log::new(log, worker);
    let loads = receive(link, apps).await?;
    let runtime = Runtime::start(
        capacity(&loads, workers),
        Clock {
            thread_cpu: skep_sys::clock::thread_cpu,
        },
    );
    let mut routes: Vec<(RoutePattern, Arc<App>)> = Vec::new();
    let mut apps = Vec::new();
    for (load, artifact) in loads {
        let patterns = load.routes.clone();
        let name = load.app.clone();
        let app = load_app(runtime, &identity, &log, *load, &artifact).map_err(|error| Unfit {
            app: Some(name),
            message: format!("{error:#}"),
        })?;
        let app = Arc::new(app);
        apps.push(Arc::clone(&app));
        routes.extend(patterns.into_iter().map(|route| (route, Arc::clone(&app))));
    }
    let routes = RouteTable::build(routes)
        .context("the routes cannot be told apart")
        .map_err(Unfit::from)?;
    let ticker = ticker::start().context("no timer for guests")?;
    let desk = Arc::new(Desk::new(board, cell, ticker, (apps, routes), log));
    Ok(Fit { desk, listeners })
}

async fn receive(link: &mut Link, apps: u32) -> anyhow::Result<Vec<(Box<LoadApp>, OwnedFd)>> {
    let mut loads = Vec::new();
    while loads.len() < apps as usize {
        match link.next().await? {
            Some((ToWorker::Load(load), mut fds)) => {
                let artifact = fds.pop().context("no artifact came")?;
                loads.push((load, artifact));
            }
            Some((other, _)) => bail!("unexpected message while loading: {other:?}"),
            None => bail!("the primary has gone"),
        }
    }
    Ok(loads)
}

/// This worker's share of a number that holds for the pool.
fn share(of: u32, workers: u16) -> u32 {
    of.div_ceil(u32::from(workers.max(1)))
}

fn capacity(loads: &[(Box<LoadApp>, OwnedFd)], workers: u16) -> Capacity {
    let wanted = loads
        .iter()
        // Detached and idle instances live beside those with a permit.
        .map(|(load, _)| u64::from(share(load.limits.concurrency, workers)) + 8)
        .sum::<u64>();
    let instances = u32::try_from(wanted).unwrap_or(u32::MAX);
    Capacity {
        instances: instances.clamp(MIN_INSTANCES, MAX_INSTANCES),
    }
}

fn load_app(
    runtime: &Runtime,
    identity: &Identity,
    log: &Log,
    load: LoadApp,
    artifact: &OwnedFd,
) -> anyhow::Result<App> {
    let app_log = Arc::new(AppLog::new(log.clone(), load.app.clone(), load.revision));
    let mut env = load.env;
    env.extend([
        ("SKEP_APP".into(), load.app.to_string()),
        ("SKEP_REVISION".into(), load.revision.to_string()),
        ("SKEP_POOL".into(), identity.pool.to_string()),
        ("SKEP_WORKER".into(), identity.worker.to_string()),
        ("SKEP_WORKER_SLOT".into(), identity.slot.to_string()),
    ]);
    let handler = Handler::load(
        runtime,
        artifact.as_fd(),
        HandlerSetup {
            flavor: match load.flavor {
                skep_wire::Flavor::P2 => Flavor::P2,
                skep_wire::Flavor::P3 => Flavor::P3,
            },
            env,
            config: load.config,
            timeout: load.limits.timeout,
            cpu: load.limits.cpu,
            memory: load.limits.memory,
            instance: load.instance,
            log: Arc::clone(&app_log) as Arc<dyn GuestLog>,
        },
    )?;
    Ok(App::new(
        handler,
        load.strip_prefix,
        load.limits.max_body,
        app_log,
        &Admission {
            concurrency: share(load.limits.concurrency, identity.workers),
            queue: share(load.limits.queue, identity.workers),
            patience: load.limits.timeout,
        },
    ))
}
