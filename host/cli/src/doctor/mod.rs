//! What this machine offers to skep and what it lacks, each with its
//! consequence. Reads and asks, changes nothing. One function per finding,
//! from what was read to a verdict, so that each can be tested without the
//! machine that it is about.

mod kernel;
mod serving;
mod tools;
mod walls;

use serde::Serialize;

use crate::args::Format;
use crate::exit::{Exit, Failure};
use crate::print::Printer;
use crate::table::{Align, NOTHING, Table, count};

/// One thing that was looked at.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    what: &'static str,
    verdict: Verdict,
    found: String,
    /// What follows from it, where something does.
    #[serde(skip_serializing_if = "Option::is_none")]
    consequence: Option<String>,
}

/// How bad it is, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// skep serves, with less protection, speed or comfort.
    Lacking,
    /// skep does not serve here.
    Missing,
}

impl Verdict {
    const fn label(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Lacking => "lacking",
            Self::Missing => "MISSING",
        }
    }
}

impl Finding {
    fn ok(what: &'static str, found: impl Into<String>) -> Self {
        Self {
            what,
            verdict: Verdict::Ok,
            found: found.into(),
            consequence: None,
        }
    }

    fn lacking(
        what: &'static str,
        found: impl Into<String>,
        consequence: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Lacking,
            consequence: Some(consequence.into()),
            ..Self::ok(what, found)
        }
    }

    fn missing(
        what: &'static str,
        found: impl Into<String>,
        consequence: impl Into<String>,
    ) -> Self {
        Self {
            verdict: Verdict::Missing,
            ..Self::lacking(what, found, consequence)
        }
    }
}

/// Looks, and prints what was found.
pub(crate) async fn run(format: Format, printer: Printer) -> Result<(), Failure> {
    let mut findings = kernel::findings();
    findings.extend(walls::findings());
    findings.extend(serving::findings());
    findings.extend(tools::findings().await);
    printer.data(&render(&findings, format))?;
    let missing = findings
        .iter()
        .filter(|finding| finding.verdict == Verdict::Missing)
        .count();
    if missing == 0 {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Failed,
        format!(
            "skep cannot serve here: {} missing",
            count(missing, "essential thing")
        ),
    ))
}

fn render(findings: &[Finding], format: Format) -> String {
    match format {
        Format::Json => {
            let json = serde_json::to_string_pretty(findings)
                .expect("findings are plain text and have string keys");
            json + "\n"
        }
        Format::Text => {
            let mut table = Table::new([
                ("", Align::Left),
                ("WHAT", Align::Left),
                ("FOUND", Align::Left),
                ("CONSEQUENCE", Align::Left),
            ]);
            for finding in findings {
                table.row([
                    finding.verdict.label().to_owned(),
                    finding.what.to_owned(),
                    finding.found.clone(),
                    finding
                        .consequence
                        .clone()
                        .unwrap_or_else(|| NOTHING.to_owned()),
                ]);
            }
            table.render(usize::MAX)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_verdict_is_a_word() {
        let findings = [
            Finding::ok("kernel", "6.18.5"),
            Finding::lacking("landlock", "absent", "less protection"),
            Finding::missing("address space", "1 GiB", "no serving"),
        ];
        assert_eq!(
            render(&findings, Format::Text),
            "         WHAT           FOUND   CONSEQUENCE\n\
             ok       kernel         6.18.5  -\n\
             lacking  landlock       absent  less protection\n\
             MISSING  address space  1 GiB   no serving\n"
        );
        let json: serde_json::Value =
            serde_json::from_str(&render(&findings, Format::Json)).unwrap();
        assert_eq!(
            json[0],
            serde_json::json!({"what": "kernel", "verdict": "ok", "found": "6.18.5"})
        );
        assert_eq!(json[2]["consequence"], "no serving");
        assert!(Verdict::Ok < Verdict::Missing);
    }
}
