//! `ready`: starting, replacing, idle memory, and the cost of many apps.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::Args;
use skep_wire::WorkerStatus;
use tokio::time::Instant;

use crate::build::{self, Guests};
use crate::fleet::{Fleet, is_serving};
use crate::machine::Machine;
use crate::peers::WORKERS;
use crate::peers::skep::{App, Configuration, Instance};
use crate::print;
use crate::process::{self, Recipient};
use crate::statistics::{largest, median};
use crate::table::{self, Table};
use crate::wrk::{self, Connections, Load, Report};

/// Options of `ready`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    skep: build::Choice,
    /// Starts, and kills, to measure
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    repeat: u32,
    /// Apps in the pool of many
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u16).range(2..=5000))]
    apps: u16,
    /// Seconds of load for each routing figure
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    duration: u64,
}

/// Times within which a kill counts as the first of a stable worker are
/// seconds by default. These make that one second, so that the figure is the
/// same and the measurement ends.
const QUICKLY_STABLE: &str = "min_uptime = \"500ms\"\ncrash_window = \"1s\"\nmax_crashes = 1000\n";

/// An age at which a worker is stable by the settings above, and earlier
/// crashes are out of the window.
const STABLE_SECONDS: f64 = 2.0;

/// How long becoming stable, or being replaced, may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// For each app; the pool of many shares its instances among all.
const CONCURRENCY: u32 = 64;

/// Rounds of load on each route.
const LOADS: usize = 3;

/// Measures and prints.
///
/// # Errors
///
/// skep does not build or does not start.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let bench = Bench {
        program: build::skep(&options.skep)?,
        hello: Guests::build()?.hello,
        scratch: tempfile::tempdir().context("cannot make a temporary directory")?,
    };
    let mut table = Table::new(["what", "target", "median", "worst"]);

    let starts = bench.starts(options.repeat).await?;
    table.row(milliseconds(
        "exec of a worker to ready, artifact cached",
        15.0,
        &starts.ready_ms,
    ));
    let idle = starts.idle_kib;
    table.row(memory(
        "PSS of an idle worker with hello",
        12.0 * 1024.0,
        &idle,
    ));

    let kills = bench.kills(options.repeat).await?;
    table.row(milliseconds(
        "kill -9 of a stable worker to its successor ready",
        50.0,
        &kills,
    ));

    let apps = bench.apps(options.apps, options.duration).await?;
    let what = format!("PSS of each further app in a worker, {} apps", options.apps);
    table.row(kibibytes(&what, 500.0, &apps.each_kib));
    table.row(routing("first", options.apps, &apps.first, &apps.alone));
    table.row(routing("last", options.apps, &apps.last, &apps.alone));

    print::result(format_args!(
        "## Starting and memory\n\n{}.\n\n{table}",
        Machine::here()
    ));
    Ok(())
}

struct Bench {
    program: PathBuf,
    hello: PathBuf,
    scratch: tempfile::TempDir,
}

struct Starts {
    ready_ms: Vec<f64>,
    idle_kib: Vec<f64>,
}

/// What many apps cost.
struct Apps {
    /// What each app but the first adds to a worker, by worker.
    each_kib: Vec<f64>,
    /// Load on the only app of another fleet.
    alone: Vec<Report>,
    /// Load on the first and the last of many.
    first: Vec<Report>,
    last: Vec<Report>,
}

impl Bench {
    /// Starts skep again and again, the artifact cached since the first time.
    async fn starts(&self, repeat: u32) -> Result<Starts> {
        let scratch = self.directory("starts")?;
        let configuration = Configuration {
            workers: WORKERS,
            pool: "",
            apps: vec![app("hello", &self.hello, None)],
        };
        let start = || Fleet::start(&self.program, &configuration, "/", &scratch);
        print::progress("filling the artifact cache");
        start().await?.server.stop().await?;
        let mut starts = Starts {
            ready_ms: Vec::new(),
            idle_kib: Vec::new(),
        };
        for number in 1..=repeat {
            print::progress(format_args!("start {number} of {repeat}"));
            let fleet = start().await?;
            for worker in fleet.status().await?.workers {
                let ready = worker
                    .ready_after_ms
                    .context("status lacks ready_after_ms")?;
                starts.ready_ms.push(ready);
                starts.idle_kib.push(process::pss_kib(worker.pid)? as f64);
            }
            fleet.server.stop().await?;
        }
        Ok(starts)
    }

    /// Kills stable workers, and measures until each has a successor that
    /// serves: milliseconds, those of the `kill` command included.
    async fn kills(&self, repeat: u32) -> Result<Vec<f64>> {
        let scratch = self.directory("kills")?;
        let configuration = Configuration {
            workers: WORKERS,
            pool: QUICKLY_STABLE,
            apps: vec![app("hello", &self.hello, None)],
        };
        let fleet = Fleet::start(&self.program, &configuration, "/", &scratch).await?;
        let mut times = Vec::new();
        for number in 1..=repeat {
            print::progress(format_args!("kill {number} of {repeat}"));
            let victim = fleet
                .until("become stable", PATIENCE, |status| {
                    let stable = |worker: &WorkerStatus| {
                        is_serving(worker) && worker.uptime_seconds >= STABLE_SECONDS
                    };
                    let all = status.workers.len() == usize::from(WORKERS)
                        && status.workers.iter().all(stable);
                    // Each slot's turn comes.
                    let turn = number as usize % status.workers.len().max(1);
                    all.then(|| (status.workers[turn].pid, status.workers[turn].slot))
                })
                .await?;
            let (pid, slot) = victim;
            let start = Instant::now();
            process::send("KILL", Recipient::Process(pid))?;
            fleet
                .until("replace a killed worker", PATIENCE, |status| {
                    let successor = |worker: &&WorkerStatus| {
                        worker.slot == slot && worker.pid != pid && is_serving(worker)
                    };
                    status.workers.iter().find(successor).map(|_| ())
                })
                .await?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        fleet.server.stop().await?;
        Ok(times)
    }

    /// Runs one app and many beside each other, and loads them in turns, so
    /// that what slows the machine slows both.
    async fn apps(&self, count: u16, seconds: u64) -> Result<Apps> {
        let one = self.serve(1).await?;
        let alone = median(worker_kib(&one).await?).context("no worker")?;
        one.server.stop().await?;
        // Measured alone: what both fleets map would count half for each.
        let many = self.serve(count).await?;
        let further = f64::from(count - 1);
        let each = worker_kib(&many)
            .await?
            .into_iter()
            .map(|kib| (kib - alone) / further);
        let mut apps = Apps {
            each_kib: each.collect(),
            alone: Vec::new(),
            first: Vec::new(),
            last: Vec::new(),
        };
        let one = self.serve(1).await?;
        for number in 1..=LOADS {
            print::progress(format_args!("load {number} of {LOADS}"));
            apps.alone.push(load(&one, &path(0), seconds).await?);
            apps.first.push(load(&many, &path(0), seconds).await?);
            apps.last
                .push(load(&many, &path(count - 1), seconds).await?);
        }
        one.server.stop().await?;
        many.server.stop().await?;
        Ok(apps)
    }

    /// Serves `count` different components, each with a route of its own.
    async fn serve(&self, count: u16) -> Result<Fleet> {
        print::progress(format_args!("starting {count} apps"));
        let scratch = self.directory(&format!("apps-{count}"))?;
        let hello = fs::read(&self.hello).context("cannot read hello")?;
        let apps = (0..count).map(|number| {
            let component = scratch.join(format!("{number}.wasm"));
            fs::write(&component, distinct(&hello, number)).context("cannot write a component")?;
            let route = format!("{}*", path(number));
            Ok(app(&format!("app-{number}"), &component, Some(route)))
        });
        let configuration = Configuration {
            workers: WORKERS,
            pool: "",
            apps: apps.collect::<Result<_>>()?,
        };
        let path = path(0);
        // The first start compiles; what users mostly have is a later one.
        let start = || Fleet::start(&self.program, &configuration, &path, &scratch);
        start().await?.server.stop().await?;
        start().await
    }

    fn directory(&self, name: &str) -> Result<PathBuf> {
        let directory = self.scratch.path().join(name);
        fs::create_dir_all(&directory).context("cannot make a temporary directory")?;
        Ok(directory)
    }
}

/// Memory of each worker.
async fn worker_kib(fleet: &Fleet) -> Result<Vec<f64>> {
    let workers = fleet.status().await?.workers;
    let kib = |worker: &WorkerStatus| Ok(process::pss_kib(worker.pid)? as f64);
    workers.iter().map(kib).collect()
}

/// What the app of this number answers.
fn path(number: u16) -> String {
    format!("/app-{number}/")
}

async fn load(fleet: &Fleet, path: &str, seconds: u64) -> Result<Report> {
    wrk::run(&Load {
        address: fleet.server.address(),
        path: path.to_owned(),
        clients: 32,
        connections: Connections::KeptAlive,
        body: None,
        seconds,
    })
    .await
}

fn app(name: &str, component: &Path, route: Option<String>) -> App {
    App {
        name: name.to_owned(),
        component: component.to_owned(),
        route,
        instance: Instance::FRESH,
        concurrency: CONCURRENCY,
    }
}

/// A component that does the same but is another: with a custom section at its
/// end. Copies of one file would share an artifact, and so its memory.
fn distinct(component: &[u8], number: u16) -> Vec<u8> {
    const CUSTOM: u8 = 0;
    const NAME: &[u8] = b"app";
    let mut section = vec![u8::try_from(NAME.len()).expect("the name is short")];
    section.extend(NAME);
    section.extend(number.to_le_bytes());
    let mut bytes = component.to_vec();
    bytes.push(CUSTOM);
    // One byte of LEB128 holds lengths up to 127.
    bytes.push(u8::try_from(section.len()).expect("the section is short"));
    bytes.extend(section);
    bytes
}

fn milliseconds(what: &str, target: f64, values: &[f64]) -> Vec<String> {
    figures(what, target, values, |ms| format!("{ms:.1} ms"))
}

fn memory(what: &str, target: f64, values: &[f64]) -> Vec<String> {
    figures(what, target, values, table::mebibytes)
}

fn kibibytes(what: &str, target: f64, values: &[f64]) -> Vec<String> {
    figures(what, target, values, |kib| format!("{kib:.0} KiB"))
}

fn figures(what: &str, target: f64, values: &[f64], text: fn(f64) -> String) -> Vec<String> {
    let show = |value: Option<f64>| value.map_or_else(|| table::NOT_MEASURED.to_owned(), text);
    vec![
        what.to_owned(),
        format!("≤ {}", text(target)),
        show(median(values.iter().copied())),
        show(largest(values.iter().copied())),
    ]
}

/// A route among many beside a route alone: medians, then the worst run.
fn routing(which: &str, apps: u16, many: &[Report], alone: &[Report]) -> Vec<String> {
    let p50 = |reports: &[Report]| median(reports.iter().map(|report| report.p50_us));
    let rate = |reports: &[Report]| median(reports.iter().map(|report| report.requests_per_second));
    let worst = largest(many.iter().map(|report| report.p50_us));
    let show = |us: Option<f64>| us.map_or_else(|| table::NOT_MEASURED.to_owned(), table::time);
    let share = rate(many)
        .zip(rate(alone))
        .map_or(0.0, |(many, alone)| 100.0 * many / alone);
    vec![
        format!("p50 of the {which} of {apps} routes"),
        format!("that of one app: {}", show(p50(alone))),
        format!("{} ({share:.0} % of its requests/s)", show(p50(many))),
        show(worst),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distinct_components_differ_by_a_custom_section() {
        let component = b"\0asm\x0d\0\x01\0";
        let one = distinct(component, 1);
        assert_eq!(one, b"\0asm\x0d\0\x01\0\x00\x06\x03app\x01\x00");
        assert_ne!(one, distinct(component, 256));
    }

    #[test]
    fn figures_have_a_target_a_median_and_a_worst() {
        assert_eq!(
            milliseconds("x", 15.0, &[5.0, 7.0, 30.0]),
            ["x", "≤ 15.0 ms", "7.0 ms", "30.0 ms"]
        );
        assert_eq!(kibibytes("x", 500.0, &[]), ["x", "≤ 500 KiB", "–", "–"]);
    }
}
