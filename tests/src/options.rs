//! What skep to start.

use std::ffi::OsString;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::{fs, io};

use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use crate::lines::Log;
use crate::skep::Skep;
use crate::{binary, turn, warm};

/// What to start.
#[derive(Debug)]
pub struct Options {
    dir: Option<Arc<TempDir>>,
    config: Option<String>,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    warm: bool,
    binary: Option<PathBuf>,
    user: Option<u32>,
    descriptors: Option<u32>,
}

impl Options {
    /// `skep serve -c skep.toml` with this text in it. `[server]` is added.
    #[must_use]
    pub fn config(text: &str) -> Self {
        Self {
            dir: None,
            config: Some(text.to_owned()),
            args: ["serve", "-c", "skep.toml"].map(OsString::from).into(),
            env: Vec::new(),
            warm: true,
            binary: None,
            user: None,
            descriptors: None,
        }
    }

    /// `skep serve COMPONENT` on a free port.
    #[must_use]
    pub fn component(component: &Path) -> Self {
        Self {
            config: None,
            args: vec![
                "serve".into(),
                component.into(),
                "--listen".into(),
                "127.0.0.1:0".into(),
            ],
            ..Self::config("")
        }
    }

    /// With further arguments.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<OsString>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// With a variable in skep's environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without the artifacts of earlier tests.
    #[must_use]
    pub fn cold(mut self) -> Self {
        self.warm = false;
        self
    }

    /// Another build of skep.
    #[must_use]
    pub fn binary(mut self, binary: &Path) -> Self {
        self.binary = Some(binary.to_owned());
        self
    }

    /// As this user and group, which only root can do. Gets copies of all that
    /// it needs: nothing of the repository need be open to others.
    #[must_use]
    pub fn user(mut self, user: u32) -> Self {
        self.user = Some(user);
        self
    }

    /// With no more than so many descriptors for each of its processes.
    #[must_use]
    pub fn descriptors(mut self, most: u32) -> Self {
        self.descriptors = Some(most);
        self
    }

    /// In the directory of an earlier one.
    #[must_use]
    pub fn in_dir(mut self, dir: &Arc<TempDir>) -> Self {
        self.dir = Some(Arc::clone(dir));
        self
    }

    /// Starts it and waits until it serves.
    ///
    /// # Panics
    ///
    /// If it does not come to serve; with what it said.
    #[must_use]
    pub fn start(self) -> Skep {
        let skep = self.spawn();
        skep.wait_until_serving();
        skep
    }

    /// Starts it.
    ///
    /// # Panics
    ///
    /// If there is no process.
    #[must_use]
    pub fn spawn(self) -> Skep {
        turn::shared();
        let dir = self.dir.unwrap_or_else(directory);
        let mut binary = self.binary.unwrap_or_else(|| binary().to_owned());
        let mut config = self.config;
        if self.user.is_some() {
            binary = copied(&binary, dir.path());
            config = config.map(|text| {
                components(&text).into_iter().fold(text, |text, component| {
                    let copy = copied(&component, dir.path());
                    text.replace(&*component.to_string_lossy(), &copy.to_string_lossy())
                })
            });
        }
        if let Some(config) = &config {
            fs::write(dir.path().join("skep.toml"), config).expect("the directory is ours");
        }
        if self.warm {
            let named = config.iter().cloned().chain(
                self.args
                    .iter()
                    .map(|arg| arg.to_string_lossy().into_owned()),
            );
            for component in named.flat_map(|text| components(&text)) {
                warm::give(&component, &dir.path().join(".skep/artifacts"));
            }
        }
        let mut command = match self.descriptors {
            None => Command::new(binary),
            Some(most) => {
                // The shell sets the soft and the hard limit, and is replaced.
                let mut shell = Command::new("sh");
                let script = format!("ulimit -n {most} && exec \"$0\" \"$@\"");
                shell.arg("-c").arg(script).arg(binary);
                shell
            }
        };
        if let Some(user) = self.user {
            give(dir.path(), user).expect("root may give files away");
            command.uid(user).gid(user);
        }
        command
            .args(&self.args)
            .current_dir(dir.path())
            .envs(self.env)
            .env_remove("SKEP_CONTROL")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("skep starts");
        let stderr = child.stderr.take().expect("it is piped");
        let log = Log::default();
        let writer = log.clone();
        std::thread::spawn(move || writer.collect(stderr));
        Skep::new(child, log, dir, self.warm)
    }
}

/// An empty directory for one skep.
///
/// # Panics
///
/// If there is no room for one.
#[must_use]
pub fn directory() -> Arc<TempDir> {
    let dir = tempfile::Builder::new().prefix("skep-test-").tempdir();
    Arc::new(dir.expect("there is room for a directory"))
}

/// A copy of a file in a directory.
fn copied(file: &Path, dir: &Path) -> PathBuf {
    let copy = dir.join(file.file_name().expect("it is a file"));
    fs::copy(file, &copy).expect("there is room for a copy");
    copy
}

/// Gives a directory away with all that is in it.
fn give(dir: &Path, user: u32) -> io::Result<()> {
    chown(dir, Some(user), Some(user))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give(&entry.path(), user)?;
        } else {
            chown(entry.path(), Some(user), Some(user))?;
        }
    }
    Ok(())
}

/// The components that a configuration or an argument names.
fn components(text: &str) -> Vec<PathBuf> {
    text.split(['"', '\n', ' '])
        .filter(|word| word.ends_with(".wasm"))
        .map(PathBuf::from)
        .filter(|path| path.is_file())
        .collect()
}

/// The SHA-256 of bytes, in hexadecimal.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes)
        .iter()
        .fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}
