//! One running skep in a directory of its own, ended with the test.

use std::ffi::OsString;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use std::{fs, io};

use sha2::{Digest as _, Sha256};
use skep_wire::{ControlReply, ControlRequest, FleetStatus, PoolStatus, WorkerStatus};
use tempfile::TempDir;

use crate::http::{Address, Client};
use crate::process;
use crate::wait::wait_for;
use crate::{binary, build, turn};

/// How long skep may take to serve: components are compiled, on a machine that
/// may have other things to do.
const START: Duration = Duration::from_secs(60);

/// Artifacts larger than this are not worth copying about.
const WARM_MAX: u64 = 16 << 20;

/// How a test ends its skep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM, and wait.
    Drain,
    /// SIGKILL for the primary and every worker.
    Kill,
}

/// What to start.
#[derive(Debug)]
pub struct Options {
    dir: Option<Arc<TempDir>>,
    config: Option<String>,
    args: Vec<OsString>,
    env: Vec<(String, String)>,
    warm: bool,
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
        if let Some(config) = &self.config {
            fs::write(dir.path().join("skep.toml"), config).expect("the directory is ours");
        }
        if self.warm {
            let named = self.config.iter().cloned().chain(
                self.args
                    .iter()
                    .map(|arg| arg.to_string_lossy().into_owned()),
            );
            for component in named.flat_map(|text| components(&text)) {
                warm::give(&component, &dir.path().join(".skep/artifacts"));
            }
        }
        let mut command = Command::new(binary());
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
        Skep {
            pid: child.id(),
            child,
            log,
            dir,
            warm: self.warm,
        }
    }
}

/// A running skep. Dropping it kills the primary and all its workers.
#[derive(Debug)]
pub struct Skep {
    pid: u32,
    child: Child,
    log: Log,
    dir: Arc<TempDir>,
    warm: bool,
}

impl Skep {
    /// `skep serve -c skep.toml` with this text in it, serving.
    #[must_use]
    pub fn config(text: &str) -> Self {
        Options::config(text).start()
    }

    /// `skep serve COMPONENT --workers N` on a free port, serving.
    #[must_use]
    pub fn component(component: &Path, workers: u16) -> Self {
        Options::component(component)
            .arg("--workers")
            .arg(workers.to_string())
            .start()
    }

    /// The primary's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its directory.
    #[must_use]
    pub fn dir(&self) -> &Arc<TempDir> {
        &self.dir
    }

    /// Its state directory.
    #[must_use]
    pub fn state_dir(&self) -> PathBuf {
        self.dir.path().join(".skep")
    }

    /// What it wrote on stderr so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.log.text()
    }

    /// How many lines of its log hold this text.
    #[must_use]
    pub fn logged(&self, text: &str) -> usize {
        self.log()
            .lines()
            .filter(|line| line.contains(text))
            .count()
    }

    /// Waits for a line of its log.
    ///
    /// # Panics
    ///
    /// If it does not come.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.log.wait_for(START, text)
    }

    fn wait_until_serving(&self) {
        let line = self.log.wait_for(START, "skep: serving ");
        // One line a listener; the status knows how many.
        assert!(line.starts_with("skep: serving "), "{line}");
        wait_for(
            START,
            "all workers to serve",
            || self.status(),
            |status| status.pools.iter().all(|pool| pool.serving == pool.workers),
        );
        if self.warm {
            warm::take(&self.state_dir().join("artifacts"));
        }
    }

    /// The address of its only listener.
    ///
    /// # Panics
    ///
    /// If there is not exactly one.
    #[must_use]
    pub fn address(&self) -> Address {
        match self.status().listeners.as_slice() {
            [only] => only.address.parse().expect("skep shows addresses"),
            more => panic!("which listener? {more:?}"),
        }
    }

    /// The address of a listener by name.
    ///
    /// # Panics
    ///
    /// If there is none of that name.
    #[must_use]
    pub fn address_of(&self, listener: &str) -> Address {
        let status = self.status();
        let found = status
            .listeners
            .iter()
            .find(|found| found.name.as_str() == listener);
        found
            .unwrap_or_else(|| panic!("no listener {listener}: {status:?}"))
            .address
            .parse()
            .expect("skep shows addresses")
    }

    /// A connection to its only listener.
    ///
    /// # Panics
    ///
    /// If there is none to be had.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(&self.address()).expect("skep listens")
    }

    /// What `skep status` shows, from the control socket itself.
    ///
    /// # Panics
    ///
    /// If it does not answer.
    #[must_use]
    pub fn status(&self) -> FleetStatus {
        self.try_status()
            .unwrap_or_else(|error| panic!("no status: {error}\n{}", self.log()))
    }

    /// The same, while it may be gone.
    ///
    /// # Errors
    ///
    /// Those of the socket.
    pub fn try_status(&self) -> io::Result<FleetStatus> {
        use std::io::Write as _;
        let path = self.state_dir().join("control.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(path)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(&skep_wire::encode_line(&ControlRequest::Status))?;
        let mut line = Vec::new();
        BufReader::new(stream).read_until(b'\n', &mut line)?;
        match skep_wire::decode_line(&line) {
            Ok(ControlReply::Status(status)) => Ok(*status),
            Ok(other) => Err(io::Error::other(format!("not a status: {other:?}"))),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Waits for a status.
    ///
    /// # Panics
    ///
    /// If it does not come within 20 s.
    pub fn wait_for_status(
        &self,
        what: &str,
        wanted: impl Fn(&FleetStatus) -> bool,
    ) -> FleetStatus {
        wait_for(Duration::from_secs(20), what, || self.status(), wanted)
    }

    /// The workers that serve.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let mut workers = self.status().workers;
        workers.retain(|worker| worker.state == "serving");
        workers
    }

    /// The only worker.
    ///
    /// # Panics
    ///
    /// If there are more or none.
    #[must_use]
    pub fn worker(&self) -> WorkerStatus {
        match <[WorkerStatus; 1]>::try_from(self.workers()) {
            Ok([only]) => only,
            Err(workers) => panic!("not one worker: {workers:?}"),
        }
    }

    /// A pool by name.
    ///
    /// # Panics
    ///
    /// If there is none of that name.
    #[must_use]
    pub fn pool(&self, name: &str) -> PoolStatus {
        let status = self.status();
        let found = status
            .pools
            .into_iter()
            .find(|pool| pool.name.as_str() == name);
        found.unwrap_or_else(|| panic!("no pool {name}"))
    }

    /// How many requests of the workers that live had this outcome.
    #[must_use]
    pub fn outcomes(&self, outcome: &str) -> u64 {
        let workers = self.status().workers;
        workers
            .iter()
            .filter_map(|worker| worker.outcomes.get(outcome))
            .sum()
    }

    /// Sends the primary a signal.
    pub fn signal(&self, name: &str) {
        process::signal(self.pid, name);
    }

    /// Waits until the primary is gone.
    ///
    /// # Panics
    ///
    /// If it stays.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let by = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait().expect("it is our child") {
                return status;
            }
            assert!(Instant::now() < by, "skep does not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends it, and waits until it is gone.
    ///
    /// # Panics
    ///
    /// If it does not go, or not well.
    pub fn stop(mut self, stop: Stop) {
        if stop == Stop::Drain {
            self.signal("TERM");
            let status = self.wait(Duration::from_secs(45));
            assert!(
                status.success(),
                "{status:?} {:?}\n{}",
                status.signal(),
                self.log()
            );
        }
    }
}

impl Drop for Skep {
    fn drop(&mut self) {
        let children = process::children(self.pid);
        let workers = self
            .try_status()
            .map(|status| status.workers)
            .unwrap_or_default();
        let _ = self.child.kill();
        let _ = self.child.wait();
        for pid in workers
            .iter()
            .map(|worker| worker.pid)
            .chain(children.iter().map(|child| child.pid))
        {
            if pid > 1 {
                process::signal(pid, "KILL");
            }
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.len().saturating_sub(4000);
            eprintln!(
                "--- the end of skep's log\n{}",
                &log[log.ceil_char_boundary(tail)..]
            );
        }
    }
}

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
    let by = Instant::now() + Duration::from_secs(120);
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is our child") {
            break status;
        }
        if Instant::now() > by {
            process::signal(pid, "KILL");
            panic!("skep does not end:\n{}", stderr.text());
        }
        std::thread::sleep(Duration::from_millis(5));
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

/// Lines of a pipe, and who waits for them.
#[derive(Clone, Debug, Default)]
struct Log(Arc<(Mutex<(String, bool)>, Condvar)>);

impl Log {
    fn collect(&self, pipe: impl io::Read) {
        let mut reader = BufReader::new(pipe);
        let mut line = Vec::new();
        while reader
            .read_until(b'\n', &mut line)
            .is_ok_and(|read| read > 0)
        {
            let text = String::from_utf8_lossy(&line).into_owned();
            self.change(|log| log.0.push_str(&text));
            line.clear();
        }
        self.change(|log| log.1 = true);
    }

    fn change(&self, change: impl FnOnce(&mut (String, bool))) {
        change(&mut self.0.0.lock().unwrap_or_else(PoisonError::into_inner));
        self.0.1.notify_all();
    }

    fn text(&self) -> String {
        self.0
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .0
            .clone()
    }

    fn wait_for(&self, deadline: Duration, text: &str) -> String {
        let by = Instant::now() + deadline;
        let mut log = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(line) = log.0.lines().find(|line| line.contains(text)) {
                return line.to_owned();
            }
            let left = by.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero() && !log.1,
                "no line with {text:?} in:\n{}",
                log.0
            );
            log = self
                .0
                .1
                .wait_timeout(log, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
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

/// Artifacts that tests share by copying, so that each guest is compiled once.
mod warm {
    use super::{Path, PathBuf, WARM_MAX, build, fs, io, sha256};

    fn dir() -> PathBuf {
        build::target_dir().join("tests-artifacts")
    }

    /// Copies what there is for a component into a skep's cache.
    pub(super) fn give(component: &Path, cache: &Path) {
        let digest = sha256(&fs::read(component).expect("guests can be read"));
        copy(&dir(), cache, |name| name.starts_with(&digest));
    }

    /// Copies from a skep's cache what is not there yet.
    pub(super) fn take(cache: &Path) {
        copy(cache, &dir(), |_| true);
    }

    fn copy(from: &Path, to: &Path, wanted: impl Fn(&str) -> bool) {
        let mut names: Vec<String> = fs::read_dir(from)
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.metadata().is_ok_and(|data| data.len() <= WARM_MAX))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| wanted(name) && (name.ends_with(".cwasm") || name.ends_with(".json")))
            .collect();
        // The sidecar makes an entry of it: it goes last.
        names.sort();
        for name in names {
            if !to.join(&name).exists() {
                // What cannot be copied is compiled again.
                let _ = whole(&from.join(&name), &to.join(&name));
            }
        }
    }

    fn whole(from: &Path, to: &Path) -> io::Result<()> {
        let dir = to.parent().expect("it is a file in a directory");
        fs::create_dir_all(dir)?;
        let draft = tempfile::NamedTempFile::new_in(dir)?;
        fs::copy(from, draft.path())?;
        draft.persist(to)?;
        Ok(())
    }
}
