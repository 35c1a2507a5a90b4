//! Building what is measured: skep itself and the Rust guests.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::print;

const GUEST_TARGET: &str = "wasm32-wasip2";

/// The top of the repository.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("this crate is two levels below the top")
}

/// The cargo that runs us.
pub(crate) fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Which skep is measured.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Choice {
    /// Measure this skep instead of building one
    #[arg(long, value_name = "FILE")]
    skep: Option<PathBuf>,
}

/// Builds skep as users get it, unless one was chosen, and says where it is.
///
/// # Errors
///
/// It does not build, or the one that was chosen is not there.
pub(crate) fn skep(choice: &Choice) -> Result<PathBuf> {
    if let Some(file) = &choice.skep {
        return file
            .canonicalize()
            .with_context(|| format!("no skep at {}", file.display()));
    }
    print::progress("building skep");
    of_skep(&build(
        root(),
        &["--release", "-p", "skep", "--bin", "skep"],
    )?)
}

/// Builds skep optimised, without what makes a release build take long: what it counts
/// to is compared with what the same build counted to before. Its dependencies are those
/// of the tests.
///
/// # Errors
///
/// As [`skep`].
pub(crate) fn skep_to_compare(choice: &Choice) -> Result<PathBuf> {
    if choice.skep.is_some() {
        return skep(choice);
    }
    print::progress("building skep for counts that are compared");
    let mut cargo = Command::new(cargo());
    cargo.env("CARGO_PROFILE_DEV_OPT_LEVEL", "2");
    of_skep(&build_by(cargo, root(), &["-p", "skep", "--bin", "skep"])?)
}

fn of_skep(artifacts: &[Value]) -> Result<PathBuf> {
    find(artifacts, "skep", |artifact| {
        artifact["executable"].as_str()
    })
}

/// The Rust guests that are measured.
#[derive(Clone, Debug)]
pub(crate) struct Guests {
    /// WASI 0.2.
    pub(crate) hello: PathBuf,
    /// WASI 0.3.
    pub(crate) hello_p3: PathBuf,
    /// Says which revision it is.
    pub(crate) revision: PathBuf,
    /// Gives a request's body back.
    pub(crate) echo: PathBuf,
    /// The same of WASI 0.3.
    pub(crate) echo_p3: PathBuf,
}

impl Guests {
    /// Builds them; adds the target for it if it is missing.
    ///
    /// # Errors
    ///
    /// They do not build, or rustup cannot add the target.
    pub(crate) fn build() -> Result<Self> {
        let guests = root().join("guests");
        add_target(&guests)?;
        print::progress("building the guests");
        let mut arguments = vec!["--release", "--target", GUEST_TARGET];
        for package in ["hello", "hello-p3", "revision", "echo", "echo-p3"] {
            arguments.extend(["-p", package]);
        }
        let artifacts = build(&guests, &arguments)?;
        let component = |artifact: &'_ Value| -> bool {
            artifact["filenames"][0]
                .as_str()
                .is_some_and(|name| name.ends_with(".wasm"))
        };
        let file = |name| {
            find(&artifacts, name, |artifact| {
                component(artifact)
                    .then(|| artifact["filenames"][0].as_str())
                    .flatten()
            })
        };
        Ok(Self {
            hello: file("hello")?,
            hello_p3: file("hello_p3")?,
            revision: file("revision")?,
            echo: file("echo")?,
            echo_p3: file("echo_p3")?,
        })
    }
}

/// What `guests/foreign/build.sh` made, if it has been run.
pub(crate) fn foreign_guest(name: &str) -> Option<PathBuf> {
    let file = root().join("target/guests-foreign").join(name);
    file.is_file().then_some(file)
}

fn build(directory: &Path, arguments: &[&str]) -> Result<Vec<Value>> {
    build_by(Command::new(cargo()), directory, arguments)
}

fn build_by(mut cargo: Command, directory: &Path, arguments: &[&str]) -> Result<Vec<Value>> {
    let output = cargo
        .current_dir(directory)
        .args(["build", "--message-format=json-render-diagnostics"])
        .args(arguments)
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo")?;
    ensure!(
        output.status.success(),
        "cargo build {} failed",
        arguments.join(" ")
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(|line| serde_json::from_str(line).context("cargo printed what is not JSON"))
        .collect()
}

fn find<'a>(
    messages: &'a [Value],
    target: &str,
    file: impl Fn(&'a Value) -> Option<&'a str>,
) -> Result<PathBuf> {
    messages
        .iter()
        .filter(|message| message["reason"] == "compiler-artifact")
        // Older cargos keep the dash of a library's name, newer ones do not.
        .filter(|message| {
            let name = message["target"]["name"].as_str().unwrap_or_default();
            name.replace('-', "_") == target.replace('-', "_")
        })
        .find_map(file)
        .map(PathBuf::from)
        .with_context(|| format!("cargo built no {target}"))
}

fn add_target(directory: &Path) -> Result<()> {
    let libraries = Command::new("rustc")
        .current_dir(directory)
        .args(["--print", "target-libdir", "--target", GUEST_TARGET])
        .output()
        .context("cannot run rustc")?;
    if Path::new(String::from_utf8_lossy(&libraries.stdout).trim()).is_dir() {
        return Ok(());
    }
    print::progress(format_args!("adding the target {GUEST_TARGET}"));
    let status = Command::new("rustup")
        .current_dir(directory)
        .args(["target", "add", GUEST_TARGET])
        .status()
        .context("the target wasm32-wasip2 is missing, and there is no rustup to add it")?;
    ensure!(status.success(), "rustup cannot add {GUEST_TARGET}");
    Ok(())
}
