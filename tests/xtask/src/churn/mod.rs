//! `churn`: everything that an operator does, back to back and under load, and
//! not one request may fail (DESIGN §1).

mod operator;
mod schedule;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use skep_tests::traffic::{Mix, Report, Spread, Traffic};
use skep_tests::{options::sha256, variant};
use tokio::time::sleep;

use crate::build::{self, Guests};
use crate::fleet::Fleet;
use crate::machine::Machine;
use crate::peers::skep::launch;
use crate::print;
use crate::statistics::{largest, quantile};
use crate::table::{self, NOT_MEASURED, Table};
use operator::{Done, Operator, Variant};
use schedule::{APP, Kind, WORKERS, configuration, schedule};

/// Options of `churn`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    skep: build::Choice,
    /// Deploys of another component, in place
    #[arg(long, value_name = "N", default_value_t = 100)]
    swaps: u32,
    /// Rolling restarts
    #[arg(long, value_name = "N", default_value_t = 20)]
    restarts: u32,
    /// Reloads of a configuration that has changed
    #[arg(long, value_name = "N", default_value_t = 20)]
    reloads: u32,
    /// Scalings between 1 and 4 workers
    #[arg(long, value_name = "N", default_value_t = 20)]
    scales: u32,
    /// Requests to make at least
    #[arg(long, value_name = "N", default_value_t = 1_000_000)]
    min_requests: u64,
    /// Seconds of load before the first operation, to compare with
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    quiet: u64,
}

/// How often the requests are counted while they are waited for.
const POLL: Duration = Duration::from_millis(50);

/// How long the traffic may stand still: longer than a client's patience.
const STANDSTILL: Duration = Duration::from_secs(30);

/// How often to say how far it is.
const SAY_EVERY: usize = 10;

/// The most that a deploy of a cached component may take.
const DEPLOY_MS: f64 = 100.0;

/// The most that p99 during swaps may be of p99 without.
const SLOWER: f64 = 2.0;

/// Operates under load, and prints what became of it.
///
/// # Errors
///
/// A request or a command failed, or skep cannot be started.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let program = build::skep(&options.skep)?;
    let component = Guests::build()?.revision;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let scratch = scratch.path();
    let variants = [
        variant_of(&component, 1, scratch)?,
        variant_of(&component, 2, scratch)?,
    ];
    let start = launch(&program, &configuration(&component, 0), scratch)?;
    let fleet = Fleet::launched(start, WORKERS, "/", scratch).await?;

    let traffic = Traffic::start(fleet.server.address(), Mix::default());
    let mut operator = Operator {
        program,
        fleet: &fleet,
        traffic: &traffic,
        component,
        file: scratch.join("skep.toml"),
        variants,
        done: Vec::new(),
    };
    let operated = operate(options, &mut operator).await;
    let done = operator.done;
    let report = traffic.finish();
    let stopped = fleet.server.stop().await;
    show(&report, &done);
    operated?;
    stopped?;

    let failures = done.iter().filter(|done| done.failure.is_some()).count();
    if report.failed() > 0 || failures > 0 {
        bail!(
            "{} requests and {failures} commands failed",
            report.failed()
        );
    }
    Ok(())
}

async fn operate(options: &Options, operator: &mut Operator<'_>) -> Result<()> {
    let first = operator.active().await?;
    operator.traffic.revisions().begin(first);
    print::progress(format_args!("{} s of load alone", options.quiet));
    // The length of a measurement; nothing is synchronised by it.
    sleep(Duration::from_secs(options.quiet)).await;

    let operations = schedule([
        (Kind::Swap, options.swaps),
        (Kind::Restart, options.restarts),
        (Kind::Reload, options.reloads),
        (Kind::Scale, options.scales),
    ]);
    for (index, kind) in operations.iter().enumerate() {
        if index % SAY_EVERY == 0 {
            print::progress(format_args!(
                "operation {} of {}, {} requests",
                index + 1,
                operations.len(),
                operator.traffic.ended()
            ));
        }
        operator.perform(*kind).await?;
        if let Some(failure) = operator.done.last().and_then(|done| done.failure.as_ref()) {
            print::progress(failure);
        }
    }

    print::progress(format_args!("on to {} requests", options.min_requests));
    let mut seen = operator.traffic.ended();
    let mut moved = Instant::now();
    while seen < options.min_requests {
        sleep(POLL).await;
        let now = operator.traffic.ended();
        if now > seen {
            seen = now;
            moved = Instant::now();
        }
        ensure!(
            moved.elapsed() < STANDSTILL,
            "no request has ended for {STANDSTILL:?}; {seen} had"
        );
    }
    Ok(())
}

fn variant_of(component: &Path, number: u64, scratch: &Path) -> Result<Variant> {
    let path = variant(component, number, scratch);
    let bytes = std::fs::read(&path).context("cannot read a component")?;
    let digest = format!("sha256:{}", sha256(&bytes));
    Ok(Variant { path, digest })
}

fn show(report: &Report, done: &[Done]) {
    let windows = |wanted: &dyn Fn(&Done) -> bool| -> Vec<(Instant, Instant)> {
        let wanted = done.iter().filter(|done| wanted(done));
        wanted.map(|done| (done.start, done.end)).collect()
    };
    let mut table = Table::new([
        "operation",
        "done",
        "failed",
        "median",
        "p90",
        "worst",
        "requests during",
        "p99 of them",
    ]);
    let mut row = |what: &str, wanted: &dyn Fn(&Done) -> bool| {
        let spread = report.latencies.within(&windows(wanted));
        table.row(cells(
            what,
            done.iter().filter(|done| wanted(done)),
            &spread,
        ));
    };
    row("deploy, cached", &|done| {
        done.kind == Kind::Swap && !done.compiles
    });
    row("deploy, compiled", &|done| done.compiles);
    for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Swap) {
        row(&kind.to_string(), &|done| done.kind == kind);
    }
    let without = report.latencies.outside(&windows(&|_| true));
    table.row(cells("none", std::iter::empty(), &without));

    print::result(format_args!(
        "## Operations under load\n\n{WORKERS} workers, app `{APP}`. {}.\n\n{table}",
        Machine::here()
    ));
    let swaps = report
        .latencies
        .within(&windows(&|done| done.kind == Kind::Swap));
    if without.count() > 0 && swaps.count() > 0 {
        print::result(format_args!(
            "p99 during swaps is {:.2} × p99 without any operation (target: ≤ {SLOWER:.0} ×). \
             A cached deploy is to take ≤ {DEPLOY_MS:.0} ms.\n",
            swaps.p99().as_secs_f64() / without.p99().as_secs_f64()
        ));
    }
    print::result(report);
    for failure in done.iter().filter_map(|done| done.failure.as_ref()) {
        print::result(failure);
    }
}

/// One row: how long the operations took, and how long requests did meanwhile.
fn cells<'a>(what: &str, done: impl Iterator<Item = &'a Done>, during: &Spread) -> [String; 8] {
    let (mut micros, mut failed) = (Vec::new(), 0);
    for done in done {
        micros.push((done.end - done.start).as_secs_f64() * 1e6);
        failed += usize::from(done.failure.is_some());
    }
    let figure = |value: Option<f64>| value.map_or_else(|| NOT_MEASURED.to_owned(), table::time);
    [
        what.to_owned(),
        micros.len().to_string(),
        failed.to_string(),
        figure(quantile(&micros, 0.5)),
        figure(quantile(&micros, 0.9)),
        figure(largest(micros.iter().copied())),
        table::count(during.count() as f64),
        figure(during.quantile(0.99).map(|p99| p99.as_secs_f64() * 1e6)),
    ]
}
