//! What apps may reach outside: grants, and whether one covers a request.
//!
//! A grant names a scheme, a host and a port. It is asked twice: with the name
//! that the guest gave, before anything is resolved, and with the address that
//! was resolved and is then connected to, so that a name cannot lead elsewhere
//! a moment later.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

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

/// The host part, lower-case and without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum GrantedHost {
    Name(Box<str>),
    /// All names that end in a dot and this.
    Below(Box<str>),
    /// All addresses that begin with so many bits of this one.
    Network(IpAddr, u8),
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
    /// The port is none.
    #[error("'{0}' is not a port from 1 to 65535, or '*'")]
    Port(String),
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
                match port.parse() {
                    Ok(0) | Err(_) => return Err(bad()),
                    Ok(port) => Some(port),
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
}

fn split_host(rest: &str) -> Result<(GrantedHost, &str), InvalidGrant> {
    let bad = |host: &str| InvalidGrant::Host(host.to_owned());
    let (address, rest) = match rest.strip_prefix('[') {
        Some(literal) => literal.split_once(']').ok_or_else(|| bad(rest))?,
        None => {
            let end = rest.find([':', '/']).unwrap_or(rest.len());
            rest.split_at(end)
        }
    };
    if let Ok(address) = address.parse::<IpAddr>() {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let Some(prefix) = rest.strip_prefix('/') else {
            return Ok((GrantedHost::Network(address, longest), rest));
        };
        let end = prefix.find(':').unwrap_or(prefix.len());
        let (length, rest) = prefix.split_at(end);
        return match length.parse() {
            Ok(length) if length <= longest => Ok((GrantedHost::Network(address, length), rest)),
            _ => Err(bad(&format!("{address}/{length}"))),
        };
    }
    if let Some(slash) = rest.find('/') {
        return Err(InvalidGrant::Path(rest[slash..].to_owned()));
    }
    let below = address.strip_prefix("*.");
    let name = below.unwrap_or(address);
    let name = name.strip_suffix('.').unwrap_or(name);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
    };
    if name.len() > 253 || !name.split('.').all(is_label) {
        return Err(bad(address));
    }
    let name = name.to_ascii_lowercase().into_boxed_str();
    let host = match below {
        Some(_) => GrantedHost::Below(name),
        None => GrantedHost::Name(name),
    };
    Ok((host, rest))
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
