//! Programs that are not ours: where they are, and which version.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::build::root;
use crate::print;
use crate::process::on_path;

/// The wasmtime that skep embeds; comparing with another compares compilers.
const WASMTIME: &str = "48.0.8";

/// The workerd that figures are quoted of.
const WORKERD: &str = "1.20261117.1";

/// Why a peer takes no part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Absent(pub(crate) String);

/// A program of this name.
pub(crate) fn find(name: &str) -> Result<PathBuf, Absent> {
    on_path(name).ok_or_else(|| Absent(format!("no {name} on PATH")))
}

/// `wasmtime`: `$WASMTIME`, one that we installed, or the one on PATH.
pub(crate) fn wasmtime() -> Result<PathBuf, Absent> {
    chosen("WASMTIME", "bin/wasmtime", "wasmtime")
}

/// `workerd`: `$WORKERD`, one that we installed, or the one on PATH.
pub(crate) fn workerd() -> Result<PathBuf, Absent> {
    chosen("WORKERD", "node_modules/.bin/workerd", "workerd")
}

/// A program that a variable names, that we installed, or that is on PATH.
fn chosen(variable: &str, installed: &str, name: &str) -> Result<PathBuf, Absent> {
    if let Some(named) = std::env::var_os(variable) {
        let named = PathBuf::from(named);
        return match named.is_file() {
            true => Ok(named),
            false => Err(Absent(format!("{variable}={} is no file", named.display()))),
        };
    }
    let installed = peers_dir().join(installed);
    if installed.is_file() {
        return Ok(installed);
    }
    on_path(name).ok_or_else(|| {
        Absent(format!(
            "no {name} on PATH or in ${variable}; --install gets it"
        ))
    })
}

/// Installs `workerd` from npm, unless there is one.
///
/// # Errors
///
/// There is no npm, or it cannot install it.
pub(crate) fn install_workerd() -> Result<()> {
    if workerd().is_ok() {
        return Ok(());
    }
    print::progress(format_args!("installing workerd {WORKERD}"));
    let status = Command::new("npm")
        .args(["install", "--no-audit", "--no-fund", "--prefix"])
        .arg(peers_dir())
        .arg(format!("workerd@{WORKERD}"))
        .status()
        .context("cannot run npm")?;
    ensure!(status.success(), "workerd {WORKERD} does not install");
    Ok(())
}

/// Builds `wasmtime` from crates.io, unless there is one.
///
/// # Errors
///
/// It does not build.
pub(crate) fn install_wasmtime() -> Result<()> {
    if wasmtime().is_ok() {
        return Ok(());
    }
    print::progress(format_args!("installing wasmtime-cli {WASMTIME}"));
    let status = Command::new(crate::build::cargo())
        .args([
            "install",
            "wasmtime-cli",
            "--locked",
            "--version",
            WASMTIME,
            "--root",
        ])
        .arg(peers_dir())
        .status()
        .context("cannot run cargo")?;
    ensure!(status.success(), "wasmtime-cli {WASMTIME} does not install");
    Ok(())
}

fn peers_dir() -> PathBuf {
    root().join("target/peers")
}

/// The first line of what a program says about its version.
pub(crate) fn version(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    // nginx says it on stderr, wrk with an exit code of 1.
    let text = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().next().map(|line| line.trim().to_owned())
}
