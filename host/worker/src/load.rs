//! Becoming a worker: from the primary's first message to a plan whose handlers
//! are valid. And the loading of one handler, then and later.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use skep_core::{HandlerId, Plan, PlannedTenant, PoolName, SlotIndex, WorkerId};
use skep_engine::{Capacity, Clock, Flavor, GuestLog, Handler, HandlerSetup, Runtime, Tenants};
use skep_sys::confine::Confined;
use skep_sys::process::has_address_space;
use skep_sys::{Board, Register, Sheet};
use skep_wire::{FromWorker, ListenerRole, LoadApp, Peer, ToWorker};
use tokio::sync::mpsc;

use crate::admission::{Admission, Share};
use crate::app::{App, Setting};
use crate::budget::Column;
use crate::desk::Desk;
use crate::jail;
use crate::log::{AppIs, AppLog, Log};
use crate::news::News;
use crate::outbound::Outlet;
use crate::proving::{Proving, Urgency};
use crate::tenants::Shares;
use crate::ticker;
use crate::validate::{Unproven, missing};
use crate::{PATIENCE, Primary};

/// Most instances that one worker holds, whatever its apps allow: each
/// reserves 4 GiB of address space, of which a process has 128 TiB.
const MAX_INSTANCES: u32 = 2000;

/// Fewest: apps that are added while the worker runs need some, too, and the
/// engine cannot grow. Making so many costs half a millisecond. Where a process may
/// not have the address space for them, fewer have to do.
const MIN_INSTANCES: u32 = 64;

/// A worker that may begin to serve: its valid handlers, and what it needs from
/// now on.
pub(crate) struct Fit {
    pub(crate) desk: Arc<Desk>,
    pub(crate) loader: Loader,
    pub(crate) listeners: Vec<(ListenerRole, OwnedFd)>,
    /// Whom it was told to meet meanwhile.
    pub(crate) peers: Vec<(Peer, OwnedFd)>,
    pub(crate) news: mpsc::UnboundedReceiver<News>,
    pub(crate) proving: Proving,
    pub(crate) plan: Box<Plan>,
}

/// What this worker is, for the handlers that it loads.
pub(crate) struct Loader {
    runtime: &'static Runtime,
    /// The proof without which nothing is loaded.
    _confined: Confined,
    worker: WorkerId,
    pool: PoolName,
    slot: SlotIndex,
    log: Log,
    news: mpsc::UnboundedSender<News>,
    outlet: Arc<Outlet>,
    tenants: Shares,
}

/// Listens to the primary until everything is loaded, valid, and planned.
///
/// # Errors
///
/// Why the worker cannot serve at all; one failing handler is never the reason.
pub(crate) async fn load(link: &mut Primary) -> anyhow::Result<Fit> {
    let (message, fds) = link.next().await?.context("the primary has gone")?;
    let ToWorker::Begin {
        worker,
        pool,
        slot,
        cell,
        workers,
        log,
        sandbox,
        drain_timeout,
        grace,
        listeners,
        loads,
        ..
    } = message
    else {
        bail!("the first message was not `begin`");
    };
    let mut fds = fds.into_iter();
    let board = fds.next().context("no scoreboard came")?;
    let board = Board::open(board).context("the scoreboard is none")?;
    if board.cell(cell).is_none() {
        bail!("the scoreboard has no cell {cell}");
    }
    let sheet = fds.next().context("no sheet came")?;
    let sheet = Arc::new(Sheet::open(sheet).context("the sheet is none")?);
    let register = fds.next().context("no register came")?;
    let register = Arc::new(Register::open(register).context("the register is none")?);
    let folder = fds.next().context("no folder of artifacts came")?;
    let listeners = listeners.into_iter().zip(fds).collect();
    let outlet = Outlet::new(workers);
    let Received { loads, peers, plan } = receive(link, loads, &outlet).await?;

    let ticker = ticker::start().context("no timer for guests")?;
    let log = Log::new(log, worker);
    log.keep_writing().context("cannot watch stderr")?;
    let (sender, mut news) = mpsc::unbounded_channel();
    let clock = Clock {
        thread_cpu: skep_sys::clock::thread_cpu,
        ticks: skep_sys::ticker::come,
    };
    let runtime = Runtime::start(capacity(&loads), clock);
    let confined = jail::enter(runtime, &folder, sandbox)?;
    let missing = jail::lacks(&confined);
    let confined_so = FromWorker::Confined { missing };
    link.tell(&confined_so, &[], Instant::now() + PATIENCE)
        .await
        .context("cannot tell the primary")?;
    let loader = Loader {
        runtime,
        _confined: confined,
        worker,
        pool,
        slot,
        log: log.clone(),
        news: sender,
        outlet,
        tenants: Shares::new(runtime.capacity()),
    };
    let desk = Arc::new(Desk::new(
        board,
        Column {
            sheet,
            cell,
            register,
        },
        ticker,
        log,
        drain_timeout,
    ));
    let mut proving = Proving::new();
    let refused = prove(
        &mut proving,
        (&loader, &desk),
        (loads, workers),
        &mut news,
        grace,
    )
    .await;
    let mut unfit = None;
    for (handler, message) in refused {
        if proving.is_vital(handler) {
            unfit.get_or_insert_with(|| message.clone());
        }
        let refused = FromWorker::Refused { handler, message };
        link.tell(&refused, &[], Instant::now() + PATIENCE)
            .await
            .context("cannot tell the primary")?;
    }
    if let Some(message) = unfit {
        bail!(message);
    }
    loader.limit_tenants(&plan.tenants);
    desk.serve(&plan, |handler| proving.has(handler))?;
    proving.serve(&plan.handlers());
    Ok(Fit {
        desk,
        loader,
        listeners,
        peers,
        news,
        proving,
        plan,
    })
}

/// Has the first handlers validated, side by side, for so long at most. Says
/// which cannot serve; those that are late go on.
async fn prove(
    proving: &mut Proving,
    (loader, desk): (&Loader, &Arc<Desk>),
    (loads, workers): (Loads, u16),
    news: &mut mpsc::UnboundedReceiver<News>,
    grace: Duration,
) -> Vec<(HandlerId, String)> {
    let by = tokio::time::Instant::now() + grace;
    let mut refused = Vec::new();
    for load in loads {
        let handler = load.0.handler;
        if let Err(message) = proving.begin(loader, desk, load, workers, Urgency::InTurn) {
            refused.push((handler, message));
        }
    }
    while proving.is_waited_for() {
        // Never closed: the loader has a sender. What is needed has its own limit,
        // and so has the worker.
        let next = if proving.is_needed() {
            Ok(news.recv().await)
        } else {
            tokio::time::timeout_at(by, news.recv()).await
        };
        let Ok(Some(news)) = next else { break };
        match news {
            News::Valid(valid) => {
                proving.valid(valid.id);
                desk.shelf().keep(valid);
            }
            News::Refused {
                handler, message, ..
            } => {
                proving.refused(handler, false);
                refused.push((handler, message));
            }
            // News of a handler that was refused.
            News::Gone { .. } => {}
        }
    }
    refused
}

type Loads = Vec<(Box<LoadApp>, OwnedFd)>;

/// What comes before a worker can serve.
struct Received {
    loads: Loads,
    /// Those that are met once it serves.
    peers: Vec<(Peer, OwnedFd)>,
    plan: Box<Plan>,
}

/// Handlers may need the connector in their validation: it is met at once.
async fn receive(link: &mut Primary, wanted: u32, outlet: &Outlet) -> anyhow::Result<Received> {
    let (mut loads, mut peers) = (Vec::new(), Vec::new());
    loop {
        match link.next().await? {
            Some((ToWorker::Load(load), mut fds)) if loads.len() < wanted as usize => {
                let artifact = fds.pop().context("no artifact came")?;
                loads.push((load, artifact));
            }
            Some((ToWorker::Meet(Peer::Connector), mut fds)) => {
                outlet.meet(fds.pop().context("no connector came")?)?;
            }
            Some((ToWorker::Serve(plan), _)) if loads.len() == wanted as usize => {
                return Ok(Received { loads, peers, plan });
            }
            Some((ToWorker::Meet(peer), mut fds)) => {
                peers.push((peer, fds.pop().context("no channel came")?));
            }
            Some((other, _)) => bail!("unexpected message while loading: {other:?}"),
            None => bail!("the primary has gone"),
        }
    }
}

/// Instances for all apps at their limits. Not for this worker's share of them:
/// that grows when the pool shrinks.
fn capacity(loads: &Loads) -> Capacity {
    let of_apps = |besides: u64| {
        let each = loads
            .iter()
            .map(|(load, _)| u64::from(load.limits.concurrency) + besides);
        u32::try_from(each.sum::<u64>()).unwrap_or(u32::MAX)
    };
    // Detached and idle instances live beside those with a permit.
    let all = of_apps(8);
    let capacities = [all.max(MIN_INSTANCES), all, of_apps(0)].map(|instances| Capacity {
        instances: instances.clamp(1, MAX_INSTANCES),
    });
    // There may be two engines.
    let fits = |capacity: &Capacity| has_address_space(2 * capacity.address_space());
    let fitting = capacities.into_iter().find(fits);
    // Otherwise the engine says what is missing.
    fitting.unwrap_or(capacities[0])
}

impl Loader {
    /// What sends the requests of guests.
    pub(crate) fn outlet(&self) -> Arc<Outlet> {
        Arc::clone(&self.outlet)
    }

    /// Where the news of handlers go.
    pub(crate) fn news(&self) -> mpsc::UnboundedSender<News> {
        self.news.clone()
    }

    /// Holds each tenant to what a plan says from now on.
    pub(crate) fn limit_tenants(&self, planned: &[PlannedTenant]) {
        self.tenants.limit(planned);
    }

    /// What this worker's tenants have together.
    pub(crate) fn tenants(&self) -> Tenants {
        self.tenants.tenants().clone()
    }

    /// Maps an artifact and links it: some 0.2 ms. `share` is for an app that
    /// has no handler here yet.
    pub(crate) fn load(
        &self,
        desk: &Desk,
        load: LoadApp,
        artifact: &OwnedFd,
        share: Share,
    ) -> Result<Unproven, String> {
        if let Some(problem) = missing(&load.require, &load.env) {
            return Err(problem);
        }
        #[cfg(feature = "attacker")]
        crate::attack::order(&load.config);
        let whose = AppIs {
            app: load.app.clone(),
            tenant: load.tenant.clone(),
            revision: load.revision,
        };
        let app_log = Arc::new(AppLog::new(self.log.clone(), whose, load.limits.log_rate));
        let outbound = Some(self.outlet.app(&load, &app_log));
        let mut env = load.env;
        env.extend([
            ("SKEP_APP".into(), load.app.to_string()),
            ("SKEP_REVISION".into(), load.revision.to_string()),
            ("SKEP_POOL".into(), self.pool.to_string()),
            ("SKEP_WORKER".into(), self.worker.to_string()),
            ("SKEP_WORKER_SLOT".into(), self.slot.to_string()),
        ]);
        let handler = Handler::load(
            self.runtime,
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
                tenant: self.tenants.of(&load.tenant),
                instance: load.instance,
                log: Arc::clone(&app_log) as Arc<dyn GuestLog>,
                outbound,
            },
        )
        .map_err(|error| error.to_string())?;
        let admission = desk.shelf().admission(&load.app);
        let setting = Setting {
            id: load.handler,
            name: load.app,
            strip_prefix: load.strip_prefix,
            limits: load.limits,
            log: app_log,
            admission: admission.unwrap_or_else(|| Admission::new(share)),
            register: Arc::clone(&desk.column().register),
        };
        Ok(Unproven {
            app: Arc::new(App::new(handler, setting, self.news())),
            check: load.check,
            deadline: load.validate_timeout,
        })
    }
}
