//! `compare`: skep beside other servers, all with the same load.
//!
//! ```text
//! for each round: for each server: start → idle memory → warm up → kept-alive load
//!                                        → half of that, by the clock → new connections → end
//!                                  start as an echo → warm up → 1 KiB → 100 KiB → end
//! ```
//! Whole rounds are repeated instead of one server's runs, so that a machine
//! that gets slower with time does so for all. Figures are medians over the
//! rounds. The load generator shares the machine with the servers, which is why CPU
//! time for each request is measured beside requests for each second.

mod measure;
mod report;

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;

use crate::build::{self, Guests, root};
use crate::machine::Machine;
use crate::peers::{self, Built, Id, Peer};
use crate::print;
use crate::tools::{self, Absent};
use measure::{Round, Sample};
use report::Comparison;

/// Where `--write` adds to.
const RESULTS: &str = "benches/RESULTS.md";

/// Options of `compare`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    skep: build::Choice,
    /// Seconds of each kind of load
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    duration: u64,
    /// Rounds
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
    /// Clients at one time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// Only servers whose name begins so, such as skep-p2 or nginx
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// No servers whose name begins so
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    skip: Vec<String>,
    /// Get wasmtime from crates.io and workerd from npm if there are none
    #[arg(long)]
    install: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Add the tables to benches/RESULTS.md
    #[arg(long)]
    write: bool,
    /// Fail if a floor is missed
    #[arg(long)]
    strict: bool,
}

/// A server that takes part.
struct Contender {
    id: Id,
    peer: Box<dyn Peer>,
    /// Its files, kept over the rounds: caches stay warm.
    scratch: PathBuf,
}

/// Runs the comparison.
///
/// # Errors
///
/// Nothing can be built or nobody takes part. A server that fails is named in
/// the result and the others go on.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let chosen = options.chosen()?;
    let wrk = tools::find("wrk").map_err(|Absent(reason)| anyhow::anyhow!(reason))?;
    if options.install {
        tools::install_wasmtime()?;
        tools::install_workerd()?;
    }
    let built = Built {
        guests: Guests::build()?,
        skep: chosen
            .iter()
            .any(|id| id.is_skep())
            .then(|| build::skep(&options.skep))
            .transpose()?,
    };
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;

    let (mut contenders, mut absent) = (Vec::new(), BTreeMap::new());
    for id in chosen {
        match peers::peer(id, &built) {
            Ok(peer) => contenders.push(Contender::new(id, peer, scratch.path())?),
            Err(Absent(reason)) => {
                print::progress(format_args!("{id} is absent: {reason}"));
                absent.insert(id, reason);
            }
        }
    }
    if contenders.is_empty() {
        bail!("nobody takes part");
    }

    let round = Round {
        seconds: options.duration,
        clients: options.clients,
    };
    let mut samples: BTreeMap<Id, Vec<Sample>> = BTreeMap::new();
    for number in 1..=options.repeat {
        let mut failed = Vec::new();
        for contender in &contenders {
            let Contender { id, peer, scratch } = contender;
            print::progress(format_args!("round {number} of {}: {id}", options.repeat));
            match round.measure(peer.as_ref(), scratch).await {
                Ok(sample) => samples.entry(*id).or_default().push(sample),
                Err(error) => {
                    print::progress(format_args!("{id} failed: {error:#}"));
                    absent.insert(*id, format!("failed: {error:#}"));
                    failed.push(*id);
                }
            }
        }
        contenders.retain(|contender| !failed.contains(&contender.id));
    }

    let mut machine = Machine::here();
    machine.programs = versions(&wrk);
    let comparison = Comparison::new(machine, round, options.repeat, &samples, absent);
    publish(options, &comparison)
}

fn publish(options: &Options, comparison: &Comparison) -> Result<()> {
    if options.json {
        print::result(serde_json::to_string_pretty(comparison)?);
    } else {
        print::result(comparison);
    }
    if options.write {
        let file = root().join(RESULTS);
        OpenOptions::new()
            .create(true)
            .append(true)
            .open(&file)
            .and_then(|mut file| write!(file, "\n{comparison}"))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    let missed = comparison
        .verdicts()
        .iter()
        .filter(|verdict| verdict.is_failure())
        .count();
    ensure!(!options.strict || missed == 0, "{missed} floors are missed");
    Ok(())
}

impl Contender {
    fn new(id: Id, peer: Box<dyn Peer>, scratch: &Path) -> Result<Self> {
        let scratch = scratch.join(id.name());
        std::fs::create_dir(&scratch).context("cannot make a temporary directory")?;
        Ok(Self { id, peer, scratch })
    }
}

impl Options {
    fn chosen(&self) -> Result<Vec<Id>> {
        for prefix in self.only.iter().chain(&self.skip) {
            ensure!(
                Id::ALL
                    .iter()
                    .any(|id| id.name().starts_with(prefix.as_str())),
                "no server's name begins with {prefix}; there are: {}",
                Id::ALL
                    .iter()
                    .map(|id| id.name())
                    .collect::<Vec<_>>()
                    .join(", ")
            );
        }
        let named = |id: Id, prefixes: &[String]| {
            prefixes
                .iter()
                .any(|prefix| id.name().starts_with(prefix.as_str()))
        };
        Ok(Id::ALL
            .iter()
            .copied()
            .filter(|id| self.only.is_empty() || named(*id, &self.only))
            .filter(|id| !named(*id, &self.skip))
            .collect())
    }
}

fn versions(wrk: &Path) -> Vec<String> {
    let of = |program: Result<PathBuf, Absent>, flag| tools::version(&program.ok()?, flag);
    [
        tools::version(wrk, "-v").map(|text| text.replace(" Copyright (C) 2012 Will Glozer", "")),
        of(tools::find("nginx"), "-v"),
        of(tools::find("node"), "-v").map(|version| format!("node {version}")),
        of(tools::wasmtime(), "--version"),
        of(tools::workerd(), "--version"),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn seconds(text: &str) -> Result<u64, String> {
    let number = text.strip_suffix('s').unwrap_or(text);
    match number.parse() {
        Ok(seconds @ 1..=600) => Ok(seconds),
        _ => Err("expected whole seconds from 1s to 600s".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(only: &[&str], skip: &[&str]) -> Options {
        Options {
            skep: build::Choice::default(),
            duration: 5,
            repeat: 1,
            clients: 32,
            only: only.iter().map(|&name| name.to_owned()).collect(),
            skip: skip.iter().map(|&name| name.to_owned()).collect(),
            install: false,
            json: false,
            write: false,
            strict: false,
        }
    }

    #[test]
    fn servers_are_chosen_by_the_beginning_of_their_name() {
        assert_eq!(options(&[], &[]).chosen().unwrap(), Id::ALL);
        assert_eq!(
            options(&["ng", "hyper"], &[]).chosen().unwrap(),
            [Id::Hyper, Id::Nginx]
        );
        assert_eq!(
            options(&["skep-p2"], &["skep-p2-"]).chosen().unwrap(),
            [Id::SkepP2]
        );
        assert!(options(&["apache"], &[]).chosen().is_err());
    }

    #[test]
    fn durations_are_whole_seconds() {
        assert_eq!(seconds("5s"), Ok(5));
        assert_eq!(seconds("7"), Ok(7));
        assert!(seconds("0s").is_err() && seconds("500ms").is_err());
    }
}
