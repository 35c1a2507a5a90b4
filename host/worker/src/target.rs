//! What a request asks for: its host and its path, understood one way.

use http::uri::Authority;
use http::{Method, Request, Version, header};

/// A request whose target we do not serve, whatever the routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadTarget {
    #[error("more than one Host")]
    RepeatedHost,
    #[error("a Host that is no host")]
    MalformedHost,
    #[error("a Host that is not that of the target")]
    OtherHost,
    #[error("no Host")]
    NoHost,
    #[error("a target that is not a path")]
    NotAPath,
}

/// The host that a request is for: without user, with the port if it was
/// given. Requests of HTTP/1.0 may have none.
///
/// hyper checks the syntax of targets and header fields; what it leaves open
/// is whether the places that may name the host agree (RFC 9112 §3.2.2, RFC
/// 9113 §8.3.1).
pub(crate) fn host_of<B>(request: &Request<B>) -> Result<Option<Authority>, BadTarget> {
    if *request.method() == Method::CONNECT {
        return Err(BadTarget::NotAPath);
    }
    let path = request.uri().path();
    let of_the_server = path == "*" && *request.method() == Method::OPTIONS;
    if !path.starts_with('/') && !of_the_server {
        return Err(BadTarget::NotAPath);
    }
    let mut hosts = request.headers().get_all(header::HOST).iter();
    let named = match (hosts.next(), hosts.next()) {
        (_, Some(_)) => return Err(BadTarget::RepeatedHost),
        (Some(value), None) => {
            let authority =
                Authority::try_from(value.as_bytes()).map_err(|_| BadTarget::MalformedHost)?;
            if value.as_bytes().contains(&b'@') {
                return Err(BadTarget::MalformedHost);
            }
            Some(authority)
        }
        (None, None) => None,
    };
    match (request.uri().authority(), named) {
        (Some(target), _) if target.as_str().contains('@') => Err(BadTarget::MalformedHost),
        (Some(target), Some(named)) if *target != named => Err(BadTarget::OtherHost),
        (Some(target), _) => Ok(Some(target.clone())),
        (None, Some(named)) => Ok(Some(named)),
        (None, None) if request.version() <= Version::HTTP_10 => Ok(None),
        (None, None) => Err(BadTarget::NoHost),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(uri: &str, hosts: &[&str]) -> Result<Option<String>, BadTarget> {
        let mut builder = Request::builder().uri(uri);
        for host in hosts {
            builder = builder.header("host", *host);
        }
        host_of(&builder.body(()).unwrap()).map(|host| host.map(|h| h.to_string()))
    }

    #[test]
    fn every_place_must_name_the_same_host() {
        assert_eq!(host("/", &["a:8080"]), Ok(Some("a:8080".into())));
        assert_eq!(host("http://A/x", &["a"]), Ok(Some("A".into())));
        assert_eq!(host("http://a/x", &[]), Ok(Some("a".into())));
        assert_eq!(host("http://a/x", &["b"]), Err(BadTarget::OtherHost));
        assert_eq!(host("/", &["a", "a"]), Err(BadTarget::RepeatedHost));
        assert_eq!(host("/", &[]), Err(BadTarget::NoHost));
        assert_eq!(host("/", &["a/b"]), Err(BadTarget::MalformedHost));
        assert_eq!(host("/", &["user@a"]), Err(BadTarget::MalformedHost));
        assert_eq!(
            host("http://user@a/", &["a"]),
            Err(BadTarget::MalformedHost)
        );
        assert_eq!(host("*", &["a"]), Err(BadTarget::NotAPath));
    }
}
