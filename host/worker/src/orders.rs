//! A serving worker's conversation with the primary: it does what it is told,
//! answers, and reports.
//!
//! Requests do not pass through here. Work that takes time (a handler's
//! validation, a retired one's last requests) runs in other tasks, which report
//! its end as [`News`].

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use skep_core::{AppName, HandlerId, LogLevel, Plan};
use skep_wire::{FromWorker, HandlerTally, LoadApp, Peer, ToWorker};
use tokio::sync::mpsc;
use tokio::time::{Interval, MissedTickBehavior};

use crate::desk::Desk;
use crate::listeners::Listeners;
use crate::load::{Fit, Loader};
use crate::news::News;
use crate::proving::{Proving, Urgency};
use crate::shelf::{MAX_LIVE, Retired};
use crate::{PATIENCE, Primary, UNFIT};

/// How often the counts of observed apps are reported.
const REPORT: Duration = Duration::from_millis(250);

/// Tallies in one message: with all that each may count, as many as fit.
const TALLIES: usize = 16;

/// How long a worker that has lost its primary may finish requests before it
/// exits: no primary is left to kill it.
const ORPHAN_DRAIN: Duration = Duration::from_secs(30);

/// A worker from its first plan to its end.
pub(crate) struct Orders {
    desk: Arc<Desk>,
    link: Primary,
    loader: Loader,
    listeners: Listeners,
    news: mpsc::UnboundedReceiver<News>,
    stage: Stage,
    /// What is served.
    plan: Box<Plan>,
    /// Handlers that are not valid yet, or could not be loaded.
    proving: Proving,
    /// Loads for apps that have as many handlers as they may.
    waiting: VecDeque<(Box<LoadApp>, OwnedFd)>,
    report: Interval,
    /// Requests of observed handlers when they were last reported.
    reported: BTreeMap<HandlerId, u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Serving,
    /// Accepts nothing, and goes when nothing is in flight.
    Draining,
    /// Drains without a primary, until then.
    Orphaned(Instant),
}

/// What the loop has to deal with next.
enum Next {
    Told(ToWorker, Vec<OwnedFd>),
    Alone(String),
    News(News),
    Late,
    Retry,
    Report,
    Quiet,
    Given,
}

/// The exit code, if this is the end.
type Ends = Option<ExitCode>;

impl Orders {
    /// Begins to accept: the handlers are valid, as `fit` proves.
    pub(crate) fn begin(fit: Fit, link: Primary) -> Self {
        let mut listeners = Listeners::new(&fit.desk);
        for (role, socket) in fit.listeners {
            listeners.listen(role, socket);
        }
        let mut report = tokio::time::interval(REPORT);
        report.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut orders = Self {
            desk: fit.desk,
            link,
            loader: fit.loader,
            listeners,
            news: fit.news,
            stage: Stage::Serving,
            plan: fit.plan,
            proving: fit.proving,
            waiting: VecDeque::new(),
            report,
            reported: BTreeMap::new(),
        };
        for (peer, channel) in fit.peers {
            orders.meet(peer, channel);
        }
        orders
    }

    /// Does what it is told until the end.
    pub(crate) async fn follow(mut self) -> ExitCode {
        let late = self.proving.trying().collect();
        self.tell(FromWorker::Ready { late }).await;
        loop {
            let next = self.next().await;
            if let Some(code) = self.deal_with(next).await {
                return code;
            }
        }
    }

    async fn next(&mut self) -> Next {
        let orphaned = matches!(self.stage, Stage::Orphaned(_));
        let given = match self.stage {
            Stage::Orphaned(until) => Some(until),
            Stage::Serving | Stage::Draining => None,
        };
        let late = self.desk.shelf().deadline();
        let retry = self.proving.deadline();
        let observing = self.stage == Stage::Serving && self.desk.is_observed();
        tokio::select! {
            biased;
            message = self.link.next(), if !orphaned => match message {
                Ok(Some((message, fds))) => Next::Told(message, fds),
                Ok(None) => Next::Alone("the primary has gone".into()),
                Err(error) => Next::Alone(format!("{:#}", anyhow::Error::from(error))),
            },
            // Never closed: the loader has a sender.
            Some(news) = self.news.recv() => Next::News(news),
            () = self.desk.all_quiet(), if self.stage != Stage::Serving => Next::Quiet,
            () = at(given) => Next::Given,
            () = at(late) => Next::Late,
            () = at(retry) => Next::Retry,
            _ = self.report.tick(), if observing => Next::Report,
        }
    }

    async fn deal_with(&mut self, next: Next) -> Ends {
        match next {
            Next::Told(ToWorker::Stop, _) | Next::Given => return Some(ExitCode::SUCCESS),
            // A draining worker still answers by the newest plan, and gives
            // connections back, but accepts from no new listener.
            Next::Told(message, fds)
                if self.stage == Stage::Serving
                    || matches!(
                        message,
                        ToWorker::Load(_) | ToWorker::Serve(_) | ToWorker::Meet(_)
                    ) =>
            {
                return self.told(message, fds).await;
            }
            Next::Told(..) => {}
            Next::Alone(reason) => {
                if let Some(record) = self.desk.log.record(LogLevel::Warn, "worker.orphaned") {
                    self.desk.log.write(record.text("reason", &reason));
                }
                self.desk.drain();
                self.stage = Stage::Orphaned(Instant::now() + ORPHAN_DRAIN);
            }
            Next::News(news) => self.heard(news).await,
            Next::Late => {
                let retired = self.desk.shelf().pass(Instant::now());
                for retired in retired {
                    self.retired(retired).await;
                }
            }
            Next::Retry => {
                let failed = self
                    .proving
                    .retry(&self.loader, &self.desk, self.plan.workers);
                for (handler, message) in failed {
                    self.tell(FromWorker::Refused { handler, message }).await;
                }
            }
            Next::Report => self.report().await,
            Next::Quiet => {
                self.tell(FromWorker::Drained).await;
                return Some(ExitCode::SUCCESS);
            }
        }
        None
    }

    async fn told(&mut self, message: ToWorker, mut fds: Vec<OwnedFd>) -> Ends {
        match message {
            ToWorker::Load(load) => match fds.pop() {
                Some(artifact) => self.load(load, artifact).await,
                None => return Some(self.unfit("no artifact came".into()).await),
            },
            ToWorker::Serve(plan) => return self.serve(plan).await,
            ToWorker::Listen { listeners } => {
                for (role, socket) in listeners.into_iter().zip(fds) {
                    self.listeners.listen(role, socket);
                }
                self.listening().await;
            }
            ToWorker::Unlisten { listeners } => {
                self.listeners.unlisten(&listeners).await;
                self.listening().await;
            }
            ToWorker::Meet(peer) => match fds.pop() {
                Some(channel) => self.meet(peer, channel),
                None => return Some(self.unfit("no channel came".into()).await),
            },
            ToWorker::Drain => {
                self.desk.drain();
                self.stage = Stage::Draining;
            }
            ToWorker::Begin { .. } => {
                return Some(self.unfit("told to begin twice".into()).await);
            }
            ToWorker::Stop => return Some(ExitCode::SUCCESS),
        }
        None
    }

    fn meet(&mut self, peer: Peer, channel: OwnedFd) {
        match peer {
            Peer::Dispatcher(role) => self.listeners.meet(role, channel),
            // The channel is broken: the next connector brings another one.
            Peer::Connector => {
                if let Err(error) = self.loader.outlet().meet(channel)
                    && let Some(record) = self.desk.log.record(LogLevel::Error, "outbound.failed")
                {
                    let reason = format!("{error:#}");
                    self.desk.log.write(record.text("reason", &reason));
                }
            }
        }
    }

    /// Loads a handler and validates it beside, or lets that wait for another
    /// handler of its app to go.
    async fn load(&mut self, load: Box<LoadApp>, artifact: OwnedFd) {
        let app = &load.app;
        let (live, leaves) = {
            let shelf = self.desk.shelf();
            let trying = self.proving.trying_of(app);
            (shelf.live(app) + trying, shelf.leaves(app))
        };
        if live >= MAX_LIVE {
            if leaves {
                self.waiting.push_back((load, artifact));
                return;
            }
            let message = format!("{live} handlers of {app} are loaded already, and none leaves");
            let handler = load.handler;
            return self.tell(FromWorker::Refused { handler, message }).await;
        }
        let handler = load.handler;
        let (load, workers) = ((load, artifact), self.plan.workers);
        let begun = self
            .proving
            .begin(&self.loader, &self.desk, load, workers, Urgency::Now);
        if let Err(message) = begun {
            self.tell(FromWorker::Refused { handler, message }).await;
        }
    }

    async fn serve(&mut self, plan: Box<Plan>) -> Ends {
        let proving = &self.proving;
        match self.desk.serve(&plan, |handler| proving.has(handler)) {
            Ok(tallies) => {
                self.proving.serve(&plan.handlers());
                self.loader.limit_tenants(&plan.tenants);
                self.loader.outlet().share(plan.workers);
                self.reported.clear();
                self.tallies(tallies).await;
                self.tell(FromWorker::Serving { plan: plan.number }).await;
                self.plan = plan;
                None
            }
            Err(error) => Some(self.unfit(error.to_string()).await),
        }
    }

    async fn heard(&mut self, news: News) {
        match news {
            News::Valid(valid) => {
                let handler = valid.id;
                if self.proving.valid(handler) {
                    self.desk.shelf().keep(valid);
                    self.release(handler);
                    self.tell(FromWorker::Loaded { handler }).await;
                }
            }
            News::Refused {
                handler,
                app,
                message,
            } => {
                let served = self.plan.handlers().contains(&handler);
                if self.proving.refused(handler, served) {
                    self.tell(FromWorker::Refused { handler, message }).await;
                }
                self.load_waiting(&app).await;
            }
            News::Gone { handler, made } => {
                let retired = self.desk.shelf().gone(handler, made);
                if let Some(retired) = retired {
                    self.retired(retired).await;
                }
            }
        }
    }

    /// A handler that was in quarantine answers from now on.
    fn release(&self, handler: HandlerId) {
        if !self.plan.handlers().contains(&handler) {
            return;
        }
        let proving = &self.proving;
        let served = self.desk.serve(&self.plan, |handler| proving.has(handler));
        debug_assert!(served.is_ok(), "the plan is served with less");
    }

    async fn retired(&mut self, Retired { handler, app, cut }: Retired) {
        let retired = FromWorker::Retired {
            handler,
            app: app.clone(),
            cut,
        };
        self.tell(retired).await;
        self.load_waiting(&app).await;
    }

    /// There is room for another handler of this app.
    async fn load_waiting(&mut self, app: &AppName) {
        let waits = self.waiting.iter().position(|(load, _)| load.app == *app);
        if let Some((load, artifact)) = waits.and_then(|at| self.waiting.remove(at)) {
            self.load(load, artifact).await;
        }
    }

    /// Reports those observed handlers that have counted something.
    async fn report(&mut self) {
        let mut changed = BTreeSet::new();
        for (handler, requests) in self.desk.observed() {
            if self.reported.insert(handler, requests) != Some(requests) {
                changed.insert(handler);
            }
        }
        if !changed.is_empty() {
            let tallies = self.desk.tallies(&changed);
            self.tallies(tallies).await;
        }
    }

    async fn tallies(&mut self, tallies: Vec<HandlerTally>) {
        for tallies in tallies.chunks(TALLIES) {
            self.tell(FromWorker::Tallies(tallies.to_vec())).await;
        }
    }

    async fn listening(&mut self) {
        let listeners = self.listeners.names();
        self.tell(FromWorker::Listening { listeners }).await;
    }

    /// The primary sent a message that makes no sense: this worker ends.
    async fn unfit(&mut self, message: String) -> ExitCode {
        if let Some(record) = self.desk.log.record(LogLevel::Error, "worker.unfit") {
            self.desk.log.write(record.text("reason", &message));
        }
        self.tell(FromWorker::Unfit { message }).await;
        ExitCode::from(UNFIT)
    }

    /// Errors are ignored: that the primary is gone shows when its channel is read.
    async fn tell(&mut self, message: FromWorker) {
        if !matches!(self.stage, Stage::Orphaned(_)) {
            let by = Instant::now() + PATIENCE;
            let _ = self.link.tell(&message, &[], by).await;
        }
    }
}

/// Waits until `then`; for ever without one.
async fn at(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then.into()).await,
        None => std::future::pending().await,
    }
}
