//! Listening addresses: `"0.0.0.0:8080"`, `"[::]:8080"`, `"unix:PATH"`.

use std::net::{Ipv6Addr, SocketAddr};
use std::path::Path;

use skep_core::ListenAddress;

use crate::document::{Entry, Spanned, quotable};
use crate::report::Reported;

const EXAMPLE: &str = "\"127.0.0.1:8080\"";

/// The longest path of a Unix socket, in bytes: `sun_path` without its NUL.
const MAX_UNIX_PATH: usize = 107;

/// A text that is not an address to listen on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidAddress {
    /// The address is `fd:NAME`.
    #[error("inherited sockets (`fd:`) are not available in this version of skep")]
    Inherited,
    /// `unix:` without a path, or with a NUL in it.
    #[error("`unix:` must be followed by a path")]
    UnixPath,
    /// The path of a Unix socket is longer than the system allows.
    #[error("the path of a unix socket may have at most {MAX_UNIX_PATH} bytes, not {0}")]
    UnixPathTooLong(usize),
    /// The address is a URL.
    #[error("an address has no scheme")]
    Scheme {
        /// What is left without it.
        rest: String,
    },
    /// A port without an address.
    #[error("an address needs a host and a port")]
    HostMissing {
        /// The port.
        port: u16,
    },
    /// An IP address without a port.
    #[error("an address needs a port")]
    PortMissing {
        /// The host as it must stand before a port.
        host: String,
    },
    /// The port is no number, or above 65535.
    #[error("`{0}` is not a port: ports are numbers from 0 to 65535")]
    Port(String),
    /// The host is a name.
    #[error("`{host}` is not an IP address; host names are not looked up")]
    HostName {
        /// The host.
        host: String,
        /// The port.
        port: u16,
    },
    /// Anything else.
    #[error("`{0}` is not an address")]
    Malformed(String),
}

impl InvalidAddress {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Inherited => "listen on an address, as \"127.0.0.1:8080\"".to_owned(),
            Self::UnixPath => "as in \"unix:skep.sock\"".to_owned(),
            Self::UnixPathTooLong(_) => {
                "choose a shorter path, as \"unix:/run/skep.sock\"".to_owned()
            }
            Self::Scheme { rest } => format!("write \"{rest}\""),
            Self::HostMissing { port } => format!(
                "write \"127.0.0.1:{port}\" for this machine only, or \"0.0.0.0:{port}\" for all"
            ),
            Self::PortMissing { host } => format!("write \"{host}:8080\""),
            Self::Port(_) => return None,
            Self::HostName { host, port } if host == "localhost" => {
                format!("write \"127.0.0.1:{port}\"")
            }
            Self::HostName { port, .. } => {
                format!("write its IP address, or \"0.0.0.0:{port}\" for all")
            }
            Self::Malformed(_) => {
                "write \"127.0.0.1:8080\", \"[::1]:8080\" or \"unix:PATH\"".to_owned()
            }
        })
    }
}

/// Reads an address as it stands in a file or after `--listen`; the path of a
/// Unix socket is taken relative to `dir`.
///
/// # Errors
///
/// What is wrong with it.
pub fn parse_address(text: &str, dir: &Path) -> Result<ListenAddress, InvalidAddress> {
    if text.starts_with("fd:") {
        return Err(InvalidAddress::Inherited);
    }
    if let Some(path) = text.strip_prefix("unix:") {
        if path.is_empty() || path.contains('\0') {
            return Err(InvalidAddress::UnixPath);
        }
        let path = dir.join(path);
        let length = path.as_os_str().len();
        if length > MAX_UNIX_PATH {
            return Err(InvalidAddress::UnixPathTooLong(length));
        }
        return Ok(ListenAddress::Unix(path));
    }
    text.parse::<SocketAddr>()
        .map(ListenAddress::Tcp)
        .map_err(|_| diagnose(text))
}

fn diagnose(text: &str) -> InvalidAddress {
    if let Some((_, rest)) = text.split_once("://") {
        return InvalidAddress::Scheme {
            rest: quotable(rest.trim_end_matches('/')),
        };
    }
    if let Ok(host) = text.trim_matches(['[', ']']).parse::<Ipv6Addr>() {
        return InvalidAddress::PortMissing {
            host: format!("[{host}]"),
        };
    }
    if let Ok(port) = text.trim_start_matches(['*', ':']).parse() {
        return InvalidAddress::HostMissing { port };
    }
    let Some((host, port)) = text.rsplit_once(':') else {
        return if text.parse::<std::net::Ipv4Addr>().is_ok() {
            InvalidAddress::PortMissing {
                host: text.to_owned(),
            }
        } else {
            InvalidAddress::Malformed(quotable(text))
        };
    };
    let is_name = |host: &str| {
        host.starts_with(|c: char| c.is_ascii_alphabetic())
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
    };
    match port.parse::<u16>() {
        Err(_) if is_name(host) || host.parse::<std::net::IpAddr>().is_ok() => {
            InvalidAddress::Port(quotable(port))
        }
        Ok(port) if is_name(host) => InvalidAddress::HostName {
            host: quotable(host),
            port,
        },
        _ => InvalidAddress::Malformed(quotable(text)),
    }
}

pub(crate) fn read(entry: &Entry<'_>, dir: &Path) -> Result<Spanned<ListenAddress>, Reported> {
    let Some(text) = entry.as_str() else {
        return Err(match entry.as_integer().map(u16::try_from) {
            Some(Ok(port)) => report(entry, &InvalidAddress::HostMissing { port }),
            _ => entry.wrong_type("an address", EXAMPLE),
        });
    };
    let value = parse_address(text, dir).map_err(|error| report(entry, &error))?;
    Ok(Spanned {
        value,
        span: entry.span.clone(),
    })
}

fn report(entry: &Entry<'_>, error: &InvalidAddress) -> Reported {
    let draft = entry.problem(error.to_string());
    match error.hint() {
        Some(hint) => draft.hint(hint).report(),
        None => draft.report(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<ListenAddress, InvalidAddress> {
        parse_address(text, Path::new("/etc/skep"))
    }

    #[test]
    fn addresses_are_tcp_or_unix() {
        for text in ["0.0.0.0:8080", "[::]:8080", "[::1]:0", "127.0.0.1:80"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        assert_eq!(
            parse("unix:run/s.sock").unwrap(),
            ListenAddress::Unix("/etc/skep/run/s.sock".into())
        );
        assert_eq!(
            parse("unix:/run/s").unwrap(),
            ListenAddress::Unix("/run/s".into())
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let port_missing = |host: &str| InvalidAddress::PortMissing {
            host: host.to_owned(),
        };
        for (text, error) in [
            ("fd:web", InvalidAddress::Inherited),
            ("unix:", InvalidAddress::UnixPath),
            (":8080", InvalidAddress::HostMissing { port: 8080 }),
            ("*:8080", InvalidAddress::HostMissing { port: 8080 }),
            ("8080", InvalidAddress::HostMissing { port: 8080 }),
            ("127.0.0.1", port_missing("127.0.0.1")),
            ("::1", port_missing("[::1]")),
            ("[::1]", port_missing("[::1]")),
            ("127.0.0.1:80800", InvalidAddress::Port("80800".to_owned())),
            ("localhost:http", InvalidAddress::Port("http".to_owned())),
            ("", InvalidAddress::Malformed(String::new())),
            (
                "256.0.0.1:1",
                InvalidAddress::Malformed("256.0.0.1:1".to_owned()),
            ),
        ] {
            assert_eq!(parse(text), Err(error), "{text}");
        }
        let url = parse("http://127.0.0.1:80/").unwrap_err();
        assert_eq!(url.hint().unwrap(), "write \"127.0.0.1:80\"");
        let name = parse("localhost:80").unwrap_err();
        assert_eq!(name.hint().unwrap(), "write \"127.0.0.1:80\"");
        assert!(matches!(
            parse(&format!("unix:/{}", "a".repeat(107))),
            Err(InvalidAddress::UnixPathTooLong(108))
        ));
    }
}
