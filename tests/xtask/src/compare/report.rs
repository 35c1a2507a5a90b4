//! The comparison as text for people and JSON for programs.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::measure::{Measured, Round, Sample};
use crate::machine::Machine;
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

    fn servers(&self) -> Table {
        let mut table = Table::new([
            "server",
            "requests/s",
            "p50",
            "p99",
            "CPU/request",
            "new conn/s",
            "p50",
            "p99",
            "CPU/conn",
            "PSS/worker",
            "PSS, all",
            "errors",
        ]);
        for row in &self.servers {
            let [kept, new] = [&row.kept_alive, &row.new].map(|load| {
                [
                    table::count(load.requests_per_second),
                    table::time(load.p50_us),
                    table::time(load.p99_us),
                    table::time(load.cpu_us),
                ]
            });
            let memory = [
                format!(
                    "{} × {}",
                    row.processes,
                    table::mebibytes(row.worker_pss_kib)
                ),
                table::mebibytes(row.total_pss_kib),
                (row.kept_alive.errors + row.new.errors).to_string(),
            ];
            let label = [row.server.label().to_owned()];
            table.row(label.into_iter().chain(kept).chain(new).chain(memory));
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
             load generator shares the machine. PSS is measured before any load.\n",
            round.clients, round.seconds
        )?;
        writeln!(f, "{}", self.servers())?;
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
            processes: samples.last()?.worker_pss_kib.len(),
            worker_pss_kib: median(workers.map(|kib| *kib as f64))?,
            total_pss_kib: median(samples.iter().map(|sample| sample.total_pss_kib as f64))?,
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
            new: measured,
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
        assert!(
            text.contains("|     80,000 | 100 µs | 1.00 ms |        9 µs |"),
            "{text}"
        );
        assert!(text.contains("2 × 2.0 MiB |  8.0 MiB |      6 |"), "{text}");
        assert!(
            text.contains("- nginx `return 200`: no nginx on PATH"),
            "{text}"
        );
        assert!(text.contains(" 0.80 |"), "{text}");
        assert!(text.contains("pass"), "{text}");
        assert!(serde_json::to_value(&comparison).unwrap()["servers"][1]["server"] == "skep-p2");
    }
}
