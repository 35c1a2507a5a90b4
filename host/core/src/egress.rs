//! What apps may reach outside: grants, and whether one covers a request.
//!
//! A grant names a scheme, a host and a port. It is asked twice: with the name
//! that the guest gave, before anything is resolved, and with the address that
//! was resolved and is then connected to, so that a name cannot lead elsewhere
//! a moment later. An address that is not public must be listed itself: as an
//! address or a network, or as `localhost`.

mod address;
mod host;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

pub use self::address::is_public;
pub use self::host::{Host, InvalidHost};

/// What is spoken over an outbound connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scheme {
    /// Cleartext HTTP.
    Http,
    /// HTTP over TLS.
    Https,
}

impl Scheme {
    /// The port where none is given.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// As in a URL, without the colon.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// One place that an app may send requests to: `SCHEME://HOST[:PORT]`.
///
/// `HOST` is a name, `*.` and a name for all below it, an address (`[::1]` for
/// IPv6) or a network (`10.0.0.0/8`, `[fd00::]/8`). `PORT` is a number or `*`;
/// without it, the scheme's own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OutboundGrant {
    // First, so that the derived order is that of the text.
    text: Arc<str>,
    scheme: Scheme,
    host: GrantedHost,
    /// Any, if absent.
    port: Option<u16>,
}

/// A text that is no grant.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrant {
    /// There is no `http://` or `https://`.
    #[error("a grant begins with 'http://' or 'https://', as in 'https://api.example.com'")]
    Scheme,
    /// Something follows the host and port.
    #[error("a grant has no path; leave out '{0}'")]
    Path(String),
    /// The host is neither a name, an address nor a network.
    #[error("'{0}' is not a host name, an address or a network as '10.0.0.0/8'")]
    Host(String),
    /// The host ends in a number and is not written as an address.
    #[error("'{0}' is a number but no address; write four decimal numbers, as in '127.0.0.1'")]
    Number(String),
    /// An IPv4 address is written as one of IPv6.
    #[error("'{0}' is an IPv4 address; write it as '{1}'")]
    Mapped(Ipv6Addr, Ipv4Addr),
    /// An address has bits that its network has not.
    #[error(
        "'{0}' is not the beginning of a network of {1} bits; write '{2}/{1}' or leave '/{1}' out"
    )]
    Network(IpAddr, u8, IpAddr),
    /// The port is none.
    #[error("'{0}' is not a port from 1 to 65535, or '*'")]
    Port(String),
}

/// Why an outbound connection was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OpenFailure {
    /// No grant covers the scheme, host and port.
    Denied,
    /// The name leads to an address that is private, local or reserved, and no
    /// grant lists it.
    DeniedAddress,
    /// The app has as many connections as it may.
    TooMany,
    /// The name does not resolve.
    Name,
    /// Nobody listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// It took too long.
    Timeout,
}

impl OpenFailure {
    /// The stable name, for logs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::DeniedAddress => "denied-address",
            Self::TooMany => "too-many",
            Self::Name => "name",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
        }
    }
}

impl OutboundGrant {
    /// Reads a grant.
    ///
    /// # Errors
    ///
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, InvalidGrant> {
        let (scheme, rest) = if let Some(rest) = text.strip_prefix("https://") {
            (Scheme::Https, rest)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (Scheme::Http, rest)
        } else {
            return Err(InvalidGrant::Scheme);
        };
        let (host, rest) = split_host(rest)?;
        let port = match rest {
            "" => Some(scheme.default_port()),
            ":*" => None,
            _ => {
                let bad = || InvalidGrant::Port(rest.trim_start_matches(':').to_owned());
                let port = rest.strip_prefix(':').ok_or_else(bad)?;
                match number(port) {
                    Some(0) | None => return Err(bad()),
                    port => port,
                }
            }
        };
        Ok(Self {
            text: text.into(),
            scheme,
            host,
            port,
        })
    }

    /// The grant as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The port, or `None` for any.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// Whether both are for the same places, however they are written.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        (self.scheme, &self.host, self.port) == (other.scheme, &other.host, other.port)
    }

    /// Whether a request to `host` is what this grant is about.
    fn covers(&self, scheme: Scheme, host: &Host, port: u16) -> bool {
        self.speaks(scheme, port)
            && match (&self.host, host) {
                (GrantedHost::Name(granted), Host::Name(name)) => granted == name,
                (GrantedHost::Below(granted), Host::Name(name)) => name
                    .strip_suffix(granted.as_ref())
                    .is_some_and(|above| above.len() > 1 && above.ends_with('.')),
                (GrantedHost::Network(network, length), Host::Address(address)) => {
                    address::contains(*network, *length, *address)
                }
                _ => false,
            }
    }

    /// Whether this grant lists an address that is not public.
    fn lists(&self, scheme: Scheme, host: &Host, port: u16, address: IpAddr) -> bool {
        self.speaks(scheme, port)
            && match &self.host {
                GrantedHost::Network(network, length) => {
                    address::contains(*network, *length, address)
                }
                GrantedHost::Name(granted) => {
                    &**granted == LOCALHOST
                        && *host == Host::Name(granted.clone())
                        && address.is_loopback()
                }
                GrantedHost::Below(_) => false,
            }
    }

    fn speaks(&self, scheme: Scheme, port: u16) -> bool {
        self.scheme == scheme && self.port.is_none_or(|granted| granted == port)
    }
}

/// Whether a request to `host`, as the guest wrote it, is covered by a grant.
/// If not there is no need to resolve it.
#[must_use]
pub fn covers(grants: &[OutboundGrant], scheme: Scheme, host: &Host, port: u16) -> bool {
    grants.iter().any(|grant| grant.covers(scheme, host, port))
}

/// Whether a request to `host`, which [leads](covers) somewhere, may be sent to
/// this address: it is public, or a grant for this scheme and port lists it.
///
/// A name alone never leads to an address that is not public: names are
/// changed by people whom nobody granted anything. The exception is
/// `localhost`, which is nobody's.
#[must_use]
pub fn may_connect(
    grants: &[OutboundGrant],
    scheme: Scheme,
    host: &Host,
    port: u16,
    address: IpAddr,
) -> bool {
    let address = address.to_canonical();
    covers(grants, scheme, host, port)
        && (is_public(address)
            || grants
                .iter()
                .any(|grant| grant.lists(scheme, host, port, address)))
}

/// The host part of a grant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum GrantedHost {
    Name(Box<str>),
    /// All names that end in a dot and this.
    Below(Box<str>),
    /// All addresses that begin with so many bits of this one.
    Network(IpAddr, u8),
}

/// The name that leads to this machine wherever it is asked for.
const LOCALHOST: &str = "localhost";

/// The host and what follows it.
fn split_host(rest: &str) -> Result<(GrantedHost, &str), InvalidGrant> {
    let end = match rest.find(']') {
        Some(bracket) if rest.starts_with('[') => bracket + 1,
        _ => rest.find([':', '/']).unwrap_or(rest.len()),
    };
    let (text, rest) = rest.split_at(end);
    let below = text.strip_prefix("*.");
    let host = Host::in_url(below.unwrap_or(text)).map_err(|error| match error {
        InvalidHost::Name => InvalidGrant::Host(text.to_owned()),
        InvalidHost::Number => InvalidGrant::Number(text.to_owned()),
    })?;
    match (host, below) {
        (Host::Address(address), None) => {
            refuse_mapped(text)?;
            let (length, rest) = split_length(address, text, rest)?;
            Ok((GrantedHost::Network(address, length), rest))
        }
        (Host::Address(_), Some(_)) => Err(InvalidGrant::Host(text.to_owned())),
        (Host::Name(_), _) if rest.contains('/') => {
            let path = rest.find('/').unwrap_or(0);
            Err(InvalidGrant::Path(rest[path..].to_owned()))
        }
        (Host::Name(name), None) => Ok((GrantedHost::Name(name), rest)),
        (Host::Name(name), Some(_)) => Ok((GrantedHost::Below(name), rest)),
    }
}

/// There is one way to write an address that a grant lists.
fn refuse_mapped(text: &str) -> Result<(), InvalidGrant> {
    let address = text.trim_matches(['[', ']']).parse::<Ipv6Addr>().ok();
    match address.and_then(|written| written.to_ipv4_mapped().map(|v4| (written, v4))) {
        Some((written, v4)) => Err(InvalidGrant::Mapped(written, v4)),
        None => Ok(()),
    }
}

/// How many bits of an address count, and what follows.
fn split_length<'a>(
    address: IpAddr,
    text: &str,
    rest: &'a str,
) -> Result<(u8, &'a str), InvalidGrant> {
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let Some(length) = rest.strip_prefix('/') else {
        return Ok((longest, rest));
    };
    let (length, rest) = length.split_at(length.find(':').unwrap_or(length.len()));
    let length = match number(length) {
        Some(bits) if bits <= longest => bits,
        _ => return Err(InvalidGrant::Host(format!("{text}/{length}"))),
    };
    let first = address::first_of(address, length);
    if first != address {
        return Err(InvalidGrant::Network(address, length, first));
    }
    Ok((length, rest))
}

/// A number without the sign that the standard library would take.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| digits)
}

impl FromStr for OutboundGrant {
    type Err = InvalidGrant;

    fn from_str(text: &str) -> Result<Self, InvalidGrant> {
        Self::new(text)
    }
}

impl TryFrom<String> for OutboundGrant {
    type Error = InvalidGrant;

    fn try_from(text: String) -> Result<Self, InvalidGrant> {
        Self::new(&text)
    }
}

impl From<OutboundGrant> for String {
    fn from(grant: OutboundGrant) -> Self {
        grant.text.as_ref().to_owned()
    }
}

impl fmt::Display for OutboundGrant {
    /// The grant as it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for OutboundGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

#[cfg(test)]
mod tests;
