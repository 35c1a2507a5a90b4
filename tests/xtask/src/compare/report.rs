//! The comparison as text for people and JSON for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::measure::{Measured, Round, Sample};
use crate::machine::Machine;
use crate::paced::Pace;
use crate::peers::{Id, WORKERS};
use crate::statistics::median;
use crate::table::{self, Table};
use crate::target::{self, Figure, Verdict};

/// All that came out.
#[derive(Debug, Serialize)]
pub(super) struct Comparison {
    machine: Machine,
    workers: u16,
    round: Round,
    rounds: u32,
    servers: Vec<Row>,
    absent: BTreeMap<Id, String>,
    verdicts: Vec<Verdict>,
}

/// Medians of one server.
#[derive(Debug, Serialize)]
struct Row {
    server: Id,
    rounds: usize,
    kept_alive: Medians,
    new: Medians,
    /// At half the rate of `kept_alive`.
    paced: Paced,
    /// Of each size of echo that is measured, where the server has an echo.
    echoes: Option<[Medians; 2]>,
    processes: usize,
    /// The median worker's.
    worker_pss_kib: f64,
    total_pss_kib: f64,
}

#[derive(Debug, Serialize)]
struct Medians {
    requests_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
    /// Of all rounds together.
    errors: u64,
}

/// Latencies at a fixed rate.
#[derive(Debug, Serialize)]
struct Paced {
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    errors: u64,
}

impl Comparison {
    pub(super) fn new(
        machine: Machine,
        round: Round,
        rounds: u32,
        samples: &BTreeMap<Id, Vec<Sample>>,
        absent: BTreeMap<Id, String>,
    ) -> Self {
        let servers: Vec<Row> = samples
            .iter()
            .filter_map(|(id, samples)| Row::new(*id, samples))
            .collect();
        let verdicts = target::judge(|id, figure| {
            let row = servers.iter().find(|row| row.server == id)?;
            Some(match figure {
                Figure::Requests => row.kept_alive.requests_per_second,
                Figure::Connections => row.new.requests_per_second,
                Figure::PacedP50 => row.paced.p50_us,
                Figure::PacedP99 => row.paced.p99_us,
            })
        });
        Self {
            machine,
            workers: WORKERS,
            round,
            rounds,
            servers,
            absent,
            verdicts,
        }
    }

    pub(super) fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    fn throughput(&self) -> Table {
        let mut table = Table::new([
            "server",
            "requests/s",
            "CPU/request",
            "new conn/s",
            "CPU/conn",
            "echo 1 KiB/s",
            "CPU",
            "echo 100 KiB/s",
            "CPU",
            "errors",
        ]);
        for row in &self.servers {
            let pair = |load: &Medians| {
                [
                    table::count(load.requests_per_second),
                    table::time(load.cpu_us),
                ]
            };
            let none = || [table::NOT_MEASURED; 2].map(str::to_owned);
            let [small, large] = match &row.echoes {
                Some(echoes) => echoes.each_ref().map(pair),
                None => [none(), none()],
            };
            let figures = [pair(&row.kept_alive), pair(&row.new), small, large];
            let label = [row.server.label().to_owned()];
            let errors = [row.errors().to_string()];
            table.row(
                label
                    .into_iter()
                    .chain(figures.into_iter().flatten())
                    .chain(errors),
            );
        }
        table
    }

    fn latency(&self) -> Table {
        let mut table = Table::new([
            "server",
            "half load, requests/s",
            "p50",
            "p99",
            "full load: p50",
            "p99",
            "new conn: p50",
            "p99",
        ]);
        for row in &self.servers {
            let Row {
                paced,
                kept_alive,
                new,
                ..
            } = row;
            let times = [
                paced.p50_us,
                paced.p99_us,
                kept_alive.p50_us,
                kept_alive.p99_us,
                new.p50_us,
                new.p99_us,
            ];
            let label = [row.server.label().to_owned(), table::count(paced.rate)];
            table.row(label.into_iter().chain(times.map(table::time)));
        }
        table
    }

    fn memory(&self) -> Table {
        let mut table = Table::new(["server", "processes that serve", "PSS of one", "PSS, all"]);
        for row in &self.servers {
            table.row([
                row.server.label().to_owned(),
                row.processes.to_string(),
                table::mebibytes(row.worker_pss_kib),
                table::mebibytes(row.total_pss_kib),
            ]);
        }
        table
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            machine,
            workers,
            round,
            rounds,
            ..
        } = self;
        writeln!(f, "## Comparison\n")?;
        writeln!(f, "{machine}.\n")?;
        writeln!(
            f,
            "{workers} workers each, {} clients, {} s of each load, medians of {rounds} rounds; the \
             load generator shares the machine. At half load, requests are sent by the clock at half \
             the rate that the server reached, and count from when they were due. PSS is measured \
             before any load.\n",
            round.clients, round.seconds
        )?;
        writeln!(f, "{}", self.throughput())?;
        writeln!(f, "{}", self.latency())?;
        writeln!(f, "{}", self.memory())?;
        for (id, reason) in &self.absent {
            let reason = reason.lines().next().unwrap_or_default();
            writeln!(f, "- {}: {reason}", id.label())?;
        }
        if !self.absent.is_empty() {
            writeln!(f)?;
        }
        write!(f, "{}", target::table(&self.verdicts))
    }
}

impl Row {
    fn new(server: Id, samples: &[Sample]) -> Option<Self> {
        let workers = samples.iter().flat_map(|sample| &sample.worker_pss_kib);
        Some(Self {
            server,
            rounds: samples.len(),
            kept_alive: Medians::new(samples.iter().map(|sample| &sample.kept_alive))?,
            new: Medians::new(samples.iter().map(|sample| &sample.new))?,
            paced: Paced::new(samples)?,
            echoes: echoes(samples),
            processes: samples.last()?.worker_pss_kib.len(),
            worker_pss_kib: median(workers.map(|kib| *kib as f64))?,
            total_pss_kib: median(samples.iter().map(|sample| sample.total_pss_kib as f64))?,
        })
    }
}

impl Row {
    /// Of all loads and rounds together.
    fn errors(&self) -> u64 {
        let echoes = self.echoes.iter().flatten();
        let loads = [&self.kept_alive, &self.new].into_iter().chain(echoes);
        loads.map(|load| load.errors).sum::<u64>() + self.paced.errors
    }
}

/// Of the echoes of each size, where the server has any.
fn echoes(samples: &[Sample]) -> Option<[Medians; 2]> {
    let of = |size: usize| {
        let echoes = samples.iter().filter_map(|sample| sample.echoes.as_ref());
        Medians::new(echoes.map(move |echoes| &echoes[size]))
    };
    Some([of(0)?, of(1)?])
}

impl Paced {
    fn new(samples: &[Sample]) -> Option<Self> {
        let of =
            |figure: fn(&Pace) -> f64| median(samples.iter().map(|sample| figure(&sample.paced)));
        Some(Self {
            rate: of(|pace| pace.rate)?,
            p50_us: of(|pace| pace.p50_us)?,
            p99_us: of(|pace| pace.p99_us)?,
            errors: samples.iter().map(|sample| sample.paced.errors).sum(),
        })
    }
}

impl Medians {
    fn new<'a>(samples: impl Iterator<Item = &'a Measured> + Clone) -> Option<Self> {
        let of = |figure: fn(&Measured) -> f64| median(samples.clone().map(figure));
        Some(Self {
            requests_per_second: of(|sample| sample.report.requests_per_second)?,
            p50_us: of(|sample| sample.report.p50_us)?,
            p99_us: of(|sample| sample.report.p99_us)?,
            cpu_us: of(|sample| sample.cpu_us)?,
            errors: samples.map(|sample| sample.report.errors).sum(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrk::Report;

    fn sample(requests_per_second: f64) -> Sample {
        let measured = Measured {
            report: Report {
                requests: 10,
                requests_per_second,
                p50_us: 100.0,
                p99_us: 1000.0,
                errors: 1,
            },
            cpu_us: 9.0,
        };
        Sample {
            kept_alive: measured.clone(),
            new: measured.clone(),
            paced: Pace {
                rate: requests_per_second / 2.0,
                requests: 10,
                p50_us: 90.0,
                p99_us: 1000.0,
                errors: 0,
            },
            echoes: Some([measured.clone(), measured]),
            worker_pss_kib: vec![1024, 3072],
            total_pss_kib: 8192,
        }
    }

    #[test]
    fn medians_ratios_and_the_absent_are_shown() {
        let samples = BTreeMap::from([
            (Id::Node, vec![sample(100_000.0)]),
            (
                Id::SkepP2,
                vec![sample(10.0), sample(80_000.0), sample(90_000.0)],
            ),
        ]);
        let absent = BTreeMap::from([(Id::Nginx, "no nginx on PATH".to_owned())]);
        let round = Round {
            seconds: 5,
            clients: 32,
        };
        let comparison = Comparison::new(Machine::here(), round, 3, &samples, absent);
        let text = comparison.to_string();
        for row in [
            "|     80,000 |        9 µs |     80,000 |     9 µs |       80,000 | 9 µs |",
            "|                40,000 | 90 µs | 1.00 ms |         100 µs | 1.00 ms |",
            "|                    2 |    2.0 MiB |  8.0 MiB |",
        ] {
            assert!(text.contains(row), "{text}");
        }
        assert!(
            text.contains("- nginx `return 200`: no nginx on PATH"),
            "{text}"
        );
        assert!(text.contains(" 0.80 |"), "{text}");
        assert!(text.contains("FAIL"), "{text}");
        assert!(serde_json::to_value(&comparison).unwrap()["servers"][1]["server"] == "skep-p2");
    }
}
