//! The binary and the guests, built once per run.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::{env, io};

/// The repository.
#[must_use]
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the package lies in the workspace")
}

/// Where this test binary was built: `TARGET/PROFILE`.
fn profile_dir() -> PathBuf {
    let exe = env::current_exe().expect("a process knows its executable");
    exe.parent()
        .and_then(Path::parent)
        .expect("cargo puts test binaries into TARGET/PROFILE/deps")
        .to_owned()
}

/// The target directory in use, wherever it is.
#[must_use]
pub fn target_dir() -> PathBuf {
    let profile = profile_dir();
    profile
        .parent()
        .expect("a profile has a directory")
        .to_owned()
}

/// The skep binary of the same profile as the tests, up to date; or the one
/// that `SKEP_BIN` names, as it is: so that tests can be tried on another build.
///
/// # Panics
///
/// If it does not build.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        if let Some(other) = env::var_os("SKEP_BIN") {
            return other.into();
        }
        let dir = profile_dir();
        let profile = match dir.file_name().and_then(|name| name.to_str()) {
            Some("debug") | None => "dev",
            Some(name) => name,
        };
        // The default members, as plain `cargo test` has them: the same
        // features, so that nothing is compiled twice.
        let mut cargo = cargo(root());
        cargo.args(["build", "--quiet", "--bin", "skep", "--profile", profile]);
        cargo.arg("--target-dir").arg(target_dir());
        run(&mut cargo, "the skep binary does not build");
        dir.join("skep")
    })
}

/// A build of skep whose workers attack what is around them, up to date.
///
/// # Panics
///
/// If it does not build.
pub fn attacker() -> &'static Path {
    static ATTACKER: OnceLock<PathBuf> = OnceLock::new();
    ATTACKER.get_or_init(|| {
        let dir = profile_dir();
        let mut cargo = cargo(root());
        cargo.args(["build", "--quiet", "--bin", "skep-attacker"]);
        cargo.args(["--features", "skep/attacker"]);
        if dir.file_name().is_some_and(|name| name == "release") {
            cargo.arg("--release");
        }
        cargo.arg("--target-dir").arg(target_dir());
        run(&mut cargo, "the attacking build of skep does not build");
        dir.join("skep-attacker")
    })
}

/// The component of a Rust guest, named as its package is, or of a hostile one
/// that is written as text: `hostile-NAME` is `guests/hostile/NAME.wat`.
///
/// # Panics
///
/// If the guests do not build or there is none of that name.
#[must_use]
pub fn guest(name: &str) -> PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let target = target_dir().join("guests");
        fs::create_dir_all(&target).expect("the target directory can be written");
        // Cargo has a lock of its own, but rustup has none.
        let lock = File::create(target.join("tests.lock")).expect("a lock file can be made");
        lock.lock().expect("a fresh lock file can be locked");
        add_wasm_target();
        let mut cargo = cargo(&root().join("guests"));
        cargo.args(["build", "--quiet", "--release"]);
        cargo.arg("--target-dir").arg(&target);
        run(&mut cargo, "the guests do not build");
        let built = target.join("wasm32-wasip2/release");
        assemble(&built);
        built
    });
    let path = dir.join(format!("{}.wasm", name.replace('-', "_")));
    assert!(
        path.is_file(),
        "there is no guest {name}: {}",
        path.display()
    );
    path
}

/// Puts the guests that are written as text beside those of cargo.
fn assemble(built: &Path) {
    let texts = fs::read_dir(root().join("guests/hostile")).expect("there are hostile guests");
    for text in texts {
        let text = text.expect("a directory can be listed").path();
        let Some(stem) = text.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        if text.extension().is_none_or(|extension| extension != "wat") {
            continue;
        }
        let component = wat::parse_file(&text).unwrap_or_else(|error| panic!("{error}"));
        let path = built.join(format!("hostile_{}.wasm", stem.replace('-', "_")));
        // Another test's skep may be reading it.
        if fs::read(&path).is_ok_and(|there| there == component) {
            continue;
        }
        let fresh = path.with_extension("fresh");
        fs::write(&fresh, component).expect("the target directory can be written");
        fs::rename(&fresh, &path).expect("a file can take another's place");
    }
}

/// The wasm target is in `rust-toolchain.toml`, but rustup's automatic
/// installation may be switched off.
#[expect(clippy::print_stderr, reason = "who runs the tests should know of it")]
fn add_wasm_target() {
    let installed = Command::new("rustup")
        .args(["target", "list", "--installed"])
        .current_dir(root())
        .output();
    let Ok(Output { stdout, status, .. }) = installed else {
        return; // A Rust without rustup has its targets by other means.
    };
    if status.success() && !String::from_utf8_lossy(&stdout).contains("wasm32-wasip2") {
        eprintln!("adding the Rust target wasm32-wasip2 with rustup");
        let mut rustup = Command::new("rustup");
        rustup
            .args(["target", "add", "wasm32-wasip2"])
            .current_dir(root());
        run(&mut rustup, "the wasm target cannot be added");
    }
}

/// A guest in another language, or the line that says why there is none.
///
/// # Errors
///
/// What the build script says where its tools are missing.
///
/// # Panics
///
/// If the guests do not build although their tools are there.
pub fn foreign_guest(name: &str) -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    let dir = BUILT.get_or_init(|| {
        let out = target_dir().join("guests-foreign");
        let output = Command::new(root().join("guests/foreign/build.sh"))
            .arg(&out)
            .stdin(Stdio::null())
            .output()
            .expect("the build script runs");
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.code() {
            Some(0) => Ok(out),
            Some(77) => Err(said.trim().to_owned()),
            _ => panic!(
                "the foreign guests do not build:\n{said}{}",
                String::from_utf8_lossy(&output.stderr)
            ),
        }
    });
    dir.clone().map(|dir| dir.join(format!("{name}.wasm")))
}

/// Cargo in a directory, without what the outer cargo meant for us alone.
fn cargo(dir: &Path) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(dir).stdin(Stdio::null());
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("CARGO_PKG_")
            || name.starts_with("CARGO_MANIFEST_")
            || name == "CARGO_TARGET_DIR"
        {
            command.env_remove(name);
        }
    }
    command
}

fn run(command: &mut Command, failure: &str) {
    let output: io::Result<Output> = command.output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => panic!("{failure}:\n{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => panic!("{failure}: {command:?}: {error}"),
    }
}
