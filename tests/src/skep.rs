//! One running skep in a directory of its own, ended with the test.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use skep_wire::{ControlReply, ControlRequest, FleetStatus, PoolStatus, WorkerStatus};
use tempfile::TempDir;

use crate::http::{Address, Client};
use crate::lines::Log;
use crate::options::Options;
use crate::wait::{settles, wait_for};
use crate::{process, warm};

/// How long skep may take to serve: components are compiled, on a machine that
/// may have other things to do.
const START: Duration = Duration::from_secs(150);

/// How a test ends its skep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// SIGTERM, and wait.
    Drain,
    /// SIGKILL for the primary and every worker.
    Kill,
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
    pub(crate) fn new(child: Child, log: Log, dir: Arc<TempDir>, warm: bool) -> Self {
        Self {
            pid: child.id(),
            child,
            log,
            dir,
            warm,
        }
    }

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

    /// Waits until so many lines of its log hold this text: records of workers come
    /// through a pipe, after whatever they are about.
    ///
    /// # Panics
    ///
    /// If there are fewer in the end, or more.
    pub fn assert_logged(&self, text: &str, wanted: usize) {
        let logged = settles(
            Duration::from_secs(20),
            || self.logged(text),
            |logged| *logged >= wanted,
        );
        assert_eq!(logged, wanted, "lines with {text:?} in:\n{}", self.log());
    }

    /// Waits for a line of its log.
    ///
    /// # Panics
    ///
    /// If it does not come.
    pub fn wait_for_log(&self, text: &str) -> String {
        self.log.wait_for(START, text)
    }

    /// Reads nothing of its stderr any more, as a terminal does that somebody
    /// has stopped, or goes on.
    pub fn stall_log(&self, stall: bool) {
        self.log.stall(stall);
    }

    /// Where its log ends, for [`Self::wait_for_log_since`].
    #[must_use]
    pub fn log_mark(&self) -> usize {
        self.log.text().len()
    }

    /// Waits for a line of its log that comes after the mark.
    ///
    /// # Panics
    ///
    /// If it does not come.
    pub fn wait_for_log_since(&self, mark: usize, text: &str) -> String {
        self.log.wait_for_since(mark, START, text)
    }

    pub(crate) fn wait_until_serving(&self) {
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
            [only] => self.reach(&only.address),
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
        let mut listeners = status.listeners.iter();
        match listeners.find(|found| found.name.as_str() == listener) {
            Some(found) => self.reach(&found.address),
            None => panic!("no listener {listener}: {status:?}"),
        }
    }

    /// An address as it is reached from here, and not from skep's directory.
    fn reach(&self, address: &str) -> Address {
        match address.parse().expect("skep shows addresses") {
            Address::Unix(path) => Address::Unix(self.dir.path().join(path)),
            tcp @ Address::Tcp(_) => tcp,
        }
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
        let path = self.state_dir().join("control.sock");
        let mut stream = UnixStream::connect(path)?;
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
        let ended = settles(
            deadline,
            || self.child.try_wait().expect("it is our child"),
            Option::is_some,
        );
        ended.unwrap_or_else(|| panic!("skep does not end:\n{}", self.log()))
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
    #[expect(clippy::print_stderr, reason = "the log belongs to a test's failure")]
    fn drop(&mut self) {
        self.log.stall(false);
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
