//! `wasmtime serve`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use super::{Peer, WORKERS};
use crate::server::{Address, Launch};

/// One component, served.
#[derive(Debug)]
pub(crate) struct Wasmtime {
    pub(crate) program: PathBuf,
    pub(crate) component: PathBuf,
    /// One that gives back what it is sent.
    pub(crate) echo: Option<PathBuf>,
    pub(crate) settings: Settings,
}

/// How it treats instances.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Settings {
    /// As it does unasked.
    Default,
    /// Each serves this many requests.
    Reused(u32),
}

impl Wasmtime {
    fn serve(&self, component: &Path) -> Launch {
        let mut command = Command::new(&self.program);
        command
            // It is one process: its threads are its workers.
            .env("TOKIO_WORKER_THREADS", WORKERS.to_string())
            .args(["serve", "-Scli", "--addr", "127.0.0.1:0"]);
        if let Settings::Reused(count) = self.settings {
            command.arg(format!("--max-instance-reuse-count={count}"));
        }
        command.arg(component);
        Launch {
            commands: vec![command],
            address: Address::Announced("Serving HTTP on http://"),
        }
    }
}

impl Peer for Wasmtime {
    fn launch(&self, _: &Path) -> Result<Launch> {
        Ok(self.serve(&self.component))
    }

    fn echo(&self, _: &Path) -> Result<Option<Launch>> {
        Ok(self.echo.as_deref().map(|echo| self.serve(echo)))
    }
}
