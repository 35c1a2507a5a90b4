//! `balance`: how connections spread over workers.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use skep_core::SlotIndex;

use crate::build::{self, Guests};
use crate::fleet::Fleet;
use crate::machine::Machine;
use crate::peers::skep::{App, Configuration, Instance};
use crate::statistics::largest;
use crate::table::Table;
use crate::wrk::{self, Connections, Load};
use crate::{print, request};

/// Options of `balance`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    skep: build::Choice,
    /// Workers
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    workers: u16,
    /// Connections, one after the other
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    serial: u32,
    /// Connections at one time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: u32,
    /// Times that the busy connections are opened anew
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    repeat: u32,
}

/// The most that one of four workers may get, in percent.
const TARGET: f64 = 35.0;

/// Long enough that all connections are open and busy at once.
const BUSY_SECONDS: u64 = 2;

/// Connections that each worker ever accepted.
type Accepted = BTreeMap<SlotIndex, u64>;

/// Measures and prints.
///
/// # Errors
///
/// skep does not build, does not start or does not answer.
pub(crate) async fn run(options: &Options) -> Result<()> {
    let program = build::skep(&options.skep)?;
    let configuration = Configuration {
        workers: options.workers,
        pool: "",
        apps: vec![App {
            name: "hello".to_owned(),
            component: Guests::build()?.hello,
            route: None,
            instance: Instance::FRESH,
            concurrency: 1000,
        }],
    };
    let scratch = tempfile::tempdir().context("cannot make a temporary directory")?;
    let fleet = Fleet::start(&program, &configuration, "/", scratch.path()).await?;
    let mut table = Table::new([
        "load",
        "connections",
        "target",
        "largest share",
        "all shares",
    ]);

    print::progress("serial connections");
    let before = accepted(&fleet).await?;
    for _ in 0..options.serial {
        let answer = request::get(fleet.server.address(), "/").await?;
        ensure!(
            answer.status == 200,
            "a request was answered with {}",
            answer.status
        );
    }
    let serial = Shares::between(&before, &accepted(&fleet).await?);
    table.row(serial.row("serial, one request each".to_owned()));

    let busy = [
        (Connections::KeptAlive, "kept alive"),
        (Connections::New, "one request each"),
    ];
    for (connections, what) in busy {
        for number in 1..=options.repeat {
            print::progress(format_args!(
                "busy connections, {what}, {number} of {}",
                options.repeat
            ));
            let load = Load {
                address: fleet.server.address(),
                path: "/".to_owned(),
                clients: options.clients,
                connections,
                body: None,
                seconds: BUSY_SECONDS,
            };
            let before = accepted(&fleet).await?;
            wrk::run(&load).await?;
            let shares = Shares::between(&before, &accepted(&fleet).await?);
            table.row(shares.row(format!("{} busy, {what}, run {number}", options.clients)));
        }
    }
    fleet.server.stop().await?;
    let head = format!("{} workers. {}.", options.workers, Machine::here());
    print::result(format_args!(
        "## Spread of connections\n\n{head}\n\n{table}"
    ));
    Ok(())
}

async fn accepted(fleet: &Fleet) -> Result<Accepted> {
    let workers = fleet.status().await?.workers;
    Ok(workers
        .into_iter()
        .map(|worker| (worker.slot, worker.accepted))
        .collect())
}

/// Connections per worker, in the order of slots.
struct Shares(Vec<u64>);

impl Shares {
    fn between(before: &Accepted, after: &Accepted) -> Self {
        let gained = |(slot, now): (&SlotIndex, &u64)| {
            now.saturating_sub(before.get(slot).copied().unwrap_or(0))
        };
        Self(after.iter().map(gained).collect())
    }

    fn row(&self, load: String) -> [String; 5] {
        let all: u64 = self.0.iter().sum();
        let percent = |count: &u64| 100.0 * *count as f64 / all.max(1) as f64;
        let shares = self.0.iter().map(|count| format!("{:.0}", percent(count)));
        [
            load,
            all.to_string(),
            format!("≤ {TARGET:.0} %"),
            format!(
                "{:.1} %",
                largest(self.0.iter().map(percent)).unwrap_or(0.0)
            ),
            format!("{} %", shares.collect::<Vec<_>>().join(" / ")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_what_was_gained() {
        let accepted =
            |counts: [u64; 3]| -> Accepted { (0..).map(SlotIndex).zip(counts).collect() };
        let shares = Shares::between(&accepted([100, 0, 5]), &accepted([110, 30, 5]));
        assert_eq!(
            shares.row("x".to_owned()),
            ["x", "40", "≤ 35 %", "75.0 %", "25 / 75 / 0 %"]
        );
    }
}
