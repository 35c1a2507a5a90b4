//! Commands of skep that end by themselves.

use std::io;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::lines::Log;
use crate::wait::settles;
use crate::{binary, process, turn};

/// How long a command may take: it may build a project.
const COMMAND: Duration = Duration::from_secs(120);

/// What a command of skep said and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Its exit code; `None` for a signal.
    pub code: Option<i32>,
    /// Data.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

/// A command that runs. Dropped, it is killed.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdout: Log,
    stderr: Log,
    readers: Vec<JoinHandle<()>>,
}

/// Runs a command of skep to its end in a directory.
///
/// # Panics
///
/// If there is no process, or it takes longer than two minutes.
pub fn run<S: AsRef<std::ffi::OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> Said {
    start(dir, args).wait()
}

/// Starts a command of skep in a directory.
///
/// # Panics
///
/// If there is no process.
pub fn start<S: AsRef<std::ffi::OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> Running {
    turn::shared();
    let mut child = Command::new(binary())
        .args(args)
        .current_dir(dir)
        .env_remove("SKEP_CONTROL")
        .env_remove("CARGO_TARGET_DIR")
        // What the broken configurations ask for.
        .env("DATABASE_URL", "postgres://db/prod")
        .env("EMPTY", "")
        .env_remove("NOT_SET")
        .env_remove("GONE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("skep starts");
    let (stdout, stderr) = (Log::default(), Log::default());
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let readers = [
        (
            stdout.clone(),
            Box::new(out.expect("it is piped")) as Box<dyn io::Read + Send>,
        ),
        (stderr.clone(), Box::new(err.expect("it is piped"))),
    ]
    .map(|(log, pipe)| std::thread::spawn(move || log.collect(pipe)));
    Running {
        child,
        stdout,
        stderr,
        readers: readers.into(),
    }
}

impl Running {
    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    ///
    /// Never, in fact: it is our child.
    pub fn is_alive(&mut self) -> bool {
        let ended = self.child.try_wait().expect("it is our child");
        ended.is_none()
    }

    /// Waits for a line on its stdout.
    ///
    /// # Panics
    ///
    /// If it does not come.
    pub fn wait_for_line(&self, text: &str) -> String {
        self.stdout.wait_for(COMMAND, text)
    }

    /// Waits for its end.
    ///
    /// # Panics
    ///
    /// If that takes longer than two minutes.
    #[must_use]
    pub fn wait(mut self) -> Said {
        let ended = settles(
            COMMAND,
            || self.child.try_wait().expect("it is our child"),
            Option::is_some,
        );
        let Some(status) = ended else {
            panic!("skep does not end:\n{}", self.stderr.text());
        };
        for reader in self.readers.drain(..) {
            reader.join().expect("readers do not panic");
        }
        Said {
            code: status.code(),
            stdout: self.stdout.text(),
            stderr: self.stderr.text(),
        }
    }

    /// Kills it with SIGKILL.
    ///
    /// # Panics
    ///
    /// If it does not go.
    #[must_use]
    pub fn kill(self) -> Said {
        process::signal(self.pid(), "KILL");
        self.wait()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
