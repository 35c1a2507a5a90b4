//! nginx, answering by itself: `return 200`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{BODY, Peer, WORKERS};
use crate::server::{Address, Launch};

/// This program.
#[derive(Debug)]
pub(crate) struct Nginx(pub(crate) PathBuf);

impl Peer for Nginx {
    fn launch(&self, scratch: &Path) -> Result<Launch> {
        let address = Address::free()?;
        let body = BODY.replace('\n', "\\n");
        // Directories that a packaged nginx keeps outside its prefix are named,
        // so that no root is needed. Its default of 1,000 requests for each
        // connection would count new connections into the kept-alive figure.
        let configuration = format!(
            "daemon off;
worker_processes {WORKERS};
pid nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    keepalive_requests 1000000000;
    tcp_nodelay on;
    client_body_temp_path temp/body;
    proxy_temp_path temp/proxy;
    fastcgi_temp_path temp/fastcgi;
    uwsgi_temp_path temp/uwsgi;
    scgi_temp_path temp/scgi;
    server {{
        listen {address} backlog=4096;
        default_type text/plain;
        location / {{ return 200 \"{body}\"; }}
    }}
}}
"
        );
        fs::create_dir_all(scratch.join("temp")).context("cannot make nginx's directories")?;
        let file = scratch.join("nginx.conf");
        fs::write(&file, configuration).context("cannot write nginx's configuration")?;
        let mut command = Command::new(&self.0);
        command
            .args(["-e", "stderr", "-p"])
            .arg(scratch)
            .arg("-c")
            .arg(file);
        Ok(Launch {
            commands: vec![command],
            address: Address::At(address),
        })
    }
}
