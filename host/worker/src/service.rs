//! From a request to a response: the one place that knows all steps of DESIGN
//! §8 between the head and the guest.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use http::uri::{PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Request, Response, Uri, Version, header};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use skep_core::Outcome;
use skep_engine::RequestBody;

use crate::account::Account;
use crate::app::App;
use crate::budget::Origin;
use crate::desk::Desk;
use crate::home::Home;
use crate::inbound::{Inbound, Interrupt};
use crate::reply::{REQUEST_ID, ReplyBody, refusal};
use crate::socket::Pulse;
use crate::target::host_of;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The longest request id that a client may give.
const MAX_REQUEST_ID: usize = 128;

/// What the requests of one connection share.
pub(crate) struct Service {
    pub(crate) desk: Arc<Desk>,
    pub(crate) pulse: Arc<Pulse>,
    /// The client's address as a header value, where it has one.
    pub(crate) client: Option<HeaderValue>,
    /// The client as rates know it.
    pub(crate) origin: Origin,
    /// Which hosts are at home here, where connections are handed out by host.
    pub(crate) home: Option<Arc<Home>>,
    /// Longest pause within a request body.
    pub(crate) body_timeout: Duration,
}

impl Service {
    /// Answers one request. Never fails: what goes wrong is a response, or a
    /// body that is cut.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let mut account = Account::open(&self.desk, &self.pulse);
        let (mut head, body) = request.into_parts();
        let http1 = head.version <= Version::HTTP_11;
        let request_id = request_id(&head.headers);
        let id: Arc<str> = request_id.to_str().unwrap_or_default().into();

        let view = Request::from_parts(head, ());
        let host = host_of(&view);
        head = view.into_parts().0;
        let Ok(host) = host else {
            account.close(Outcome::BadRequest);
            return refusal(Outcome::BadRequest, &id, http1);
        };
        let host = host.as_ref().map(http::uri::Authority::as_str);
        if let Some(home) = &self.home
            && !home.owns(host.unwrap_or_default().as_bytes())
        {
            account.close(Outcome::Misdirected);
            return refusal(Outcome::Misdirected, &id, http1);
        }
        let found = match self.desk.route(host, head.uri.path()) {
            Ok(found) => found,
            Err(outcome) => {
                account.close(outcome);
                return refusal(outcome, &id, http1);
            }
        };
        let (app, budget) = (found.app, found.budget);
        account.routed(&app, &id);
        let rate = app.limits.rate.as_ref();
        let sheet = &self.desk.column().sheet;
        if let Err(refused) = budget.pass(sheet, rate, self.origin, &head.headers) {
            account.close(refused.outcome);
            return refusal(refused, &id, http1);
        }
        if body.size_hint().lower() > app.limits.max_body {
            account.close(Outcome::BodyTooLarge);
            return refusal(Outcome::BodyTooLarge, &id, http1);
        }

        self.forward(&mut head.headers, host, &request_id);
        if app.strip_prefix {
            head.uri = stripped(head.uri, found.prefix);
        }

        match app.admit(&budget, self.desk.column(), self.origin).await {
            Ok(admitted) => account.admitted(admitted),
            Err(outcome) => {
                account.close(outcome);
                return refusal(outcome, &id, http1);
            }
        }
        match self.call(account, &app, head, body, &id).await {
            Ok(mut response) => {
                response.headers_mut().insert(REQUEST_ID, request_id);
                response
            }
            Err(outcome) => refusal(outcome, &id, http1),
        }
    }

    async fn call(
        &self,
        mut account: Account,
        app: &App,
        head: http::request::Parts,
        body: Incoming,
        id: &Arc<str>,
    ) -> Result<Response<ReplyBody>, Outcome> {
        account.guest_begins();
        let scheme = Scheme::HTTP;
        if body.is_end_stream() {
            let body: RequestBody = Empty::new().map_err(|never| match never {}).boxed_unsync();
            let request = Request::from_parts(head, body);
            let response = app
                .handler
                .call(request, scheme, Arc::clone(id), account)
                .await?;
            return Ok(response.map(ReplyBody::Guest));
        }
        let interrupt = Arc::new(Interrupt::default());
        account.overridden_by(&interrupt.outcome);
        let body = Inbound::new(body, app.limits.max_body, self.body_timeout, &interrupt);
        let request = Request::from_parts(head, body.boxed_unsync());
        let call = app.handler.call(request, scheme, Arc::clone(id), account);
        tokio::select! {
            biased;
            // The guest is cancelled: its request was never whole.
            () = interrupt.notify.notified() => {
                Err(interrupt.outcome.get().unwrap_or(Outcome::BadRequest))
            }
            response = call => match interrupt.outcome.get() {
                // The request broke in the very turn in which the guest
                // answered: what it made of the half of it is nobody's concern.
                Some(outcome) => Err(outcome),
                None => Ok(response?.map(ReplyBody::Guest)),
            },
        }
    }

    /// Tells the guest about the connection, and nothing that the client made
    /// up about it.
    fn forward(&self, headers: &mut http::HeaderMap, host: Option<&str>, request_id: &HeaderValue) {
        headers.insert(REQUEST_ID, request_id.clone());
        match &self.client {
            Some(client) => headers.insert(FORWARDED_FOR, client.clone()),
            None => headers.remove(FORWARDED_FOR),
        };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
        match headers.get(header::HOST).cloned() {
            Some(host) => {
                headers.insert(FORWARDED_HOST, host);
            }
            None => {
                // HTTP/2 has the host elsewhere and HTTP/1.0 may have none;
                // a guest always finds one.
                let host = host.unwrap_or("localhost");
                if let Ok(host) = HeaderValue::from_str(host) {
                    headers.insert(FORWARDED_HOST, host.clone());
                    headers.insert(header::HOST, host);
                }
            }
        }
    }
}

/// The client's own request id if it is one, or a new one.
fn request_id(headers: &http::HeaderMap) -> HeaderValue {
    if let Some(given) = headers.get(REQUEST_ID) {
        let text = given.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        if !text.is_empty() && text.len() <= MAX_REQUEST_ID && text.iter().all(plain) {
            return given.clone();
        }
    }
    new_request_id()
}

/// 16 hexadecimal digits, unique over workers with the odds of 64 bits, and of
/// no use to anybody who wants to guess.
pub(crate) fn new_request_id() -> HeaderValue {
    use std::hash::{BuildHasher as _, RandomState};
    use std::sync::OnceLock;
    static SEED: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let seed = *SEED.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    // SplitMix64: a counter that does not look like one.
    let mut z = seed.wrapping_add(
        NEXT.fetch_add(1, Relaxed)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15),
    );
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    let mut text = [0; 16];
    for (at, digit) in text.iter_mut().enumerate() {
        let nibble = usize::try_from((z >> (4 * at)) & 0xf).expect("four bits");
        *digit = b"0123456789abcdef"[nibble];
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are a header value")
}

/// The same target without the first `prefix` bytes of its path.
fn stripped(uri: Uri, prefix: usize) -> Uri {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let rest = whole.get(prefix..).unwrap_or("/");
    let rest = if rest.starts_with('/') {
        rest.to_owned()
    } else {
        format!("/{rest}")
    };
    let mut parts = uri.into_parts();
    parts.path_and_query = rest.parse().ok();
    Uri::from_parts(parts).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_kept_only_if_plain() {
        let mut headers = http::HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("abc-1.2_3"));
        assert_eq!(request_id(&headers), "abc-1.2_3");
        headers.insert(REQUEST_ID, HeaderValue::from_static("a b\"c"));
        let made = request_id(&headers);
        assert_eq!(made.len(), 16);
        assert_ne!(made, request_id(&headers));
    }

    #[test]
    fn prefixes_are_cut_off_and_a_path_remains() {
        let cut = |uri: &'static str, prefix| stripped(Uri::from_static(uri), prefix).to_string();
        assert_eq!(cut("/api/users?x=1", 5), "/users?x=1");
        assert_eq!(cut("/api/users", 4), "/users");
        assert_eq!(cut("/api", 4), "/");
        assert_eq!(cut("/api?x", 4), "/?x");
    }
}
