//! Commands of skep that end by themselves.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
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

/// Runs a command of skep to its end in a directory.
///
/// # Panics
///
/// If there is no process, or it takes longer than two minutes.
pub fn run<S: AsRef<std::ffi::OsStr>>(dir: &Path, args: impl IntoIterator<Item = S>) -> Said {
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
    let pid = child.id();
    let ended = settles(
        COMMAND,
        || child.try_wait().expect("it is our child"),
        Option::is_some,
    );
    let Some(status) = ended else {
        process::signal(pid, "KILL");
        panic!("skep does not end:\n{}", stderr.text());
    };
    for reader in readers {
        reader.join().expect("readers do not panic");
    }
    Said {
        code: status.code(),
        stdout: stdout.text(),
        stderr: stderr.text(),
    }
}
