//! Names to addresses, as this machine resolves them: the hosts file, then the
//! servers of `resolv.conf`.
//!
//! Nothing is kept of an answer. The machine's own resolver keeps answers, and
//! connections are kept by workers; a cache in here would be one that tenants
//! share, from which each could read what others ask.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::op::Query;
use hickory_resolver::proto::rr::{Name, RData, RecordType};
use hickory_resolver::system_conf::parse_resolv_conf;
use hickory_resolver::{Hosts, TokioResolver};
use skep_core::egress::OpenFailure;

/// How long one server may take for one question, whatever `resolv.conf` says.
/// Askers have deadlines of their own; this lets another server be asked
/// within them.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of the hosts file and of `resolv.conf` that are read. Lists of blocked
/// hosts have a few megabytes.
const MAX_FILE: u64 = 16 << 20;

/// The files that say how names are resolved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameFiles {
    /// `resolv.conf`: servers, search domains, options.
    pub resolv: PathBuf,
    /// `hosts`: names that are known without asking.
    pub hosts: PathBuf,
    /// The port of all servers.
    pub port: u16,
}

/// Resolves names by two files, which are read again when they have changed.
#[derive(Debug)]
pub struct Names {
    files: NameFiles,
    state: RefCell<State>,
}

/// The configuration was replaced by a file that this process may not open: it
/// was confined to the one before.
#[derive(Debug, thiserror::Error)]
#[error("{} was replaced, and may not be opened", .0.display())]
pub(crate) struct Replaced(PathBuf);

struct State {
    resolver: TokioResolver,
    hosts: Rc<Hosts>,
    /// As the files were when they were read.
    marks: [Option<Mark>; 2],
}

/// What is different about a file once it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Default for NameFiles {
    /// Those of this machine.
    fn default() -> Self {
        Self {
            resolv: "/etc/resolv.conf".into(),
            hosts: "/etc/hosts".into(),
            port: 53,
        }
    }
}

impl Names {
    /// Reads the files. Those that are not there are taken for empty: without
    /// servers the one on this machine is asked, as the C library does.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or `resolv.conf` makes no sense.
    pub fn new(files: NameFiles) -> io::Result<Self> {
        let state = RefCell::new(State::read(&files)?);
        Ok(Self { files, state })
    }

    /// Reads the files again if they have changed.
    ///
    /// # Errors
    ///
    /// They were replaced by others that may not be opened. Any other mistake
    /// in them leaves what was read before.
    pub(crate) fn refresh(&self) -> Result<(), Replaced> {
        let marks = marks(&self.files);
        if self.state.borrow().marks == marks {
            return Ok(());
        }
        match State::read(&self.files) {
            Ok(state) => *self.state.borrow_mut() = state,
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                return Err(Replaced(self.files.resolv.clone()));
            }
            // Half written, perhaps; the next change is another occasion.
            Err(_) => self.state.borrow_mut().marks = marks,
        }
        Ok(())
    }

    /// All addresses of a name, those of IPv4 first. The name has no dot at its
    /// end; whether search domains are tried is said by `resolv.conf`.
    pub(crate) async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, OpenFailure> {
        if name == "localhost" {
            // Nobody else has a say in that (RFC 6761).
            return Ok(vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]);
        }
        let (resolver, hosts) = {
            let state = self.state.borrow();
            (state.resolver.clone(), Rc::clone(&state.hosts))
        };
        let mut addresses = known(&hosts, name);
        if addresses.is_empty() {
            let answer = resolver
                .lookup_ip(name)
                .await
                .map_err(|error| failure(&error))?;
            addresses = answer.iter().collect();
        }
        addresses.sort_by_key(IpAddr::is_ipv6);
        addresses.dedup();
        Ok(addresses)
    }
}

impl State {
    fn read(files: &NameFiles) -> io::Result<Self> {
        // Before the files, so that a change in between is seen as one.
        let marks = marks(files);
        let (mut config, mut options) = servers(&read(&files.resolv)?)?;
        config = with_port(config, files.port);
        options.timeout = options.timeout.min(PATIENCE);
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.use_hosts_file = ResolveHosts::Never;
        options.cache_size = 0;
        let mut builder =
            TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let resolver = builder.build().map_err(io::Error::other)?;
        let mut hosts = Hosts::default();
        hosts.read_hosts_conf(&read(&files.hosts)?[..])?;
        Ok(Self {
            resolver,
            hosts: Rc::new(hosts),
            marks,
        })
    }
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").finish_non_exhaustive()
    }
}

/// A file's bytes; none if it is not there.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;

    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn marks(files: &NameFiles) -> [Option<Mark>; 2] {
    [&files.resolv, &files.hosts].map(|path| {
        let file = std::fs::metadata(path).ok()?;
        Some(Mark {
            device: file.dev(),
            inode: file.ino(),
            size: file.size(),
            changed: (file.mtime(), file.mtime_nsec()),
        })
    })
}

fn servers(text: &[u8]) -> io::Result<(ResolverConfig, ResolverOpts)> {
    let names_one = text
        .split(|byte| *byte == b'\n')
        .any(|line| line.trim_ascii_start().starts_with(b"nameserver"));
    if names_one {
        return parse_resolv_conf(text).map_err(io::Error::other);
    }
    let local = [text, b"\nnameserver 127.0.0.1\n"].concat();
    parse_resolv_conf(local).map_err(io::Error::other)
}

fn with_port(config: ResolverConfig, port: u16) -> ResolverConfig {
    let (domain, search, servers) = config.into_parts();
    let servers = servers.into_iter().map(|mut server: NameServerConfig| {
        for connection in &mut server.connections {
            connection.port = port;
        }
        server
    });
    ResolverConfig::from_parts(domain, search, servers.collect())
}

/// What the hosts file says about a name. If it says anything nobody is asked,
/// not for the other kind of address either.
fn known(hosts: &Hosts, name: &str) -> Vec<IpAddr> {
    let Ok(name) = Name::from_ascii(name) else {
        return Vec::new();
    };
    let mut addresses = Vec::new();
    for kind in [RecordType::A, RecordType::AAAA] {
        let query = Query::query(name.clone(), kind);
        let answer = hosts.lookup_static_host(&query);
        for record in answer.iter().flat_map(Lookup::answers) {
            match &record.data {
                RData::A(address) => addresses.push(IpAddr::V4(address.0)),
                RData::AAAA(address) => addresses.push(IpAddr::V6(address.0)),
                _ => {}
            }
        }
    }
    addresses
}

fn failure(error: &NetError) -> OpenFailure {
    match error {
        NetError::Timeout => OpenFailure::Timeout,
        _ => OpenFailure::Name,
    }
}
