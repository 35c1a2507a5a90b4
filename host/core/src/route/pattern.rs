//! One route as it is written in the configuration.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The longest route, in bytes. Far above any that a person writes; it bounds
/// what a table costs per route.
const MAX_ROUTE: usize = 1024;

/// The longest host name, and the longest label of one, in bytes: the limits of
/// the DNS.
const MAX_HOST: usize = 253;
const MAX_LABEL: usize = 63;

/// One route of an app: `[HOST]PATH`.
///
/// `HOST` is a name, an IP address (`[::1]` for IPv6), or `*.` and a name for
/// all hosts at any depth below it. `PATH` is exact (`/health`) or a prefix
/// that ends in `*`; `/api/*` is everything below `/api/`, and `/api` itself
/// unless an exact route says otherwise. Equal means written equally.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RoutePattern {
    // First, so that the derived order is that of the text.
    text: Arc<str>,
    pub(super) host: HostPattern,
    pub(super) path: PathPattern,
}

/// The host part, lower-case and without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum HostPattern {
    Any,
    Name(Box<str>),
    Address(Ipv6Addr),
    /// All names that end in a dot and this.
    Below(Box<str>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum PathPattern {
    Exact(Box<str>),
    /// Without its `*`.
    Prefix(Box<str>),
}

/// A text that is not a route.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRoute {
    /// The route is the empty string.
    #[error("a route may not be empty; '/*' stands for everything")]
    Empty,
    /// The route is longer than 1,024 bytes.
    #[error("a route may have at most {MAX_ROUTE} characters")]
    TooLong,
    /// There is no `/` in the route.
    #[error("a route needs a path that starts with '/', as in 'example.com/*'")]
    NoPath,
    /// White space, a control character, or one outside ASCII.
    #[error("a route may not contain {0:?}; write it as clients send it, percent-encoded")]
    Character(char),
    /// A `*` that is not the last character of the path.
    #[error("'*' may stand only at the end of a path")]
    StarInPath,
    /// A `?` or a `#`.
    #[error("a route has no '{0}': a query or fragment takes no part in routing")]
    Query(char),
    /// The route begins with a scheme.
    #[error("a route has no scheme; leave out '{0}://'")]
    Scheme(String),
    /// The host has a port.
    #[error("a route's host has no port; leave out ':{0}'")]
    Port(String),
    /// A `*` in the host that is not its whole first label.
    #[error("'*' in a host must be its whole first label, as in '*.example.com'")]
    StarInHost,
    /// The host is neither a name nor an address.
    #[error("'{0}' is not a host name or an IP address")]
    Host(String),
}

impl RoutePattern {
    /// Reads a route.
    ///
    /// # Errors
    ///
    /// What is wrong with the text.
    pub fn new(text: &str) -> Result<Self, InvalidRoute> {
        if text.is_empty() {
            return Err(InvalidRoute::Empty);
        }
        if text.len() > MAX_ROUTE {
            return Err(InvalidRoute::TooLong);
        }
        if let Some(bad) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(InvalidRoute::Character(bad));
        }
        if let Some((scheme, _)) = text.split_once("://")
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric())
        {
            return Err(InvalidRoute::Scheme(scheme.to_owned()));
        }
        let slash = text.find('/').ok_or(InvalidRoute::NoPath)?;
        let (host, path) = text.split_at(slash);
        Ok(Self {
            text: text.into(),
            host: HostPattern::new(host)?,
            path: PathPattern::new(path)?,
        })
    }

    /// The route as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The route of everything on the same host.
    #[must_use]
    pub fn whole_host(&self) -> Self {
        let slash = self.text.find('/').unwrap_or(self.text.len());
        Self {
            text: format!("{}/*", &self.text[..slash]).into(),
            host: self.host.clone(),
            path: PathPattern::Prefix("/".into()),
        }
    }
}

impl HostPattern {
    fn new(host: &str) -> Result<Self, InvalidRoute> {
        let bad = || InvalidRoute::Host(host.to_owned());
        if host.is_empty() {
            return Ok(Self::Any);
        }
        if let Some(literal) = host.strip_prefix('[') {
            let (address, rest) = literal.split_once(']').ok_or_else(bad)?;
            if let Some(port) = rest.strip_prefix(':') {
                return Err(InvalidRoute::Port(port.to_owned()));
            }
            return match (address.parse(), rest) {
                (Ok(address), "") => Ok(Self::Address(address)),
                _ => Err(bad()),
            };
        }
        if let Some((_, port)) = host.rsplit_once(':') {
            return Err(match host.parse::<Ipv6Addr>() {
                Ok(_) => bad(),
                Err(_) => InvalidRoute::Port(port.to_owned()),
            });
        }
        let below = host.strip_prefix("*.");
        let name = below.unwrap_or(host);
        if name.contains('*') {
            return Err(InvalidRoute::StarInHost);
        }
        let name = name.strip_suffix('.').unwrap_or(name);
        let is_label = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label
                    .bytes()
                    .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        if name.len() > MAX_HOST || !name.split('.').all(is_label) {
            return Err(bad());
        }
        let name = name.to_ascii_lowercase().into_boxed_str();
        Ok(match below {
            Some(_) => Self::Below(name),
            None => Self::Name(name),
        })
    }
}

impl PathPattern {
    fn new(path: &str) -> Result<Self, InvalidRoute> {
        if let Some(mark) = path.chars().find(|c| matches!(c, '?' | '#')) {
            return Err(InvalidRoute::Query(mark));
        }
        let prefix = path.strip_suffix('*');
        let text = prefix.unwrap_or(path);
        if text.contains('*') {
            return Err(InvalidRoute::StarInPath);
        }
        Ok(match prefix {
            Some(prefix) => Self::Prefix(prefix.into()),
            None => Self::Exact(path.into()),
        })
    }
}

impl FromStr for RoutePattern {
    type Err = InvalidRoute;

    fn from_str(text: &str) -> Result<Self, InvalidRoute> {
        Self::new(text)
    }
}

impl TryFrom<String> for RoutePattern {
    type Error = InvalidRoute;

    fn try_from(text: String) -> Result<Self, InvalidRoute> {
        Self::new(&text)
    }
}

impl From<RoutePattern> for String {
    fn from(pattern: RoutePattern) -> Self {
        pattern.text.as_ref().to_owned()
    }
}

impl fmt::Display for RoutePattern {
    /// The route as it was written.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

impl fmt::Debug for RoutePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}
