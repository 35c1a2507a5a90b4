//! Heads of messages on their way into and out of guests.

use http::header::{
    CONNECTION, HOST, HeaderMap, HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION,
    TRANSFER_ENCODING, UPGRADE,
};
use http::request;

/// Fields that no guest sees or sets: they are about one connection. wasmtime's
/// list has `host` too, which guests look for; what a guest makes of it goes
/// nowhere: a response loses it, and a request gets one that is its authority.
pub(crate) static FORBIDDEN: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// A request as guests find it: its `host` is there.
pub(crate) fn arriving(head: &mut request::Parts) {
    if !head.headers.contains_key(HOST)
        && let Some(authority) = head.uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.headers.insert(HOST, host);
    }
}

/// Fields that a guest made, for a response or its trailers: without what only
/// requests have, and each value as every version of HTTP allows it.
pub(crate) fn leaving(fields: &mut HeaderMap) {
    fields.remove(HOST);
    trim_values(fields);
}

/// Takes white space from both ends of each value. RFC 9110 §5.5 does not count
/// it to the value, and RFC 9113 §8.2.1 calls a message with it malformed.
pub(crate) fn trim_values(fields: &mut HeaderMap) {
    for value in fields.values_mut() {
        // Of ASCII's white space, values have only spaces and tabs.
        let trimmed = value.as_bytes().trim_ascii();
        if trimmed.len() == value.len() {
            continue;
        }
        let mut trimmed = HeaderValue::from_bytes(trimmed)
            .expect("a part of a value has no byte that the value has not");
        trimmed.set_sensitive(value.is_sensitive());
        *value = trimmed;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_lose_white_space_at_their_ends_and_nowhere_else() {
        let mut fields = HeaderMap::new();
        for value in ["v", " v ", "\tv", "v \t ", " a b ", " ", "", "\u{a0}v"] {
            fields.append("x", HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        trim_values(&mut fields);
        let values: Vec<_> = fields
            .get_all("x")
            .iter()
            .map(HeaderValue::as_bytes)
            .collect();
        let wanted = ["v", "v", "v", "v", "a b", "", "", "\u{a0}v"];
        assert_eq!(values, wanted.map(str::as_bytes));
    }

    #[test]
    fn a_request_has_a_host_and_a_response_has_none() {
        let request = http::Request::get("http://a.test:81/x").body(()).unwrap();
        let (mut head, ()) = request.into_parts();
        arriving(&mut head);
        assert_eq!(head.headers[HOST], "a.test:81");
        leaving(&mut head.headers);
        assert!(head.headers.is_empty());
    }
}
