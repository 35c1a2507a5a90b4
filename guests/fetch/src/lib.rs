//! Fetches `?url=U`, percent-encoded or not, and streams the answer with its
//! status. What cannot be fetched is `502` and the name of the error.
//!
//! | more in the query | |
//! |---|---|
//! | `&connect=N`, `&first=N`, `&between=N` | waits so many milliseconds at most |
//! | `&hold=N` | reads the answer's body only after N milliseconds |
//! | `&follow=N` | follows up to N redirects, each to what its `location` says |

use wasip2::clocks::monotonic_clock;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingBody, IncomingRequest, IncomingResponse, Method, OutgoingBody,
    OutgoingRequest, OutgoingResponse, RequestOptions, ResponseOutparam, Scheme,
};
use wasip2::io::streams::StreamError;

/// How much of a body is moved at a time.
const CHUNK: u64 = 64 * 1024;

const MILLISECOND: u64 = 1_000_000;

struct Fetch;

impl wasip2::exports::http::incoming_handler::Guest for Fetch {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let target = request.path_with_query().unwrap_or_default();
        drop(request);
        let query = Query(target.split_once('?').map_or("", |(_, query)| query));
        let mut url = query.text("url").unwrap_or_default();
        let mut redirects = query.number("follow").unwrap_or(0);
        loop {
            match fetch(&url, &query) {
                Err(why) => return answer(out, 502, &format!("{why}\n")),
                Ok(response) => match location(&response) {
                    Some(next) if redirects > 0 => {
                        redirects -= 1;
                        url = next;
                    }
                    _ => return pass(&response, &query, out),
                },
            }
        }
    }
}

wasip2::http::proxy::export!(Fetch);

struct Query<'a>(&'a str);

impl Query<'_> {
    fn text(&self, name: &str) -> Option<String> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        let (_, value) = pairs.into_iter().find(|(is, _)| *is == name)?;
        Some(decoded(value))
    }

    fn number(&self, name: &str) -> Option<u64> {
        self.text(name)?.parse().ok()
    }
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let byte = hex.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (first, byte) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn fetch(url: &str, query: &Query<'_>) -> Result<IncomingResponse, String> {
    let (scheme, rest) = url.split_once("://").ok_or("no url")?;
    let scheme = match scheme {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        other => Scheme::Other(other.to_owned()),
    };
    let (authority, path) = match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    };
    let request = OutgoingRequest::new(Fields::new());
    let odd = |()| format!("odd url {url}");
    request.set_method(&Method::Get).map_err(odd)?;
    request.set_scheme(Some(&scheme)).map_err(odd)?;
    request.set_authority(Some(authority)).map_err(odd)?;
    request.set_path_with_query(Some(path)).map_err(odd)?;
    let options = RequestOptions::new();
    let time = |name| query.number(name).map(|ms| ms * MILLISECOND);
    let set = [
        options.set_connect_timeout(time("connect")),
        options.set_first_byte_timeout(time("first")),
        options.set_between_bytes_timeout(time("between")),
    ];
    if set.contains(&Err(())) {
        return Err("no such timeout".to_owned());
    }
    let pending = outgoing_handler::handle(request, Some(options)).map_err(named)?;
    pending.subscribe().block();
    pending
        .get()
        .expect("it was waited for")
        .expect("it is taken once")
        .map_err(named)
}

#[expect(clippy::needless_pass_by_value, reason = "as `map_err` gives it")]
fn named(error: ErrorCode) -> String {
    format!("{error:?}")
}

fn location(response: &IncomingResponse) -> Option<String> {
    let values = response.headers().get("location");
    let value = values.first()?;
    (300..400)
        .contains(&response.status())
        .then(|| String::from_utf8_lossy(value).into_owned())
}

fn pass(response: &IncomingResponse, query: &Query<'_>, out: ResponseOutparam) {
    let answer = OutgoingResponse::new(Fields::new());
    answer
        .set_status_code(response.status())
        .expect("it was a status before");
    let to = answer.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(answer));
    if let Some(ms) = query.number("hold") {
        monotonic_clock::subscribe_duration(ms * MILLISECOND).block();
    }
    let from = response.consume().expect("the body is taken once");
    let source = from.stream().expect("the stream is taken once");
    let sink = to.write().expect("the stream is taken once");
    loop {
        match sink.blocking_splice(&source, CHUNK) {
            Ok(_) => {}
            Err(StreamError::Closed) => break,
            // What is incomplete must not look whole.
            Err(StreamError::LastOperationFailed(why)) => panic!("{}", why.to_debug_string()),
        }
    }
    let _ = sink.blocking_flush();
    drop(sink);
    drop(source);
    drop(IncomingBody::finish(from));
    OutgoingBody::finish(to, None).expect("no length was announced");
}

fn answer(out: ResponseOutparam, status: u16, text: &str) {
    let response = OutgoingResponse::new(Fields::new());
    response
        .set_status_code(status)
        .expect("the status is valid");
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let sink = body.write().expect("the stream is taken once");
    // The client may have gone.
    let _ = sink.blocking_write_and_flush(text.as_bytes());
    drop(sink);
    let _ = OutgoingBody::finish(body, None);
}
