//! What the host holds for a guest besides its memories: an estimate from
//! above, made whenever the guest meets a tick and before it waits, so that
//! nothing can be gathered for longer than a slice without being counted.
//!
//! An estimate, because wasmtime's resources do not say what they hold. It takes
//! microseconds for the dozen resources of an ordinary handler; the number of
//! resources is bounded, and so is the look at each.
//!
//! | import | what it makes the host hold | its bound |
//! |---|---|---|
//! | any | the arguments of a call that waits | `MAX_HOSTCALL`, one such call at a time; not weighed |
//! | any resource | its entry and its box | [`ENTRY`], `MAX_RESOURCES` of them |
//! | `io` pollables, `clocks` subscriptions | a resource; a timer while it is waited for | as above |
//! | tasks, streams, futures of 0.3, timers of 0.3 | an entry with its task | [`CONCURRENT`], `MAX_HANDLES` of them |
//! | `io` errors | a code or the text of one of the host's own errors | [`ENTRY`] |
//! | `cli` stdin, arguments, environment | nothing, nothing, what the app's `env` says | configuration |
//! | `cli` stdout, stderr of both versions | a line without its end per stream | `MAX_LINE` each, weighed by the stream |
//! | `random` | the bytes of one call, gone with it | `MAX_RANDOM` |
//! | `filesystem`, `sockets` | nothing is preopened, and no socket is made | – |
//! | `config` | what the app's `config` says | configuration |
//! | `logging` | one record, gone with the call | `MAX_RECORD`, `MAX_CONTEXT` |
//! | `http` fields, trailers | what the guest appends | [`MAX_FIELDS`] a set, weighed |
//! | `http` incoming request | what the client sent | `max_head`; copies of its fields are weighed |
//! | `http` outgoing request, response | fields; method, path, authority, scheme | weighed |
//! | `http` outgoing body of 0.2 | two pieces; what is written before its head | [`BODY_CHUNK`] each; `EARLY_BODY`, weighed |
//! | `http` outgoing body of 0.3 | one piece, while it is sent | [`BODY_CHUNK`], weighed for requests; one response a call |
//! | `http` request that was sent | its head and body, until the response comes | weighed by `Hooks::send_request` |
//! | `http` incoming response | its head, and a piece of its body | weighed likewise |
//! | `error-context`, threads, GC | not offered | – |

use std::any::Any;

use http::{Request, Response};
use http_body::Body as _;
use wasmtime::component::ResourceTable;
use wasmtime_wasi_http::p2::bindings::http::types::{Method, Scheme};
use wasmtime_wasi_http::p2::body::{HostFutureTrailers, HostOutgoingBody};
use wasmtime_wasi_http::p2::types::{
    HostIncomingResponse, HostOutgoingRequest, HostOutgoingResponse,
};
use wasmtime_wasi_http::{FieldMap, WasiBody, p3};

use crate::early;
use crate::held::Held;

/// Bytes of one set of header fields that a guest may build, by wasmtime's
/// measure: four times what a client may send.
pub(crate) const MAX_FIELDS: usize = 128 << 10;

/// Bytes that a guest writes to a body at a time. One such piece, and another one
/// on its way, is what the host keeps of it.
pub(crate) const BODY_CHUNK: usize = 64 << 10;

/// Such pieces that a body of WASI 0.2 keeps, besides the one on its way.
pub(crate) const BUFFERED_CHUNKS: usize = 1;

/// Bytes that a body of WASI 0.2 keeps of what is written to it.
const OUTGOING_BODY: usize = (BUFFERED_CHUNKS + 1) * BODY_CHUNK;

/// Bytes of any resource: its entry in the table, its box, its handle.
const ENTRY: usize = 256;

/// Bytes of a task, a stream, a future of WASI 0.3 or an end of one: its entry
/// in the table, and the host's future and timer behind it.
pub(crate) const CONCURRENT: usize = 1024;

/// Header fields that are looked at one by one; the text of a larger set counts
/// as the most that there may be.
const COUNTED_FIELDS: usize = 16;

/// Bytes of a header field's name with its first value, besides their text:
/// `http` keeps room for so many, used or not.
const FIELD: usize = 112;

/// Bytes of each further value of a field, besides its text.
const FURTHER: usize = 72;

/// What the host holds for a guest.
pub(crate) struct Weighed {
    /// Resources.
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
    /// Whether what was written early fits, if there are bodies that nobody
    /// reads yet.
    pub(crate) early: Option<bool>,
}

/// Bytes that the host holds at most for the resources of `table`, with all
/// loads. What was written to outgoing bodies is taken out of their channels.
pub(crate) fn held(table: &mut ResourceTable, loads: &Held) -> Weighed {
    let mut weighed = Weighed {
        entries: 0,
        bytes: 0,
        early: None,
    };
    for entry in table.iter_mut() {
        weighed.entries += 1;
        weighed.bytes += ENTRY + held_by(entry, loads, &mut weighed.early);
    }
    // Last, because early bodies are among them.
    weighed.bytes += loads.bytes();
    weighed
}

fn held_by(entry: &mut dyn Any, loads: &Held, early: &mut Option<bool>) -> usize {
    if let Some(fields) = entry.downcast_ref::<FieldMap>() {
        return of_fields(fields);
    }
    if let Some(response) = entry.downcast_mut::<HostOutgoingResponse>() {
        return of_fields(&response.headers) + outgoing(&mut response.body, loads, early);
    }
    if let Some(request) = entry.downcast_mut::<HostOutgoingRequest>() {
        let method = match &request.method {
            Method::Other(method) => method.len(),
            _ => 0,
        };
        let scheme = match &request.scheme {
            Some(Scheme::Other(scheme)) => scheme.len(),
            _ => 0,
        };
        let authority = request.authority.as_ref().map_or(0, String::len);
        let path = request.path_with_query.as_ref().map_or(0, String::len);
        return of_fields(&request.headers)
            + method
            + scheme
            + authority
            + path
            + outgoing(&mut request.body, loads, early);
    }
    if entry.is::<HostOutgoingBody>() {
        return OUTGOING_BODY;
    }
    if let Some(response) = entry.downcast_ref::<HostIncomingResponse>() {
        return of_fields(&response.headers);
    }
    if let Some(trailers) = entry.downcast_ref::<HostFutureTrailers>() {
        return match trailers {
            HostFutureTrailers::Done(Ok(Some(fields))) => of_fields(fields),
            _ => 0,
        };
    }
    if let Some(request) = entry.downcast_ref::<p3::Request>() {
        let scheme = request.scheme.as_ref().map_or(0, |it| it.as_str().len());
        let authority = request.authority.as_ref().map_or(0, |it| it.as_str().len());
        let path = request.path_with_query.as_ref();
        return of_fields(&request.headers)
            + request.method.as_str().len()
            + scheme
            + authority
            + path.map_or(0, |it| it.as_str().len());
    }
    if let Some(response) = entry.downcast_ref::<p3::Response>() {
        return of_fields(&response.headers);
    }
    0
}

/// A body that nobody reads yet, in its channel and out of it.
fn outgoing(body: &mut Option<WasiBody>, loads: &Held, early: &mut Option<bool>) -> usize {
    if body.is_none() {
        return 0;
    }
    let fits = early::gather(body, loads);
    *early = Some(fits && early.unwrap_or(true));
    OUTGOING_BODY
}

/// Bytes of a request that is sent, until it is answered.
pub(crate) fn of_request(request: &Request<WasiBody>) -> usize {
    let uri = request.uri();
    let text = uri.authority().map_or(0, |it| it.as_str().len())
        + uri.path_and_query().map_or(0, |it| it.as_str().len())
        + request.method().as_str().len();
    let body = if request.body().is_end_stream() {
        0
    } else {
        OUTGOING_BODY
    };
    ENTRY + text + of_fields(request.headers()) + body
}

/// Bytes of a response that a guest has got, until it has read it.
pub(crate) fn of_response(response: &Response<WasiBody>) -> usize {
    ENTRY + of_fields(response.headers()) + BODY_CHUNK
}

fn of_fields(fields: &http::HeaderMap) -> usize {
    let further = fields.len() - fields.keys_len();
    let room = fields.capacity() * FIELD + further.next_power_of_two() * FURTHER;
    if fields.len() > COUNTED_FIELDS {
        return room + MAX_FIELDS;
    }
    let text = fields
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len());
    room + text.sum::<usize>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_weigh_what_is_in_them_and_many_weigh_most() {
        let mut fields = http::HeaderMap::new();
        let empty = of_fields(&fields);
        assert!(empty <= FURTHER);
        fields.insert("a", http::HeaderValue::from_bytes(&[b'x'; 60_000]).unwrap());
        assert!((60_000..62_000).contains(&of_fields(&fields)));
        for _ in 0..COUNTED_FIELDS {
            fields.append("b", http::HeaderValue::from_static("y"));
        }
        assert!((MAX_FIELDS..MAX_FIELDS + 8_000).contains(&of_fields(&fields)));
        // As many fields as wasmtime lets a guest have.
        for name in 0..MAX_FIELDS / 76 {
            let name = http::HeaderName::from_bytes(format!("{name}").as_bytes()).unwrap();
            fields.append(name, http::HeaderValue::from_static("y"));
        }
        assert!(
            (300 << 10..500 << 10).contains(&of_fields(&fields)),
            "{}",
            of_fields(&fields)
        );
    }

    #[test]
    fn a_request_weighs_its_method_path_and_authority() {
        let mut table = ResourceTable::new();
        let long = "x".repeat(100_000);
        let request = HostOutgoingRequest {
            method: Method::Other(long.clone()),
            scheme: Some(Scheme::Other(long.clone())),
            authority: Some(long.clone()),
            path_with_query: Some(long),
            headers: FieldMap::new_mutable(MAX_FIELDS),
            body: None,
        };
        table.push(request).unwrap();
        let loads = Held::default();
        let _load = loads.load(5_000);
        let weighed = held(&mut table, &loads);
        assert!(
            (405_000..406_000).contains(&weighed.bytes),
            "{}",
            weighed.bytes
        );
        assert_eq!(weighed.early, None);
    }
}
