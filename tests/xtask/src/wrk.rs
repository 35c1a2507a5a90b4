//! The load generator: one run of `wrk`, and what it printed.

use std::io::Write as _;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tokio::process::Command;
use tokio::time::timeout;

/// What `wrk` may take beyond the duration it was given: connecting, and
/// waiting for the last responses.
const SLACK: Duration = Duration::from_secs(20);

const THREADS: u32 = 2;

/// Whether connections live on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connections {
    /// Each carries requests until the run ends.
    KeptAlive,
    /// Each carries one request.
    New,
}

/// One run.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) address: SocketAddr,
    pub(crate) path: String,
    /// At one time.
    pub(crate) clients: u32,
    pub(crate) connections: Connections,
    /// Bytes that each request sends, if it does.
    pub(crate) body: Option<usize>,
    /// In whole seconds: `wrk` knows no others.
    pub(crate) seconds: u64,
}

/// What came out. Times in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Report {
    pub(crate) requests: u64,
    pub(crate) requests_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Requests without a response, and responses that are not 2xx or 3xx.
    pub(crate) errors: u64,
}

/// Generates load and waits for its end.
///
/// # Errors
///
/// There is no `wrk`, it hangs, or says what we do not understand.
pub(crate) async fn run(load: &Load) -> Result<Report> {
    let mut command = Command::new("wrk");
    command
        .arg(format!("-t{}", THREADS.min(load.clients)))
        .arg(format!("-c{}", load.clients))
        .arg(format!("-d{}s", load.seconds))
        .arg("--latency")
        .arg(format!("http://{}{}", load.address, load.path))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    if load.connections == Connections::New {
        command.args(["-H", "Connection: close"]);
    }
    // Lives for as long as wrk does.
    let mut script = tempfile::Builder::new().suffix(".lua").tempfile()?;
    if let Some(bytes) = load.body {
        writeln!(
            script,
            "wrk.method = 'POST'\nwrk.body = string.rep('x', {bytes})"
        )?;
        command.arg("-s").arg(script.path());
    }
    let output = timeout(Duration::from_secs(load.seconds) + SLACK, command.output())
        .await
        .context("wrk does not end")?
        .context("cannot run wrk; it is a package of that name")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk failed: {text}");
    parse(&text).with_context(|| format!("wrk printed what we do not understand:\n{text}"))
}

fn parse(text: &str) -> Option<Report> {
    let mut report = Report::default();
    let mut complete = 0;
    for line in text.lines().map(str::trim) {
        let mut words = line.split_whitespace();
        match (words.next()?, words.next()) {
            ("50%", Some(value)) => report.p50_us = microseconds(value)?,
            ("99%", Some(value)) => report.p99_us = microseconds(value)?,
            (number, Some("requests")) => report.requests = number.parse().ok()?,
            ("Requests/sec:", Some(value)) => {
                report.requests_per_second = value.parse().ok()?;
                complete += 1;
            }
            ("Socket", Some("errors:")) => {
                let counts =
                    words.filter_map(|word| word.trim_end_matches(',').parse::<u64>().ok());
                report.errors += counts.sum::<u64>();
            }
            ("Non-2xx", Some(_)) => report.errors += words.next_back()?.parse::<u64>().ok()?,
            _ => {}
        }
    }
    (complete == 1).then_some(report)
}

/// A time as `wrk` writes it: `97.00us`, `1.20ms`, `3.00s`, `1.00m`.
fn microseconds(text: &str) -> Option<f64> {
    let unit = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        "h" => 3600e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
Running 5s test @ http://127.0.0.1:8080/
  2 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   223.09us  300.26us  10.43ms   93.38%
    Req/Sec    85.46k     4.21k   95.83k    70.59%
  Latency Distribution
     50%  141.00us
     75%  241.00us
     90%  452.00us
     99%    1.38ms
  867153 requests in 5.10s, 128.18MB read
Requests/sec: 170035.39
Transfer/sec:     25.13MB
";

    #[test]
    fn a_good_run_is_understood() {
        let report = parse(GOOD).unwrap();
        assert_eq!(
            report,
            Report {
                requests: 867_153,
                requests_per_second: 170_035.39,
                p50_us: 141.0,
                p99_us: 1_380.0,
                errors: 0,
            }
        );
    }

    #[test]
    fn all_errors_count() {
        let text = GOOD.replace(
            "Requests/sec",
            "  Socket errors: connect 1, read 20, write 0, timeout 300\n  \
             Non-2xx or 3xx responses: 4000\nRequests/sec",
        );
        assert_eq!(parse(&text).unwrap().errors, 4321);
    }

    #[test]
    fn half_an_output_is_none() {
        assert_eq!(parse("Running 5s test @ http://127.0.0.1:8080/\n"), None);
        assert_eq!(parse(""), None);
        assert_eq!(parse(&GOOD.replace("141.00us", "141.00 parsecs")), None);
    }

    #[test]
    fn times_have_units() {
        assert_eq!(microseconds("1.50s"), Some(1_500_000.0));
        assert_eq!(microseconds("2.00m"), Some(120_000_000.0));
        assert_eq!(microseconds("12"), None);
        assert_eq!(microseconds("12xs"), None);
    }
}
