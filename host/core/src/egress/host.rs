//! The host of a request, read in the one way in which all of skep reads it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// Where a request goes to: a name that is still to be resolved, or an address.
///
/// There is one reading of each text. What other programs take for an address
/// though it is not written as one (`127.1`, `0x7f.0.0.1`, `2130706433`) is
/// neither, so that no check sees a name where the resolver sees an address.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Host {
    /// A name, lower-case and without the dot at its end.
    Name(Box<str>),
    /// An address, never an IPv4 address in the form of IPv6.
    Address(IpAddr),
}

/// A text that is no host.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHost {
    /// It is neither a name nor an address.
    #[error("neither a host name nor an address; write other scripts as 'xn--…'")]
    Name,
    /// It ends in a number, as only addresses do, and is not written as one.
    #[error("a number but no address; write four decimal numbers, as in '127.0.0.1'")]
    Number,
}

impl Host {
    /// Reads a host, without the brackets of an IPv6 address.
    ///
    /// # Errors
    ///
    /// It is neither a name nor an address.
    pub fn new(text: &str) -> Result<Self, InvalidHost> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        // An address with a dot at its end is one for browsers; not here.
        if ends_in_number(name) {
            return Err(InvalidHost::Number);
        }
        if name.len() > 253 || !name.split('.').all(is_label) {
            return Err(InvalidHost::Name);
        }
        Ok(Self::Name(name.to_ascii_lowercase().into_boxed_str()))
    }

    /// Reads a host as it stands in a URL, an IPv6 address in its brackets.
    ///
    /// # Errors
    ///
    /// It is neither a name nor an address.
    pub fn in_url(text: &str) -> Result<Self, InvalidHost> {
        let Some(rest) = text.strip_prefix('[') else {
            // Without brackets it is not one of IPv6, whatever it looks like.
            return match Self::new(text)? {
                Self::Address(_) if text.contains(':') => Err(InvalidHost::Name),
                host => Ok(host),
            };
        };
        let address = rest.strip_suffix(']').ok_or(InvalidHost::Name)?;
        let address: Ipv6Addr = address.parse().map_err(|_| InvalidHost::Name)?;
        Ok(Self::Address(IpAddr::from(address).to_canonical()))
    }
}

impl fmt::Display for Host {
    /// Without brackets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.pad(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Whether the last label is a number, which makes a host an address for
/// browsers and for the C library, however it is written.
fn ends_in_number(name: &str) -> bool {
    let last = name.rsplit('.').next().unwrap_or(name);
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let after_0x = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    (!last.is_empty() && digits(last)) || after_0x.is_some_and(hex)
}

fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}
