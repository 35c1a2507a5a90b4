//! A running server: started, found, watched, and ended whatever happens.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout_at};

use crate::process::{self, Process, Recipient};
use crate::request;

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(10);

/// How long a server may take to end when asked.
const GOODBYE: Duration = Duration::from_secs(5);

/// Lines of a server's output that are worth showing when it fails.
const LAST_LINES: usize = 20;

/// How to start a server.
#[derive(Debug)]
pub(crate) struct Launch {
    /// One command per process that we start ourselves.
    pub(crate) commands: Vec<std::process::Command>,
    pub(crate) address: Address,
}

/// Where a server will listen.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Address {
    /// Where it was told to.
    At(SocketAddr),
    /// At a port of its own choice, which it prints behind these words.
    Announced(&'static str),
}

impl Address {
    /// An address that nobody listens at just now.
    ///
    /// # Errors
    ///
    /// There is no free port.
    pub(crate) fn free() -> Result<SocketAddr> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
        Ok(listener.local_addr()?)
    }
}

/// A server that answers. It ends, with all its processes, when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    roots: Vec<Root>,
    address: SocketAddr,
    log: PathBuf,
}

/// A process that we started, the leader of its own process group.
#[derive(Debug)]
struct Root {
    child: Child,
    pid: u32,
}

/// A server's memory while idle, in KiB.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Of each process that serves.
    pub(crate) workers: Vec<u64>,
    /// Of all processes, supervisors included.
    pub(crate) total: u64,
}

impl Server {
    /// Starts a server and waits until it answers `path` with success.
    ///
    /// Output goes to `log`, which is made new.
    ///
    /// # Errors
    ///
    /// It cannot be started, ends by itself, or does not answer in time.
    pub(crate) async fn start(
        launch: Launch,
        path: &str,
        log: &Path,
        patience: Duration,
    ) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot make {}", log.display()))?;
        let mut server = Self {
            roots: Vec::new(),
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            log: log.to_owned(),
        };
        for command in launch.commands {
            server.roots.push(Root::spawn(command, &output)?);
        }
        let by = Instant::now() + patience;
        server.address = server.find(launch.address, by).await?;
        server.until_it_answers(path, by).await?;
        Ok(server)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// All its processes, those that we started first.
    pub(crate) fn processes(&self) -> Vec<Process> {
        let roots: Vec<u32> = self.roots.iter().map(|root| root.pid).collect();
        process::family(&roots)
    }

    /// CPU time in seconds that it has used so far.
    pub(crate) fn cpu_seconds(&self) -> f64 {
        process::cpu_seconds(&self.processes())
    }

    /// Its memory now.
    ///
    /// # Errors
    ///
    /// A process is gone, or is not ours to look at.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let processes = self.processes();
        let all: Vec<u64> = processes
            .iter()
            .map(|process| process::pss_kib(process.pid))
            .collect::<Result<_>>()?;
        let (roots, descendants) = all.split_at(self.roots.len().min(all.len()));
        let workers = if descendants.is_empty() {
            roots
        } else {
            descendants
        };
        Ok(Memory {
            workers: workers.to_vec(),
            total: all.iter().sum(),
        })
    }

    /// Asks it to end, and makes it.
    ///
    /// # Errors
    ///
    /// It had ended already: whatever was measured is worth nothing.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.check_alive()?;
        let by = Instant::now() + GOODBYE;
        for root in &mut self.roots {
            process::send("TERM", Recipient::Process(root.pid))?;
        }
        for root in &mut self.roots {
            // One that does not end in time is killed when dropped.
            if let Ok(ended) = timeout_at(by, root.child.wait()).await {
                ended?;
            }
        }
        Ok(())
    }

    async fn find(&mut self, address: Address, by: Instant) -> Result<SocketAddr> {
        let words = match address {
            Address::At(address) => return Ok(address),
            Address::Announced(words) => words,
        };
        loop {
            let output = fs::read_to_string(&self.log).unwrap_or_default();
            if let Some(address) = announced(&output, words) {
                return Ok(address);
            }
            self.poll(by, "announce its address").await?;
        }
    }

    async fn until_it_answers(&mut self, path: &str, by: Instant) -> Result<()> {
        loop {
            let last = match request::get(self.address, path).await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => format!("answer {path} with 200 instead of {}", answer.status),
                Err(error) => format!("answer {path}: {error:#}"),
            };
            self.poll(by, &last).await?;
        }
    }

    async fn poll(&mut self, by: Instant, what: &str) -> Result<()> {
        self.check_alive()?;
        ensure!(
            Instant::now() < by,
            "the server does not {what}; it said:\n{}",
            self.last_lines()
        );
        sleep(POLL).await;
        Ok(())
    }

    fn check_alive(&mut self) -> Result<()> {
        for root in &mut self.roots {
            if let Some(status) = root.child.try_wait()? {
                bail!(
                    "the server ended by itself ({status}); it said:\n{}",
                    self.last_lines()
                );
            }
        }
        Ok(())
    }

    fn last_lines(&self) -> String {
        let output = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = output.lines().collect();
        lines[lines.len().saturating_sub(LAST_LINES)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Some processes may have left their group, so both the family and
        // the groups are ended. What is gone already is no failure.
        let family = self.processes();
        for root in &mut self.roots {
            let _ = process::send("KILL", Recipient::Group(root.pid));
            let _ = root.child.start_kill();
        }
        for process in family.iter().filter(|process| process.is_alive()) {
            let _ = process::send("KILL", Recipient::Process(process.pid));
        }
    }
}

impl Root {
    fn spawn(mut command: std::process::Command, output: &File) -> Result<Self> {
        let program = command.get_program().to_owned();
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output.try_clone()?);
        let child = Command::from(command)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let pid = child
            .id()
            .context("a child that was never waited for has a pid")?;
        Ok(Self { child, pid })
    }
}

fn announced(output: &str, words: &str) -> Option<SocketAddr> {
    // The last line may be half written.
    let complete = &output[..=output.rfind('\n')?];
    let (_, rest) = complete.split_once(words)?;
    let end = rest.find(|c: char| c.is_whitespace() || c == '/')?;
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_whole_lines_only() {
        let words = "skep: serving http://";
        let line = "starting\nskep: serving http://127.0.0.1:8080 (2 workers, 1 app)\n";
        assert_eq!(announced(line, words), Some(([127, 0, 0, 1], 8080).into()));
        assert_eq!(announced("skep: serving http://127.0.0.1:80", words), None);
        assert_eq!(announced("", words), None);
        let slash = "Serving HTTP on http://127.0.0.1:9/\n";
        assert_eq!(
            announced(slash, "on http://"),
            Some(([127, 0, 0, 1], 9).into())
        );
    }

    #[tokio::test]
    async fn a_server_that_ends_is_reported_with_its_words() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "echo no luck; exit 3"]);
        let launch = Launch {
            commands: vec![command],
            address: Address::Announced("at "),
        };
        let error = Server::start(launch, "/", log.path(), Duration::from_secs(10))
            .await
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("exit status: 3") && error.contains("no luck"),
            "{error}"
        );
    }

    #[tokio::test]
    async fn a_dropped_server_leaves_no_process() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "sleep 60 & sleep 60 & wait"]);
        let root = Root::spawn(command, log.as_file()).unwrap();
        let pid = root.pid;
        let server = Server {
            roots: vec![root],
            address: (Ipv4Addr::LOCALHOST, 0).into(),
            log: log.path().to_owned(),
        };
        let by = Instant::now() + Duration::from_secs(10);
        while server.processes().len() < 3 {
            assert!(Instant::now() < by, "no children of {pid}");
            sleep(POLL).await;
        }
        let family = server.processes();
        drop(server);
        // A killed process may take a moment to go.
        while family[1..].iter().any(Process::is_alive) {
            assert!(Instant::now() < by, "children of {pid} live on");
            sleep(POLL).await;
        }
    }
}
