//! What a request asks for: its host and its path, understood one way. For
//! HTTP/2, too, whose heads come parsed.

use std::net::Ipv6Addr;

use http::request::Parts;
use http::uri::{Authority, Scheme};
use http::{Method, Version, header};

/// A request whose target we do not serve, whatever the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadTarget {
    /// RFC 9112 §3.2.
    #[error("more than one Host")]
    RepeatedHost,
    /// RFC 9110 §7.2: `uri-host [ ":" port ]`, and no user.
    #[error("a Host that is no host")]
    MalformedHost,
    /// RFC 9112 §3.2.2, RFC 9113 §8.3.1.
    #[error("a Host that is not that of the target")]
    OtherHost,
    /// RFC 9112 §3.2.
    #[error("no Host")]
    NoHost,
    /// `CONNECT`, and `*` of anything but `OPTIONS`.
    #[error("a target that is not a path")]
    NotAPath,
    /// A target of another scheme than the connection's.
    #[error("a target of another scheme")]
    OtherScheme,
}

/// The host that a request is for: without user, with the port if it was
/// given. Requests of HTTP/1.0 may have none. `scheme` is that of the
/// connection: whoever asks for `https` over cleartext does not know what he is
/// connected to.
///
/// # Errors
///
/// [`BadTarget`].
pub fn host_of(head: &Parts, scheme: &Scheme) -> Result<Option<Authority>, BadTarget> {
    if head.method == Method::CONNECT {
        return Err(BadTarget::NotAPath);
    }
    let path = head.uri.path();
    let of_the_server = path == "*" && head.method == Method::OPTIONS;
    if !path.starts_with('/') && !of_the_server {
        return Err(BadTarget::NotAPath);
    }
    if head.uri.scheme().is_some_and(|asked| asked != scheme) {
        return Err(BadTarget::OtherScheme);
    }
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(BadTarget::RepeatedHost),
        (Some(value), None) => Some(authority_of(value.as_bytes())?),
        (None, None) => None,
    };
    match (head.uri.authority(), named) {
        (Some(target), named) => {
            check(target.as_str())?;
            if named.is_some_and(|named| *target != named) {
                return Err(BadTarget::OtherHost);
            }
            Ok(Some(target.clone()))
        }
        (None, Some(named)) => Ok(Some(named)),
        (None, None) if head.version <= Version::HTTP_10 => Ok(None),
        (None, None) => Err(BadTarget::NoHost),
    }
}

/// The value of a `Host` field.
///
/// # Errors
///
/// [`BadTarget::MalformedHost`].
pub fn authority_of(value: &[u8]) -> Result<Authority, BadTarget> {
    let authority = Authority::try_from(value).map_err(|_| BadTarget::MalformedHost)?;
    check(authority.as_str())?;
    Ok(authority)
}

/// `uri-host [ ":" port ]` of RFC 3986; the parser leaves ports and what
/// follows a bracket open.
fn check(text: &str) -> Result<(), BadTarget> {
    let malformed = Err(BadTarget::MalformedHost);
    let port = if let Some(rest) = text.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else {
            return malformed;
        };
        if address.parse::<Ipv6Addr>().is_err() {
            return malformed;
        }
        match rest.strip_prefix(':') {
            Some(port) => port,
            None if rest.is_empty() => "",
            None => return malformed,
        }
    } else {
        let (host, port) = text.split_once(':').unwrap_or((text, ""));
        if host.is_empty() || host.contains(['@', '[', ']', ',']) {
            return malformed;
        }
        port
    };
    let is_port = port.bytes().all(|byte| byte.is_ascii_digit())
        && (port.is_empty() || port.parse::<u16>().is_ok());
    if is_port { Ok(()) } else { malformed }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn host(uri: &str, hosts: &[&str]) -> Result<Option<String>, BadTarget> {
        let mut builder = Request::builder().uri(uri);
        for host in hosts {
            builder = builder.header("host", *host);
        }
        host_of(&builder.body(()).unwrap().into_parts().0, &Scheme::HTTP)
            .map(|host| host.map(|h| h.to_string()))
    }

    #[test]
    fn every_place_must_name_the_same_host() {
        assert_eq!(host("/", &["a:8080"]), Ok(Some("a:8080".into())));
        assert_eq!(host("http://A/x", &["a"]), Ok(Some("A".into())));
        assert_eq!(host("http://a/x", &[]), Ok(Some("a".into())));
        assert_eq!(host("http://a/x", &["b"]), Err(BadTarget::OtherHost));
        assert_eq!(host("https://a/x", &["a"]), Err(BadTarget::OtherScheme));
        assert_eq!(host("/", &["a", "a"]), Err(BadTarget::RepeatedHost));
        assert_eq!(host("/", &[]), Err(BadTarget::NoHost));
        assert_eq!(
            host("http://user@a/", &["a"]),
            Err(BadTarget::MalformedHost)
        );
        assert_eq!(host("*", &["a"]), Err(BadTarget::NotAPath));
    }

    #[test]
    fn a_host_is_a_name_or_an_address_with_a_port_or_none() {
        for good in [
            "a",
            "a:",
            "a:0",
            "a:65535",
            "[::1]",
            "[::1]:80",
            "192.0.2.1:8080",
            "xn--bcher-kva.example",
            "a_b",
        ] {
            assert!(authority_of(good.as_bytes()).is_ok(), "{good}");
        }
        for bad in [
            "", ":80", "a:x", "a:65536", "a:80:80", "[::1]x", "[::1]:x", "[::1", "::1", "a/b",
            "u@a", "a b", "a,b", "[a]", "a]",
        ] {
            assert!(authority_of(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
