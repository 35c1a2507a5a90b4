//! Who may import whom.

use std::collections::BTreeMap;
use std::process::Command;

use skep_tests::build::root;

use crate::Offences;

/// The table of DESIGN §3: what of ours each crate may import.
const MAY_IMPORT: [(&str, &[&str]); 13] = [
    ("core", &[]),
    ("sys", &[]),
    ("wire", &["core"]),
    ("link", &["wire", "sys"]),
    ("http1", &[]),
    ("config", &["core"]),
    ("engine", &["core"]),
    ("capabilities", &["core"]),
    (
        "worker",
        &[
            "core",
            "wire",
            "sys",
            "link",
            "http1",
            "engine",
            "capabilities",
        ],
    ),
    ("dispatcher", &["core", "wire", "sys", "link", "http1"]),
    ("connector", &["core", "wire", "sys", "link"]),
    ("primary", &["core", "config", "wire", "sys"]),
    (
        "cli",
        &[
            "core",
            "sys",
            "wire",
            "config",
            "engine",
            "worker",
            "dispatcher",
            "connector",
            "primary",
        ],
    ),
];

/// The names below `[dependencies]` and `[build-dependencies]`, those for some
/// platforms among them. Not those of tests.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut within = false;
    let mut found = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            let table = line.trim_matches(['[', ']']);
            within = table.ends_with("dependencies") && !table.ends_with("dev-dependencies");
            continue;
        }
        let name: String = line
            .chars()
            .take_while(|char| char.is_alphanumeric() || *char == '-' || *char == '_')
            .collect();
        if within && !name.is_empty() {
            found.push(name);
        }
    }
    found
}

fn manifest(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn crates_import_only_what_the_table_allows() {
    let table: BTreeMap<_, _> = MAY_IMPORT.into_iter().collect();
    let mut offences = Offences::default();
    for entry in std::fs::read_dir(root().join("host")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let Some(allowed) = table.get(name.as_str()) else {
            offences.note(&format!(
                "host/{name} is not in the table of who may import whom"
            ));
            continue;
        };
        for dependency in dependencies(&manifest(&format!("host/{name}/Cargo.toml"))) {
            if let Some(ours) = dependency.strip_prefix("skep-")
                && !allowed.contains(&ours)
            {
                offences.note(&format!("host/{name} imports {dependency}"));
            }
        }
    }
    offences.none("a crate imports what its row does not name");
}

/// The README begins with `cargo run`, which refuses to choose among programs.
#[test]
fn plain_cargo_run_means_skep() {
    let cli = manifest("host/cli/Cargo.toml");
    let package = cli.split("\n[").next().unwrap_or_default();
    assert!(
        package.contains("default-run = \"skep\""),
        "host/cli has several programs and does not say which is meant"
    );
}

#[test]
fn only_sys_knows_system_calls() {
    let mut offences = Offences::default();
    for (name, _) in MAY_IMPORT {
        for dependency in dependencies(&manifest(&format!("host/{name}/Cargo.toml"))) {
            let raw = ["nix", "libc", "rustix", "landlock", "seccompiler", "sendfd"];
            if name != "sys" && raw.contains(&dependency.as_str()) {
                offences.note(&format!("host/{name} imports {dependency}"));
            }
        }
    }
    offences.none("nobody but sys imports nix or libc");
}

/// All packages that end up in a crate, by name.
fn closure(package: &str) -> Vec<String> {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "--package",
            package,
            "--edges",
            "normal,build",
            "--prefix",
            "none",
        ])
        .args(["--format", "{p}", "--offline"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| line.split(' ').next())
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_primary_has_neither_wasmtime_nor_hyper() {
    let mut offences = Offences::default();
    for package in closure("skep-primary") {
        let parses = [
            "wasmtime",
            "wasmparser",
            "cranelift",
            "hyper",
            "httparse",
            "h2",
            "axum",
        ];
        if parses
            .iter()
            .any(|word| package == *word || package.starts_with(&format!("{word}-")))
        {
            offences.note(&format!("skep-primary depends on {package}"));
        }
    }
    offences.none("the primary parses a request or a module");
}

#[test]
fn the_core_does_nothing_but_decide() {
    let mut offences = Offences::default();
    for package in closure("skep-core") {
        let acts = [
            "tokio",
            "mio",
            "rand",
            "getrandom",
            "libc",
            "nix",
            "rustix",
            "chrono",
            "time",
        ];
        if acts.contains(&package.as_str()) {
            offences.note(&format!("skep-core depends on {package}"));
        }
    }
    offences.none("core does input or output");
}

#[test]
fn guests_never_depend_on_the_host() {
    let mut offences = Offences::default();
    let mut manifests = vec![
        "guest-sdk/Cargo.toml".to_owned(),
        "guests/Cargo.toml".to_owned(),
    ];
    for dir in ["guests", "guests/hostile"] {
        for entry in std::fs::read_dir(root().join(dir)).unwrap() {
            let path = format!(
                "{dir}/{}/Cargo.toml",
                entry.unwrap().file_name().to_string_lossy()
            );
            if root().join(&path).is_file() {
                manifests.push(path);
            }
        }
    }
    assert!(manifests.len() > 10);
    for path in manifests {
        for line in manifest(&path).lines() {
            let host = MAY_IMPORT
                .iter()
                .any(|(name, _)| line.starts_with(&format!("skep-{name}")));
            if host || line.contains("/host/") {
                offences.note(&format!("{path}: {line}"));
            }
        }
    }
    offences.none("a guest depends on the host");
}

#[test]
fn every_version_is_in_one_place() {
    let mut offences = Offences::default();
    for (name, _) in MAY_IMPORT {
        let path = format!("host/{name}/Cargo.toml");
        for line in manifest(&path).lines() {
            let versioned = line.contains("version = \"") || line.contains("= \"=");
            if versioned && !line.starts_with("version") {
                offences.note(&format!("{path}: {line}"));
            }
        }
    }
    offences.none("a dependency's version stands outside of the workspace's manifest");
}
