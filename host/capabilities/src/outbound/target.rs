//! Where a request goes to, read from its URI.

use http::Uri;
use skep_core::egress::{Host, Scheme};

use super::OutboundError;

/// Bytes of a host in a log record: longer than any name.
const MAX_SHOWN: usize = 256;

/// Where a request goes to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) scheme: Scheme,
    pub(super) host: Host,
    pub(super) port: u16,
}

/// The parts of a URI before its host is understood.
pub(super) struct Written<'a> {
    pub(super) scheme: Scheme,
    pub(super) host: &'a str,
    pub(super) port: u16,
}

impl<'a> Written<'a> {
    /// What the guest wrote.
    pub(super) fn of(uri: &'a Uri) -> Result<Self, OutboundError> {
        let scheme = match uri.scheme_str() {
            Some("http") => Scheme::Http,
            Some("https") => Scheme::Https,
            _ => return Err(OutboundError::Uri),
        };
        let authority = uri.authority().ok_or(OutboundError::Uri)?;
        // What is before an `@` looks like a host to people and to logs.
        if authority.as_str().contains('@') {
            return Err(OutboundError::Uri);
        }
        let host = authority.host();
        let port = match authority.as_str()[host.len()..].strip_prefix(':') {
            None if authority.as_str().len() == host.len() => scheme.default_port(),
            None => return Err(OutboundError::Uri),
            Some("") => scheme.default_port(),
            // A number may have a sign for the standard library.
            Some(port) if port.starts_with('+') => return Err(OutboundError::Uri),
            Some(port) => match port.parse() {
                Ok(port) if port != 0 => port,
                _ => return Err(OutboundError::Uri),
            },
        };
        Ok(Self { scheme, host, port })
    }

    /// The host as it may stand in a log.
    pub(super) fn shown(&self) -> &'a str {
        &self.host[..self.host.floor_char_boundary(MAX_SHOWN)]
    }

    /// The one reading of it, if it has one.
    pub(super) fn target(&self) -> Option<Target> {
        Some(Target {
            scheme: self.scheme,
            host: Host::in_url(self.host).ok()?,
            port: self.port,
        })
    }
}

impl Target {
    /// The `Host` field: made here, so that what is asked for is what was
    /// checked.
    pub(super) fn host_field(&self) -> String {
        let host = match &self.host {
            Host::Address(std::net::IpAddr::V6(address)) => format!("[{address}]"),
            host => host.to_string(),
        };
        if self.port == self.scheme.default_port() {
            host
        } else {
            format!("{host}:{}", self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(uri: &str) -> Option<String> {
        let uri: Uri = uri.parse().ok()?;
        let written = Written::of(&uri).ok()?;
        let target = written.target()?;
        Some(format!(
            "{} {}",
            target.scheme.as_str(),
            target.host_field()
        ))
    }

    #[test]
    fn a_uri_has_one_target_or_none() {
        for (uri, target) in [
            ("http://a.example/x", "http a.example"),
            ("http://A.example.:80", "http a.example"),
            ("https://a.example:80/", "https a.example:80"),
            ("https://a.example:443/", "https a.example"),
            ("http://a.example:/", "http a.example"),
            ("http://[::1]:8080/", "http [::1]:8080"),
            ("http://[::ffff:127.0.0.1]/", "http 127.0.0.1"),
        ] {
            assert_eq!(read(uri).as_deref(), Some(target), "{uri}");
        }
        for uri in [
            "ftp://a.example/",
            "/path",
            "http://good@evil.example/",
            "http://good:80@evil.example/",
            "http://a.example:0/",
            "http://a.example:65536/",
            "http://a.example:+80/",
            "http://127.1/",
            "http://0x7f000001/",
            "http://127.0.0.1./",
            "http://[fe80::1%25eth0]/",
            "http://[127.0.0.1]/",
        ] {
            assert_eq!(read(uri), None, "{uri}");
        }
    }
}
