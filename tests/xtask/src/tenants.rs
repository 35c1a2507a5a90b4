//! `tenants`: many tenants on one fleet, one of them hostile with everything
//! that there is, and what the others notice of it.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use skep_tests::http::Address;
use skep_tests::load::{Load, Style, Tally};
use skep_tests::options::Options as Start;
use skep_tests::{Skep, guest, process};

use crate::build;
use crate::machine::Machine;
use crate::print;
use crate::table::{self, Table};

/// Options of `tenants`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    skep: build::Choice,
    /// Tenants, the hostile one among them
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(2..=1000))]
    tenants: u32,
    /// Seconds with the hostile tenant
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    duration: u64,
    /// Seconds without it
    #[arg(long, value_name = "SECONDS", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=3600))]
    quiet: u64,
    /// Requests a second of the hostile tenant's clients
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Requests a second of each other tenant's client
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    each: u32,
}

/// What the hostile tenant's apps are, and what is asked of them.
const HOSTILE: &[(&str, &str)] = &[
    ("hostile-spin", "/"),
    ("hostile-spin-p3", "/"),
    ("hostile-sleep-forever", "/"),
    ("hostile-hog", "/"),
    ("hostile-hog-memories", "/"),
    ("hostile-hog-tables", "/"),
    ("hostile-hog-handles", "/"),
    ("hostile-hog-fields", "/"),
    ("hostile-hog-bodies", "/"),
    ("hostile-hoard-resources", "/"),
    ("hostile-hoard-slots", "/"),
    ("hostile-hoard-p3", "/tasks"),
    ("hostile-deep-stack", "/"),
    ("hostile-flood-log", "/"),
    ("hostile-flood-logging", "/"),
    ("hostile-bad-response", "/"),
    ("hostile-big-headers", "/"),
    ("hostile-slow-drip", "/"),
    ("hostile-linger", "/spin"),
    ("hostile-never-respond", "/"),
    ("hostile-panic-after-headers", "/"),
    ("hostile-exit", "/"),
    ("hostile-trap", "/"),
    ("hostile-trap-random", "/"),
    ("hostile-trap-p3", "/"),
    ("hostile-probe", "/"),
    ("hostile-outbound-forbidden", "/"),
    ("hostile-outbound-storm", "/"),
    ("hostile-outbound-hoard", "/"),
];

/// How often each hostile client asks: as long as a call may take, so that
/// the rate holds although most of them take that long.
const PACE: Duration = Duration::from_secs(2);

/// Bytes that the fleet may have: of each worker, by its limit, and of the
/// processes beside them.
const WORKER_MEMORY: u64 = 1 << 30;
const BESIDE: u64 = 128 << 20;
const WORKERS: u16 = 2;

/// What one neighbour saw.
struct Neighbour {
    quiet: Tally,
    noisy: Tally,
}

/// Measures and prints.
///
/// # Errors
///
/// skep does not build or does not start.
pub(crate) fn run(options: &Options) -> Result<()> {
    let program = build::skep(&options.skep)?;
    let hello = guest("hello");
    let mut config = format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\n\
         [pool.default]\nworkers = {WORKERS}\nmemory = \"{}MiB\"\n\
         [tenant.hostile]\nmemory = \"256MiB\"\nconcurrency = 64\n",
        WORKER_MEMORY >> 20
    );
    for (name, _) in HOSTILE {
        let component = guest(name);
        let _ = write!(
            config,
            "[app.{name}]\ncomponent = {component:?}\ntenant = \"hostile\"\nroutes = [\"/{name}/*\"]\n\
             strip_prefix = true\ntimeout = \"2s\"\ncpu = \"200ms\"\nmemory = \"64MiB\"\n"
        );
    }
    let neighbours = options.tenants - 1;
    for number in 0..neighbours {
        let _ = write!(
            config,
            "[tenant.t{number}]\nmemory = \"64MiB\"\nconcurrency = 32\n\
             [app.a{number}]\ncomponent = {hello:?}\ntenant = \"t{number}\"\nroutes = [\"/t{number}/*\"]\n"
        );
    }
    let skep = Start::config(&config).binary(&program).start();
    let address = skep.address();
    let before = skep.status();

    print::progress(format_args!(
        "{} s of {neighbours} tenants alone",
        options.quiet
    ));
    let quiet = neighbours_for(&address, options, Duration::from_secs(options.quiet));
    print::progress(format_args!(
        "{} s with a hostile one at {} requests/s",
        options.duration, options.rate
    ));
    let watch = MemoryWatch::start(&skep);
    let hostile = hostile(&address, options.rate);
    let noisy = neighbours_for(&address, options, Duration::from_secs(options.duration));
    let attacks: Vec<_> = hostile
        .into_iter()
        .map(|(name, load)| (name, load.stop()))
        .collect();
    let most = watch.stop();
    let after = skep.status();

    let seen: Vec<_> = quiet
        .into_iter()
        .zip(noisy)
        .map(|(quiet, noisy)| Neighbour { quiet, noisy })
        .collect();
    report(&seen, &attacks, options, most);
    let pids = |status: &skep_wire::FleetStatus| {
        let mut pids: Vec<_> = status.workers.iter().map(|worker| worker.pid).collect();
        pids.sort_unstable();
        pids
    };
    let died = pids(&before) != pids(&after);
    print::result(format_args!(
        "Workers are the same processes as before: {}.\n",
        if died { "no" } else { "yes" }
    ));
    ensure!(!died, "a worker has ended:\n{}", skep.log());
    Ok(())
}

/// One client per tenant, for so long.
fn neighbours_for(address: &Address, options: &Options, time: Duration) -> Vec<Tally> {
    let every = Duration::from_secs(1) / options.each;
    let loads: Vec<_> = (0..options.tenants - 1)
        .map(|number| Load::paced(address, &format!("/t{number}/"), 1, Style::KeptAlive, every))
        .collect();
    // What is measured is this long.
    std::thread::sleep(time);
    loads.into_iter().map(Load::stop).collect()
}

fn hostile(address: &Address, rate: u32) -> Vec<(&'static str, Load)> {
    let clients = f64::from(rate) * PACE.as_secs_f64() / HOSTILE.len() as f64;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "some dozens"
    )]
    let clients = clients.ceil() as usize;
    HOSTILE
        .iter()
        .map(|(name, target)| {
            let target = format!("/{name}{target}");
            let load = Load::paced(address, &target, clients, Style::Fresh, PACE);
            (*name, load)
        })
        .collect()
}

/// The largest memory of all processes of a fleet, looked at again and again.
struct MemoryWatch {
    stop: Arc<AtomicBool>,
    most: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<()>,
}

impl MemoryWatch {
    fn start(skep: &Skep) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let most = Arc::new(AtomicU64::new(0));
        let thread = std::thread::spawn({
            let (stop, most, pid) = (Arc::clone(&stop), Arc::clone(&most), skep.pid());
            move || {
                while !stop.load(Relaxed) {
                    let children = process::children(pid);
                    let pids = children.iter().map(|child| child.pid).chain([pid]);
                    let now = pids.filter_map(process::pss).sum();
                    most.fetch_max(now, Relaxed);
                    std::thread::sleep(Duration::from_millis(500));
                }
            }
        });
        Self { stop, most, thread }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Relaxed);
        let _ = self.thread.join();
        self.most.load(Relaxed)
    }
}

fn report(seen: &[Neighbour], attacks: &[(&str, Tally)], options: &Options, most: u64) {
    let mut worst = Duration::ZERO;
    let mut over = 0;
    let mut errors = 0;
    let mut requests = 0;
    let (mut quiet_p99, mut noisy_p99) = (Vec::new(), Vec::new());
    for neighbour in seen {
        errors += neighbour.noisy.failures();
        requests += neighbour.noisy.total();
        if neighbour.quiet.ok == 0 || neighbour.noisy.ok == 0 {
            over += 1;
            continue;
        }
        let quiet = neighbour.quiet.quantile(0.99);
        let noisy = neighbour.noisy.quantile(0.99);
        if noisy > quiet * 2 + Duration::from_millis(5) {
            over += 1;
        }
        worst = worst.max(noisy);
        quiet_p99.push(quiet);
        noisy_p99.push(noisy);
    }
    quiet_p99.sort_unstable();
    noisy_p99.sort_unstable();
    let middle = |times: &[Duration]| {
        let time = times.get(times.len() / 2).copied().unwrap_or_default();
        table::time(time.as_secs_f64() * 1e6)
    };
    let mut table = Table::new(["what", "target", "measured"]);
    let mut row = |what: &str, target: &str, measured: String| {
        table.row(vec![what.to_owned(), target.to_owned(), measured]);
    };
    row(
        "requests of the others",
        "",
        format!("{requests} in {} s", options.duration),
    );
    row("of them failed", "0", errors.to_string());
    row("median of the tenants' quiet p99", "", middle(&quiet_p99));
    row(
        "median of the tenants' p99 beside the hostile one",
        "",
        middle(&noisy_p99),
    );
    row(
        "worst p99 of a tenant",
        "",
        table::time(worst.as_secs_f64() * 1e6),
    );
    row(
        "tenants over 2 × their quiet p99 + 5 ms",
        "0",
        format!("{over} of {}", seen.len()),
    );
    let budget = u64::from(WORKERS) * WORKER_MEMORY + BESIDE;
    row(
        "most memory of all processes",
        &format!("≤ {}", table::mebibytes(budget as f64 / 1024.0)),
        table::mebibytes(most as f64 / 1024.0),
    );
    print::result(format_args!(
        "## {} tenants, one of them hostile\n\n{}.\n\n{table}",
        options.tenants,
        Machine::here()
    ));
    let mut table = Table::new([
        "hostile guest",
        "requests",
        "200",
        "503",
        "others",
        "cut or closed",
    ]);
    for (name, tally) in attacks {
        let cut = tally.short + tally.lost_fresh + tally.lost_kept + tally.timed_out;
        table.row(vec![
            (*name).to_owned(),
            tally.total().to_string(),
            tally.ok.to_string(),
            tally.refused_busy.to_string(),
            tally.other_status.len().to_string(),
            cut.to_string(),
        ]);
    }
    print::result(format_args!("{table}"));
}
