//! The host of an HTTP/1 request.

use httparse::{EMPTY_HEADER, Error, Request, Status};

use super::Heard;

pub(super) fn hear(bytes: &[u8], max_headers: usize) -> Heard {
    let mut headers = vec![EMPTY_HEADER; max_headers];
    let mut request = Request::new(&mut headers);
    let parsed = request.parse(bytes);
    // A target with a host in it goes before the field (RFC 9112, section
    // 3.2.2); workers refuse requests in which they differ.
    if let Some(host) = request.path.and_then(authority) {
        return Heard::Host(Some(host.to_owned()));
    }
    let version = request.version;
    // Fields are noted when their line is whole, also if the head is not.
    let host = headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case("host"));
    if let Some(host) = host {
        return match std::str::from_utf8(host.value.trim_ascii()) {
            Ok(host) => Heard::Host(Some(host.to_owned())),
            Err(_) => Heard::Bad,
        };
    }
    match parsed {
        Ok(Status::Partial) => Heard::NeedMore,
        Ok(Status::Complete(_)) if version == Some(0) => Heard::Host(None),
        Err(Error::TooManyHeaders) => Heard::TooLarge,
        Ok(Status::Complete(_)) | Err(_) => Heard::Bad,
    }
}

/// The host and port of a target that is a whole URL.
fn authority(target: &str) -> Option<&str> {
    let (_, rest) = target.split_once("://")?;
    if target.starts_with('/') {
        return None;
    }
    rest.split(['/', '?', '#']).next()
}
