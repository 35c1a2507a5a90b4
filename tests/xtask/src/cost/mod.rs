//! `cost`: what one request and one connection cost a worker, in counts that
//! repeat.
//!
//! Times of one machine say little about another and about tomorrow. What a
//! worker executes for a request does not change with the load of the machine:
//! instructions of its own under callgrind, system calls under strace. Each figure
//! is the difference of two runs of different lengths, divided by the difference,
//! so that starting is not in it.

mod baseline;
mod callgrind;
mod worker;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use skep_core::InstancePolicy;
use skep_wire::Flavor;

use crate::build::{self, Guests, root};
use crate::client::{self, Ask};
use crate::print;
use crate::process::{self, Recipient};
use crate::table::{Table, count};
use baseline::{Baseline, Growth};
use callgrind::{Each, Locked, Profile};
use worker::{Around, Serves, Worker};

/// Longest time for which an instance is kept.
const PATIENCE: Duration = Duration::from_secs(120);

/// Where counts are written down.
const BASELINE: &str = "benches/cost.json";

/// How often a case is counted that seems to have grown: something else may have
/// come in between.
const TRIES: usize = 3;

/// Functions that `--functions` prints.
const FUNCTIONS: usize = 70;

/// Options of `cost`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    skep: build::Choice,
    /// Only what is named so
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Name the functions that take most
    #[arg(long)]
    functions: bool,
    /// Keep what callgrind wrote in this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Leave out what valgrind counts
    #[arg(long)]
    quick: bool,
    /// Fail if a count has grown since it was written down, by more than 3 %, or
    /// by more than such a count differs by between two runs
    #[arg(long, conflicts_with = "quick")]
    check: bool,
    /// Write the counts down in benches/cost.json
    #[arg(long, conflicts_with = "quick")]
    write: bool,
}

/// What is measured.
struct Case {
    name: &'static str,
    guest: fn(&Guests) -> &PathBuf,
    flavor: Flavor,
    reuse: u32,
    concurrent: u32,
    ask: Ask,
    /// By how much its counts may grow unnoticed.
    growth: Growth,
    /// Requests of the shorter and of the longer run.
    runs: (u32, u32),
}

fn cases() -> Vec<Case> {
    let get = |head| Ask {
        head,
        body: 0,
        status: 200,
        alone: false,
    };
    let hello = Case {
        name: "0.2, fresh",
        guest: |guests| &guests.hello,
        flavor: Flavor::P2,
        reuse: 1,
        concurrent: 1,
        ask: get("GET /app/hello HTTP/1.1"),
        growth: Growth::EXACT,
        runs: (300, 1300),
    };
    let with = |name, change: &dyn Fn(&mut Case)| {
        let mut case = Case {
            ask: hello.ask.clone(),
            ..hello
        };
        case.name = name;
        change(&mut case);
        case
    };
    let by_turns = |case: &mut Case| {
        case.guest = |guests| &guests.hello_p3;
        case.flavor = Flavor::P3;
        case.growth = Growth::BY_TURNS;
    };
    vec![
        with("0.2, fresh", &|case| case.growth = Growth::BEHIND),
        with("0.2, reused", &|case| case.reuse = 1_000_000),
        with("0.3, fresh", &by_turns),
        with("0.3, reused", &|case| {
            by_turns(case);
            case.reuse = 1_000_000;
        }),
        with("0.3, shared", &|case| {
            by_turns(case);
            (case.reuse, case.concurrent) = (1_000_000, 16);
        }),
        with("404", &|case| {
            case.ask.head = "GET /nobody HTTP/1.1";
            case.ask.status = 404;
        }),
        with("echo of 1 KB, reused", &|case| {
            case.guest = |guests| &guests.echo;
            case.reuse = 1_000_000;
            (case.ask.head, case.ask.body) = ("POST /app/ HTTP/1.1", 1000);
        }),
        with("echo of 1 MB, reused", &|case| {
            case.guest = |guests| &guests.echo;
            case.reuse = 1_000_000;
            (case.ask.head, case.ask.body) = ("POST /app/ HTTP/1.1", 1_000_000);
            case.runs = (4, 24);
        }),
        with("connection, reused", &|case| {
            case.reuse = 1_000_000;
            case.ask.alone = true;
        }),
    ]
}

/// What one request takes natively.
#[derive(Clone, Debug, Default)]
struct Native {
    calls: BTreeMap<String, f64>,
    switches: f64,
    faults: f64,
}

/// Measures.
///
/// # Errors
///
/// Something cannot be built, a tool is missing, or a worker does not answer as
/// it should.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let program = match options.check || options.write {
        true => build::skep_to_compare(&options.skep)?,
        false => build::skep(&options.skep)?,
    };
    let guests = Guests::build()?;
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    if let Some(keep) = &options.keep {
        fs::create_dir_all(keep).with_context(|| format!("cannot make {}", keep.display()))?;
    }
    let mut table = Table::new([
        "for each request",
        "instructions",
        "locked",
        "allocations",
        "system calls",
        "switches",
        "page faults",
    ]);
    let locked = match options.quick {
        true => None,
        false => Some(Locked::of(&program)?),
    };
    let file = root().join(BASELINE);
    let before = match options.check {
        true => Baseline::read(&file)?,
        false => Baseline::default(),
    };
    let (mut now, mut grown) = (Baseline::default(), Vec::new());
    let mut artifacts = BTreeMap::new();
    for case in cases() {
        if !options.only.is_empty() && !options.only.iter().any(|name| case.name.contains(name)) {
            continue;
        }
        print::progress(case.name);
        let component = (case.guest)(&guests);
        let number = artifacts.len();
        let made = artifacts.entry(component.clone());
        let (native, emulated) = match made {
            Entry::Occupied(made) => made.into_mut(),
            Entry::Vacant(none) => {
                none.insert(compile(&program, component, scratch.path(), number)?)
            }
        };
        let serves = |artifact| Serves {
            artifact,
            flavor: case.flavor,
            instance: InstancePolicy {
                reuse: case.reuse,
                concurrent: case.concurrent,
                idle: PATIENCE,
            },
        };
        let keep = options.keep.as_deref().unwrap_or_else(|| scratch.path());
        let native = natively(&program, &case, &serves(native), scratch.path())?;
        let mut each = None;
        if let Some(locked) = &locked {
            let mut least = None;
            for _ in 0..TRIES {
                let tried = counted(&program, &case, &serves(emulated), keep, locked)?;
                let counts = tried.counts();
                let counts = least.map_or(counts, |least| counts.least(least));
                (least, each) = (Some(counts), Some(tried));
                now.0.insert(case.name.to_owned(), counts);
                let more = match before.0.get(case.name) {
                    Some(before) => counts.grown_since(*before, case.growth),
                    None => Vec::new(),
                };
                grown.retain(|(name, _)| *name != case.name);
                if more.is_empty() {
                    break;
                }
                grown.push((case.name, more.join(", ")));
            }
        }
        let of = |get: fn(&Each) -> f64, digits: usize| match &each {
            Some(each) if digits == 0 => count(get(each)),
            Some(each) => format!("{:.digits$}", get(each)),
            None => crate::table::NOT_MEASURED.to_owned(),
        };
        table.row([
            case.name.to_owned(),
            of(|each| each.instructions, 0),
            of(|each| each.locked, 1),
            of(|each| each.allocations, 1),
            format!("{:.2}", native.calls.values().sum::<f64>()),
            format!("{:.2}", native.switches),
            format!("{:.2}", native.faults),
        ]);
        for (name, count) in &native.calls {
            print::progress(format_args!("    {name} {count:.2}"));
        }
        if options.functions
            && let Some(each) = &each
        {
            for (name, cost) in each.functions.iter().take(FUNCTIONS) {
                print::progress(format_args!("{cost:9.1}  {name}"));
            }
        }
    }
    print::result(table);
    if options.write {
        now.write(&file)?;
    }
    let grown: Vec<String> = grown
        .into_iter()
        .map(|(name, more)| format!("{name}: {more}"))
        .collect();
    ensure!(
        grown.is_empty(),
        "a request costs more than before:\n{}\nmend it, or say why in the commit and write it down \
         by `cargo xtask cost --write`",
        grown.join("\n")
    );
    Ok(())
}

/// Has skep compile a component: for this machine's processor, and for the one that
/// valgrind shows, which is not as capable.
fn compile(
    program: &Path,
    component: &Path,
    scratch: &Path,
    number: usize,
) -> Result<(PathBuf, PathBuf)> {
    let artifact = |kind: &str, around: &Around| -> Result<PathBuf> {
        let file = scratch.join(format!("{number}-{kind}.cwasm"));
        worker::compile(program, around, component, &file)?;
        Ok(file)
    };
    let native = artifact("native", &Around::default())?;
    // A builder confines itself where it can. Valgrind needs calls that it forbids,
    // and lets it keep a limit of descriptors, but not set a lower one.
    let command = "strace -q -o /dev/null -e trace=seccomp -e inject=seccomp:error=ENOSYS \
                   prlimit --nofile=24:64 valgrind -q --tool=none --vgdb=no";
    let around = Around {
        command: command.split_whitespace().map(str::to_owned).collect(),
        confined: false,
    };
    Ok((native, artifact("emulated", &around)?))
}

/// What callgrind counts.
fn counted(
    program: &Path,
    case: &Case,
    serves: &Serves<'_>,
    scratch: &Path,
    locked: &Locked,
) -> Result<Each> {
    let mut profiles = Vec::new();
    for times in [case.runs.0, case.runs.1] {
        let file = scratch.join(format!(
            "{}-{times}.callgrind",
            case.name.replace(", ", "-")
        ));
        let around = Around {
            command: callgrind::command(&file),
            confined: false,
        };
        let worker = Worker::start(program, &around, serves)?;
        client::ask(worker.address()?, &case.ask, times)?;
        worker.stop()?;
        profiles.push(Profile::read(&file, program, locked)?);
    }
    Ok(profiles[1].minus(&profiles[0], case.runs.1 - case.runs.0))
}

/// What the kernel counts.
fn natively(program: &Path, case: &Case, serves: &Serves<'_>, scratch: &Path) -> Result<Native> {
    let around = Around {
        confined: true,
        ..Around::default()
    };
    let worker = Worker::start(program, &around, serves)?;
    let address = worker.address()?;
    // Everything is warm.
    client::ask(address, &case.ask, case.runs.0)?;
    let times = case.runs.1;
    let before = Status::read(worker.pid())?;
    client::ask(address, &case.ask, times)?;
    let after = Status::read(worker.pid())?;
    let calls = calls(worker.pid(), scratch, || {
        client::ask(address, &case.ask, times)
    })?;
    worker.stop()?;
    let each = |more: u64, less: u64| (more - less) as f64 / f64::from(times);
    Ok(Native {
        calls: calls
            .into_iter()
            .map(|(name, count)| (name, each(count, 0)))
            .filter(|(_, count)| *count >= 0.005)
            .collect(),
        switches: each(after.switches, before.switches),
        faults: each(after.faults, before.faults),
    })
}

/// System calls that a process makes meanwhile, by name.
fn calls(
    pid: u32,
    scratch: &Path,
    meanwhile: impl FnOnce() -> Result<()>,
) -> Result<BTreeMap<String, u64>> {
    let file = scratch.join("strace.out");
    let pid = pid.to_string();
    let mut strace = Command::new("strace")
        .args(["-c", "-U", "name,calls", "-o"])
        .arg(&file)
        .args(["-p", &pid])
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run strace")?;
    // It says when it has attached.
    let mut said = std::io::BufReader::new(strace.stderr.take().context("its standard error")?);
    let mut line = String::new();
    std::io::BufRead::read_line(&mut said, &mut line)?;
    ensure!(line.contains("attached"), "strace: {line}");
    let done = meanwhile();
    process::send("INT", Recipient::Process(strace.id()))?;
    strace.wait()?;
    done?;
    let text = fs::read_to_string(&file)?;
    Ok(text
        .lines()
        .filter_map(|line| {
            let (name, calls) = line.trim().split_once(char::is_whitespace)?;
            Some((name.to_owned(), calls.trim().parse().ok()?))
        })
        .filter(|(name, _): &(String, u64)| name != "total")
        .collect())
}

/// What the kernel has counted of a process so far.
struct Status {
    switches: u64,
    faults: u64,
}

impl Status {
    fn read(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            Ok(line.with_context(|| format!("no {name}"))?.trim().parse()?)
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, rest) = stat.rsplit_once(')').context("a name in parentheses")?;
        let faults = rest.split_whitespace().nth(7).context("minor faults")?;
        Ok(Self {
            switches: field("voluntary_ctxt_switches:")?,
            faults: faults.parse()?,
        })
    }
}
