//! Node's cluster module around a plain `http.createServer`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{BODY, Peer, WORKERS};
use crate::server::{Address, Launch};

/// This program.
#[derive(Debug)]
pub(crate) struct Node(pub(crate) PathBuf);

impl Peer for Node {
    fn launch(&self, scratch: &Path) -> Result<Launch> {
        let address = Address::free()?;
        let (host, port) = (address.ip(), address.port());
        let length = BODY.len();
        let script = format!(
            "const cluster = require('node:cluster');
const http = require('node:http');
if (cluster.isPrimary) {{
  for (let i = 0; i < {WORKERS}; i++) cluster.fork();
  cluster.on('exit', () => process.exit(1));
}} else {{
  const headers = {{ 'content-type': 'text/plain', 'content-length': {length} }};
  http.createServer((request, response) => {{
    if (request.method === 'POST') {{
      const length = request.headers['content-length'];
      response.writeHead(200, {{ 'content-length': length }});
      return request.pipe(response);
    }}
    response.writeHead(200, headers);
    response.end({BODY:?});
  }}).listen({port}, '{host}');
}}
"
        );
        let file = scratch.join("server.js");
        fs::write(&file, script).context("cannot write node's script")?;
        let mut command = Command::new(&self.0);
        command.arg(file);
        Ok(Launch {
            commands: vec![command],
            address: Address::At(address),
        })
    }
    fn echo(&self, scratch: &Path) -> Result<Option<Launch>> {
        self.launch(scratch).map(Some)
    }
}
