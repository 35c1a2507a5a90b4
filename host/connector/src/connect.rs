//! From a question to a socket: by which addresses, in which order.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use skep_core::egress::{Host, OpenFailure, OutboundGrant, Scheme, covers, may_connect};
use tokio::net::TcpStream;

use crate::names::Names;

/// Addresses of one name that are tried. More are a server's mistake or an
/// attempt to keep this process busy.
const MAX_ATTEMPTS: usize = 8;

/// Where to.
pub(crate) struct Target {
    pub(crate) scheme: Scheme,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// A socket that is connected to this address.
pub(crate) type Opened = (OwnedFd, SocketAddr);

/// Opens a connection if a grant covers it, within `timeout`.
pub(crate) async fn open(
    target: &Target,
    grants: &[OutboundGrant],
    names: &Names,
    timeout: Duration,
) -> Result<Opened, OpenFailure> {
    let deadline = Instant::now() + timeout;
    let host = Host::new(&target.host).map_err(|_| OpenFailure::Denied)?;
    // Nobody is asked about a name that leads nowhere anyway: a question, too,
    // tells something to somebody.
    if target.port == 0 || !covers(grants, target.scheme, &host, target.port) {
        return Err(OpenFailure::Denied);
    }
    let found = match &host {
        Host::Address(address) => vec![*address],
        Host::Name(name) => tokio::time::timeout(timeout, names.resolve(name))
            .await
            .unwrap_or(Err(OpenFailure::Timeout))?,
    };
    let allowed =
        |address: &IpAddr| may_connect(grants, target.scheme, &host, target.port, *address);
    // What was checked is what is connected to.
    let addresses: Vec<IpAddr> = found.iter().copied().filter(allowed).collect();
    if addresses.is_empty() {
        return Err(if found.is_empty() {
            OpenFailure::Name
        } else {
            OpenFailure::DeniedAddress
        });
    }
    try_each(
        &addresses[..addresses.len().min(MAX_ATTEMPTS)],
        target.port,
        deadline,
    )
    .await
}

/// Tries one address after the other. Each gets its share of the time that is
/// left, so that one that does not answer leaves some for the others.
async fn try_each(
    addresses: &[IpAddr],
    port: u16,
    deadline: Instant,
) -> Result<Opened, OpenFailure> {
    let mut last = OpenFailure::Timeout;
    for (tried, address) in addresses.iter().enumerate() {
        let left = deadline.saturating_duration_since(Instant::now());
        let rest = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        let address = SocketAddr::new(*address, port);
        let attempt = tokio::time::timeout(left / rest, connect(address)).await;
        match attempt {
            Ok(Ok(socket)) => return Ok((socket, address)),
            Ok(Err(error)) => last = failure(&error),
            Err(_) => last = OpenFailure::Timeout,
        }
    }
    Err(last)
}

async fn connect(address: SocketAddr) -> io::Result<OwnedFd> {
    let stream = TcpStream::connect(address).await?;
    // Here, because a worker cannot: requests are written whole, and waiting
    // for more of them is of no use.
    stream.set_nodelay(true)?;
    Ok(stream.into_std()?.into())
}

fn failure(error: &io::Error) -> OpenFailure {
    match error.kind() {
        io::ErrorKind::ConnectionRefused | io::ErrorKind::ConnectionReset => OpenFailure::Refused,
        io::ErrorKind::TimedOut => OpenFailure::Timeout,
        _ => OpenFailure::Unreachable,
    }
}
