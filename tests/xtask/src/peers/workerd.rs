//! workerd, which runs JavaScript without a process or an instance for each request.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{BODY, Peer};
use crate::server::{Address, Launch};

/// This program.
#[derive(Debug)]
pub(crate) struct Workerd(pub(crate) PathBuf);

impl Peer for Workerd {
    fn launch(&self, scratch: &Path) -> Result<Launch> {
        let address = Address::free()?;
        let configuration = format!(
            "using Workerd = import \"/workerd/workerd.capnp\";
const config :Workerd.Config = (
  services = [(name = \"main\", worker = .hello)],
  sockets = [(name = \"http\", address = \"{address}\", http = (), service = \"main\")]
);
const hello :Workerd.Worker = (
  modules = [(name = \"hello\", esModule = embed \"hello.js\")],
  compatibilityDate = \"2026-01-01\"
);
"
        );
        let script = format!(
            "export default {{
  async fetch(request) {{
    if (request.method === 'POST') return new Response(request.body);
    return new Response({BODY:?}, {{ headers: {{ 'content-type': 'text/plain' }} }});
  }}
}};
"
        );
        fs::write(scratch.join("hello.js"), script).context("cannot write workerd's script")?;
        let file = scratch.join("config.capnp");
        fs::write(&file, configuration).context("cannot write workerd's configuration")?;
        let mut command = Command::new(&self.0);
        command.arg("serve").arg(file);
        Ok(Launch {
            commands: vec![command],
            address: Address::At(address),
        })
    }

    fn echo(&self, scratch: &Path) -> Result<Option<Launch>> {
        self.launch(scratch).map(Some)
    }
}
