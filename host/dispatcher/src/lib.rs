//! The dispatcher process of one listener: it accepts connections and hands
//! each of them to a worker.
//!
//! Where several pools are behind the listener, it looks at the first bytes of
//! a connection for its host, without taking them; where there is one pool, it
//! looks at nothing. A worker gives a connection back whose next request may be
//! for another pool, and the dispatcher hands it out again.
//!
//! No connection is lost on the way: the copy of its socket is kept until the
//! worker has acknowledged it, and a worker acknowledges before it reads. What
//! was not acknowledged when a worker dies goes to another one. A client that is
//! silent or slow costs a descriptor and some hundred bytes until its time is up
//! or others need the room.
//!
//! Responsible for nothing that a worker can do: it parses no more than the
//! first head, holds no key, answers nothing but a head that is none, and opens
//! nothing.
#![forbid(unsafe_code)]

mod acceptor;
mod choose;
mod exchange;
pub mod peek;
mod read_ahead;
mod refuse;
mod tasks;

use std::cell::RefCell;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use skep_core::Sandbox;
use skep_link::Link;
use skep_sys::confine::{Strictness, confine_dispatcher};
use skep_sys::{Board, Cell, Channel, ExclusiveListener, clock, process};
use skep_wire::{FromDispatcher, ToDispatcher};
use tokio::sync::watch;
use tokio::task::LocalSet;
use tokio::time::MissedTickBehavior;

pub use choose::{Mixers, choose};

use crate::exchange::{Exchange, WORKER_PATIENCE};
use crate::tasks::SharedExchange;

/// How often it beats, and tells the primary what was done.
const REPORT: Duration = Duration::from_secs(1);

/// How long the primary may take to take a message; longer means that it is
/// stuck.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often a dispatcher that drains looks whether it is done.
const LOOK: Duration = Duration::from_millis(20);

/// Descriptors that a dispatcher may have, where the system lets it: more than
/// it ever has connections that wait.
const DESCRIPTORS: u64 = 1 << 16;

/// The channel to the primary.
type Primary = Link<ToDispatcher, FromDispatcher>;

/// Exit code of a dispatcher that reported that it cannot serve.
const UNFIT: u8 = 78;

/// The whole life of a dispatcher process. Called by the hidden role of the
/// `skep` binary, never by people.
#[must_use]
pub fn run() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let Ok(runtime) = runtime else {
        return ExitCode::from(UNFIT);
    };
    let Ok(channel) = Channel::inherited() else {
        return ExitCode::from(UNFIT);
    };
    runtime.block_on(serve(channel, confine))
}

/// Serves the primary at the other end of `channel` until it says that this is
/// to end, or goes away. `confine` gives up what is not needed and says in words
/// what of that the kernel lacks.
pub async fn serve(
    channel: Channel,
    confine: impl FnOnce(Sandbox) -> Result<Vec<String>, String>,
) -> ExitCode {
    let Ok(mut link) = Primary::new(channel) else {
        return ExitCode::from(UNFIT);
    };
    let local = LocalSet::new();
    let served = local.run_until(work(&mut link, confine)).await;
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("{error:#}");
            // If the primary is gone there is nobody to tell.
            let _ = tell(&mut link, &FromDispatcher::Unfit { message }).await;
            ExitCode::from(UNFIT)
        }
    }
}

async fn work(
    link: &mut Primary,
    confine: impl FnOnce(Sandbox) -> Result<Vec<String>, String>,
) -> anyhow::Result<()> {
    let begin = link.next().await?;
    let Some((
        ToDispatcher::Begin {
            limits, sandbox, ..
        },
        mut fds,
    )) = begin
    else {
        bail!("the first message was not `begin`");
    };
    let board = fds.pop().context("no scoreboard came")?;
    let board = Board::open(board).context("the scoreboard is none")?;
    let cell = board.cell(0).context("the scoreboard has no cell")?;
    let listener = fds.pop().context("no listener came")?;
    let local = skep_sys::local_of(listener.as_fd()).context("the listener has no address")?;
    // Before /proc is given up, by which it is registered.
    let listener = ExclusiveListener::new(listener).and_then(skep_sys::watch);
    let listener = listener.context("cannot watch the listener")?;
    let descriptors = process::raise_nofile_limit().context("cannot learn a limit")?;
    let missing = confine(sandbox).map_err(anyhow::Error::msg)?;
    let first = u64::try_from(clock::monotonic().as_nanos()).context("a clock of centuries")?;
    let exchange = Exchange::new(limits, local, descriptors, first);
    let shared: SharedExchange = Rc::new(RefCell::new(exchange));
    let (stop, stopped) = watch::channel(false);
    let accepting = tasks::accept(Rc::clone(&shared), listener, stopped);
    let accepting = tokio::task::spawn_local(accepting);
    tokio::task::spawn_local(tasks::pump(Rc::clone(&shared)));
    tell(link, &FromDispatcher::Ready { missing }).await?;

    let mut report = tokio::time::interval(REPORT);
    report.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = shared.borrow().counts();
    let drains = loop {
        tokio::select! {
            biased;
            message = link.next() => match message? {
                Some((ToDispatcher::Drain, _)) => break true,
                Some((message, fds)) => {
                    let switches = matches!(message, ToDispatcher::Hosts { .. });
                    follow(&shared, message, fds)?;
                    if switches {
                        tell(link, &FromDispatcher::Switched).await?;
                    }
                }
                None => break false,
            },
            _ = report.tick() => report_to(link, &shared, cell, &mut told).await?,
        }
    };
    // Nobody is left who has a use for the listener.
    stop.send_replace(true);
    let _ = accepting.await;
    drain(link, &shared, drains).await?;
    if drains {
        report_to(link, &shared, cell, &mut told).await?;
        tell(link, &FromDispatcher::Drained).await?;
    }
    Ok(())
}

/// Does what the primary says.
fn follow(
    shared: &SharedExchange,
    message: ToDispatcher,
    mut fds: Vec<OwnedFd>,
) -> anyhow::Result<()> {
    match message {
        ToDispatcher::Begin { .. } => bail!("told to begin twice"),
        ToDispatcher::Limits(limits) => shared.borrow_mut().limit(limits),
        ToDispatcher::Pool { pool, dispatch } => {
            let board = fds.pop().context("no scoreboard came")?;
            let board = Board::open(board).context("the scoreboard is none")?;
            shared.borrow_mut().pool(pool, dispatch, board);
        }
        ToDispatcher::PoolGone { pool } => shared.borrow_mut().pool_gone(&pool),
        ToDispatcher::Hosts { hosts, otherwise } => {
            shared.borrow_mut().hosts(&hosts, otherwise);
        }
        ToDispatcher::Worker { worker, pool, cell } => {
            let channel = Channel::from_fd(fds.pop().context("no channel came")?)?;
            tasks::meet(shared, worker, pool, cell, channel).context("cannot watch a worker")?;
        }
        ToDispatcher::WorkerGone { worker } => shared.borrow().exited(worker),
        ToDispatcher::Drain => {}
    }
    shared.borrow_mut().flush();
    Ok(())
}

/// Hands out what was accepted: heads may take as long as they always may, and
/// then workers. The primary may go on to tell of workers.
async fn drain(
    link: &mut Primary,
    shared: &SharedExchange,
    mut primary: bool,
) -> anyhow::Result<()> {
    let patience = shared.borrow().limits.header_timeout + WORKER_PATIENCE;
    let deadline = Instant::now() + patience;
    while !shared.borrow().is_quiet() && Instant::now() < deadline {
        tokio::select! {
            message = link.next(), if primary => match message? {
                Some((message, fds)) => follow(shared, message, fds)?,
                None => primary = false,
            },
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    Ok(())
}

/// Gives a sign of life, and tells what is new.
async fn report_to(
    link: &mut Primary,
    shared: &SharedExchange,
    cell: &Cell,
    told: &mut skep_wire::DispatchCounts,
) -> anyhow::Result<()> {
    cell.beat(clock::monotonic());
    let distrusted = shared.borrow_mut().newly_distrusted();
    for (worker, why) in distrusted {
        tell(link, &FromDispatcher::Distrusts { worker, why }).await?;
    }
    let counts = shared.borrow().counts();
    if counts != *told {
        *told = counts;
        tell(link, &FromDispatcher::Counts(counts)).await?;
    }
    Ok(())
}

async fn tell(link: &mut Primary, message: &FromDispatcher) -> anyhow::Result<()> {
    link.tell(message, &[], Instant::now() + PATIENCE)
        .await
        .context("cannot tell the primary")
}

/// Gives up all but accepting, looking and passing on.
fn confine(sandbox: Sandbox) -> Result<Vec<String>, String> {
    let strictness = match sandbox {
        Sandbox::Require => Strictness::Require,
        Sandbox::BestEffort => Strictness::BestEffort,
        Sandbox::Off => Strictness::Off,
    };
    let confined = confine_dispatcher(DESCRIPTORS, strictness).map_err(|error| {
        // The source says which system call, which is what helps.
        format!(
            "{:#}",
            anyhow::Error::new(error).context("cannot be confined")
        )
    })?;
    Ok(confined.missing().iter().map(ToString::to_string).collect())
}
