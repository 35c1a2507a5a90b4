//! Rust projects: `cargo build` for wasm32-wasip2, which makes components of
//! `cdylib` crates.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::tool::{self, ToolError};
use super::{Built, Failure};
use crate::exit::Exit;
use crate::print::Printer;

const TARGET: &str = "wasm32-wasip2";
const GET_RUST: &str = "install Rust from https://rustup.rs";

pub(super) async fn build(dir: &Path, printer: Printer) -> Result<Built, Failure> {
    provide_target(dir, printer).await?;
    let mut command = tool::command("cargo", dir);
    command
        .args(["build", "--release", "--target", TARGET])
        .arg("--message-format=json-render-diagnostics")
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit());
    let told = |error: std::io::Error| ToolError::from(error).told("cargo", GET_RUST);
    let mut child = command.spawn().map_err(told)?;
    let stdout = child.stdout.take().expect("stdout was piped");
    let mut lines = BufReader::new(stdout).lines();
    let mut artifacts = Vec::new();
    while let Some(line) = lines.next_line().await.map_err(told)? {
        artifacts.extend(Artifact::read(&line));
    }
    let status = child.wait().await.map_err(told)?;
    if !status.success() {
        return Err(Failure::new(
            Exit::Failed,
            "the build failed: the compiler's words are above",
        ));
    }
    let manifest = canonical(&dir.join("Cargo.toml"));
    let component = choose(&artifacts, &manifest)?;
    Ok(Built {
        component,
        sources: sources(dir, &artifacts),
    })
}

/// Adds the wasm target where rustup lacks it. rustup would do so by itself
/// for some projects only, and not where automatic installation is off.
async fn provide_target(dir: &Path, printer: Printer) -> Result<(), Failure> {
    let mut list = tool::command("rustup", dir);
    list.args(["target", "list", "--installed"]);
    let installed = match tool::output(list).await {
        Ok(output) if output.status.success() => output.stdout,
        Ok(output) => {
            return Err(
                rustup_failed("cannot list the Rust targets", &output.stderr)
                    .hint("`rustup show` says which toolchain this directory asks for"),
            );
        }
        // A distribution's Rust: its targets are the distribution's packages.
        Err(ToolError::Missing) => return find_target(dir).await,
        Err(error) => return Err(error.told("rustup", GET_RUST)),
    };
    if String::from_utf8_lossy(&installed)
        .lines()
        .any(|line| line.trim() == TARGET)
    {
        return Ok(());
    }
    printer.note(&format!(
        "adding the Rust target {TARGET}, which this toolchain lacks (rustup target add {TARGET})"
    ));
    let mut add = tool::command("rustup", dir);
    add.args(["target", "add", TARGET]);
    let output = tool::output(add)
        .await
        .map_err(|error| error.told("rustup", GET_RUST))?;
    if output.status.success() {
        return Ok(());
    }
    Err(rustup_failed(
        &format!("cannot add the Rust target {TARGET}"),
        &output.stderr,
    )
    .hint(format!(
        "run `rustup target add {TARGET}` where there is a network"
    )))
}

/// Without rustup: looks where the compiler would look for the target.
async fn find_target(dir: &Path) -> Result<(), Failure> {
    let mut print = tool::command("rustc", dir);
    print.args(["--print", "target-libdir", "--target", TARGET]);
    let output = tool::output(print)
        .await
        .map_err(|error| error.told("rustc", GET_RUST))?;
    let libdir = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    if output.status.success() && libdir.is_dir() {
        return Ok(());
    }
    Err(Failure::new(
        Exit::Unavailable,
        format!("this Rust has no standard library for {TARGET}, and there is no rustup to add it"),
    )
    .hint(format!(
        "install it from where your Rust came, or {GET_RUST}"
    )))
}

fn rustup_failed(what: &str, stderr: &[u8]) -> Failure {
    let stderr = String::from_utf8_lossy(stderr);
    // rustup reports progress first and the error last.
    let words = stderr
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("rustup said nothing")
        .trim();
    Failure::new(
        Exit::Unavailable,
        format!("{what}: {}", words.trim_start_matches("error: ")),
    )
}

/// What cargo says about one compiled crate, as far as it matters here.
#[derive(Debug, PartialEq, Eq)]
struct Artifact {
    manifest: PathBuf,
    name: String,
    kind: ArtifactKind,
    origin: Origin,
    wasm: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ArtifactKind {
    /// Makes a component with the crate's exports.
    Cdylib,
    /// Makes a command.
    Bin,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// A directory of the user's.
    Local,
    /// A registry or a repository.
    Fetched,
}

#[derive(Deserialize)]
struct Message {
    reason: String,
    #[serde(default)]
    package_id: String,
    #[serde(default)]
    manifest_path: PathBuf,
    target: Option<Target>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    name: String,
    #[serde(default)]
    kind: Vec<String>,
}

impl Artifact {
    /// One line of cargo's output; lines that are something else are nothing
    /// to us, among them what build scripts print.
    fn read(line: &str) -> Option<Self> {
        let message: Message = serde_json::from_str(line).ok()?;
        let target = message.target?;
        if message.reason != "compiler-artifact" {
            return None;
        }
        let is = |kind: &str| target.kind.iter().any(|one| one == kind);
        let kind = if is("cdylib") {
            ArtifactKind::Cdylib
        } else if is("bin") {
            ArtifactKind::Bin
        } else {
            ArtifactKind::Other
        };
        Some(Self {
            manifest: message.manifest_path,
            kind,
            origin: if message.package_id.contains("path+file:") {
                Origin::Local
            } else {
                Origin::Fetched
            },
            wasm: message.filenames.into_iter().find(|file| {
                file.extension()
                    .is_some_and(|extension| extension == "wasm")
            }),
            name: target.name,
        })
    }
}

/// The one component among what was built: the project's own, or, in the root
/// of a workspace, the only one.
fn choose(artifacts: &[Artifact], manifest: &Path) -> Result<PathBuf, Failure> {
    let of_kind = |kind| {
        artifacts
            .iter()
            .filter(move |artifact| artifact.kind == kind && artifact.origin == Origin::Local)
            .filter_map(|artifact| Some((artifact, artifact.wasm.as_ref()?)))
            .collect::<Vec<_>>()
    };
    let cdylibs = of_kind(ArtifactKind::Cdylib);
    if let Some((_, wasm)) = cdylibs
        .iter()
        .find(|(artifact, _)| canonical(&artifact.manifest) == manifest)
    {
        return Ok((*wasm).clone());
    }
    match cdylibs.as_slice() {
        [(_, wasm)] => Ok((*wasm).clone()),
        [] => {
            let problem = Failure::new(Exit::Failed, "the build made no component");
            let bins = of_kind(ArtifactKind::Bin);
            Err(problem.hint(if bins.is_empty() {
                "a handler is a library with `crate-type = [\"cdylib\"]` under [lib] in Cargo.toml"
            } else {
                "the crate's programs are commands; a handler is a library with `crate-type = \
                 [\"cdylib\"]` under [lib] in Cargo.toml"
            }))
        }
        several => {
            let names: Vec<_> = several.iter().map(|(one, _)| one.name.as_str()).collect();
            Err(Failure::new(
                Exit::Usage,
                format!(
                    "this workspace makes several components: {}",
                    names.join(", ")
                ),
            )
            .hint("name the directory of the one you mean"))
        }
    }
}

/// The project's directory and those of the local crates that it is built
/// from.
fn sources(dir: &Path, artifacts: &[Artifact]) -> Vec<PathBuf> {
    let mut sources = vec![dir.to_owned()];
    for artifact in artifacts {
        let Some(parent) = artifact.manifest.parent() else {
            continue;
        };
        if artifact.origin == Origin::Local
            && !sources.iter().any(|known| parent.starts_with(known))
        {
            sources.push(parent.to_owned());
        }
    }
    sources
}

/// The path with links resolved, or itself where it cannot be read.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(package: &str, manifest: &str, kind: &str, name: &str, files: &str) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","package_id":"{package}","manifest_path":"{manifest}","target":{{"kind":["{kind}"],"crate_types":["{kind}"],"name":"{name}","src_path":"/p/src/lib.rs","edition":"2024","doc":true,"doctest":false,"test":true}},"profile":{{"opt_level":"3"}},"features":[],"filenames":[{files}],"executable":null,"fresh":false}}"#
        )
    }

    fn local(name: &str, kind: &str) -> Artifact {
        Artifact::read(&line(
            &format!("path+file:///w/{name}#0.1.0"),
            &format!("/w/{name}/Cargo.toml"),
            kind,
            name,
            &format!(r#""/t/{name}.wasm""#),
        ))
        .unwrap()
    }

    #[test]
    fn artifacts_are_read_and_the_rest_is_skipped() {
        let artifact = Artifact::read(&line(
            "path+file:///p#hello@0.1.0",
            "/p/Cargo.toml",
            "cdylib",
            "hello",
            r#""/t/wasm32-wasip2/release/hello.wasm""#,
        ));
        assert_eq!(
            artifact,
            Some(Artifact {
                manifest: "/p/Cargo.toml".into(),
                name: "hello".into(),
                kind: ArtifactKind::Cdylib,
                origin: Origin::Local,
                wasm: Some("/t/wasm32-wasip2/release/hello.wasm".into()),
            })
        );
        let fetched = Artifact::read(&line(
            "registry+https://github.com/rust-lang/crates.io-index#http@1.5.0",
            "/r/http/Cargo.toml",
            "lib",
            "http",
            r#""/t/libhttp.rlib","/t/libhttp.rmeta""#,
        ))
        .unwrap();
        assert_eq!(fetched.origin, Origin::Fetched);
        assert_eq!(fetched.wasm, None);
        for skipped in [
            r#"{"reason":"build-finished","success":true}"#,
            r#"{"reason":"build-script-executed","package_id":"x","linked_libs":[],"env":[]}"#,
            "some build script's words",
            "",
        ] {
            assert_eq!(Artifact::read(skipped), None);
        }
    }

    #[test]
    fn the_projects_own_component_is_chosen() {
        let built = [
            local("a", "cdylib"),
            local("b", "cdylib"),
            local("c", "lib"),
        ];
        assert_eq!(
            choose(&built, Path::new("/w/b/Cargo.toml")),
            Ok("/t/b.wasm".into())
        );
        assert_eq!(
            choose(&built[..1], Path::new("/w/Cargo.toml")),
            Ok("/t/a.wasm".into())
        );
        let failure = choose(&built, Path::new("/w/Cargo.toml")).unwrap_err();
        assert_eq!(
            failure.to_string(),
            "this workspace makes several components: a, b"
        );
        assert_eq!(failure.exit(), Exit::Usage);
    }

    #[test]
    fn a_build_without_component_says_what_is_missing() {
        for (built, word) in [(vec![local("a", "bin")], "commands"), (vec![], "cdylib")] {
            let failure = choose(&built, Path::new("/w/a/Cargo.toml")).unwrap_err();
            assert_eq!(failure.to_string(), "the build made no component");
            assert!(format!("{failure:?}").contains(word), "{failure:?}");
        }
    }

    #[test]
    fn local_crates_are_sources() {
        let mut fetched = local("x", "lib");
        fetched.origin = Origin::Fetched;
        let built = [
            local("sdk", "lib"),
            local("a", "cdylib"),
            local("sdk", "proc-macro"),
            fetched,
        ];
        assert_eq!(
            sources(Path::new("/w/a"), &built),
            [PathBuf::from("/w/a"), PathBuf::from("/w/sdk")]
        );
    }

    #[test]
    fn rustups_error_is_its_last_line() {
        let failure = rustup_failed("cannot add", b"info: downloading\nerror: no network\n\n");
        assert_eq!(failure.to_string(), "cannot add: no network");
    }
}
