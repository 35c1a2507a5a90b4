//! `[server]`: what concerns the primary itself.

use std::path::Path;

use skep_core::{LogFormat, LogLevel, LogSpec, Sandbox, ServerSpec};

use crate::document::{Entry, Schema, Section};
use crate::elements::{alert, choice, path};
use crate::report::Reported;

pub(crate) static SCHEMA: Schema = Schema {
    title: "[server]",
    keys: &["state_dir", "log", "alert", "sandbox"],
    unavailable: &[(
        "trusted_proxies",
        "forwarding headers are always set from the connection",
    )],
};

static LOG: Schema = Schema {
    title: "`log`",
    keys: &["format", "level"],
    unavailable: &[],
};

const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];

const LEVELS: &[(&str, LogLevel)] = &[
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("info", LogLevel::Info),
    ("debug", LogLevel::Debug),
];

const SANDBOXES: &[(&str, Sandbox)] = &[
    ("require", Sandbox::Require),
    ("best-effort", Sandbox::BestEffort),
    ("off", Sandbox::Off),
];

/// What holds without a `[server]`.
pub(crate) fn default(dir: &Path) -> ServerSpec {
    ServerSpec {
        state_dir: dir.join(".skep"),
        log: default_log(),
        alert: None,
        sandbox: Sandbox::default(),
    }
}

pub(crate) const fn default_log() -> LogSpec {
    LogSpec {
        format: LogFormat::Text,
        level: LogLevel::Info,
    }
}

/// Reads the section; `dir` is the directory of the file.
pub(crate) fn read(file: &Section<'_>, dir: &Path) -> ServerSpec {
    let mut spec = default(dir);
    let Some(entry) = file.get("server") else {
        return spec;
    };
    let Some(section) = entry.as_section(&SCHEMA, SCHEMA.title) else {
        entry.wrong_type("a table", "{ state_dir = \".skep\" }");
        return spec;
    };
    section.set(&mut spec.state_dir, "state_dir", |entry| {
        path::read(entry, dir, "\".skep\"")
    });
    section.set(&mut spec.log, "log", read_log);
    spec.alert = section.read("alert", alert::read);
    section.set(&mut spec.sandbox, "sandbox", |entry| {
        choice::read(entry, SANDBOXES)
    });
    spec
}

fn read_log(entry: &Entry<'_>) -> Result<LogSpec, Reported> {
    let section = entry
        .as_section(&LOG, LOG.title)
        .ok_or_else(|| entry.wrong_type("a table", "{ format = \"text\", level = \"info\" }"))?;
    let mut log = default_log();
    section.set(&mut log.format, "format", |entry| {
        choice::read(entry, FORMATS)
    });
    section.set(&mut log.level, "level", |entry| choice::read(entry, LEVELS));
    Ok(log)
}
