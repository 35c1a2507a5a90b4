//! From a request to a response: the one place that knows all steps of DESIGN
//! §8 between the head and the guest.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, Version, header};
use http_body_util::{BodyExt as _, Empty};
use skep_core::Outcome;
use skep_engine::{CallSetup, RequestBody};
use skep_http1::host_of;

use crate::account::Account;
use crate::app::App;
use crate::budget::Origin;
use crate::connection::Carrier;
use crate::desk::Desk;
use crate::home::Home;
use crate::ids::request_id;
use crate::inbound::{Bounds, Inbound, list_size};
use crate::lifeline::Lifeline;
use crate::reply::{GuestReply, REQUEST_ID, Reply, ReplyBody, refusal};

pub(crate) use crate::inbound::ClientBody;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// How long a request waits for the first part of its body before it checks
/// whether another one wants the permit. Clients that send a body need one round
/// trip.
const FIRST_PART: Duration = Duration::from_millis(250);

/// What the requests of one connection share.
pub(crate) struct Service {
    desk: Arc<Desk>,
    scheme: Scheme,
    /// The client's address as a field's value, where it has one.
    client: Option<HeaderValue>,
    /// The client as rates know it.
    origin: Origin,
    /// Which hosts are at home here, where connections are handed out by host.
    home: Option<Arc<Home>>,
    max_head: usize,
    max_fields: usize,
    /// Longest pause within a request body.
    body_timeout: Duration,
    /// Longest time for which a client may leave what it is sent.
    write_timeout: Duration,
}

impl Service {
    pub(crate) fn new(carrier: &Carrier, scheme: Scheme) -> Self {
        Self {
            desk: Arc::clone(&carrier.desk),
            scheme,
            client: carrier.client.clone(),
            origin: carrier.origin,
            home: carrier.home(),
            max_head: carrier.limits.max_head,
            max_fields: carrier.limits.max_headers,
            body_timeout: carrier.limits.body_timeout,
            write_timeout: carrier.limits.write_timeout,
        }
    }

    /// Answers one request. Never fails: what goes wrong is a response, or a
    /// body that is cut.
    pub(crate) async fn answer(
        self: Arc<Self>,
        head: Parts,
        body: ClientBody,
        lifeline: Arc<Lifeline>,
    ) -> Reply {
        let account = Account::open(&self.desk, &lifeline);
        let id = request_id(&head.headers);
        match self.admit(account, head, body, &id, &lifeline).await {
            Ok(mut reply) => {
                reply.response.headers_mut().insert(REQUEST_ID, id);
                reply
            }
            Err(refused) => refusal(refused, &id),
        }
    }

    async fn admit(
        &self,
        mut account: Account,
        mut head: Parts,
        body: ClientBody,
        request_id: &HeaderValue,
        lifeline: &Arc<Lifeline>,
    ) -> Result<Reply, skep_core::Refusal> {
        let refuse = |account: Account, refused: skep_core::Refusal| {
            account.close(refused.outcome);
            Err(refused)
        };
        if head.version == Version::HTTP_2
            && let Err(outcome) = self.make_sane(&mut head.headers)
        {
            return refuse(account, outcome.into());
        }
        let Ok(host) = host_of(&head, &self.scheme) else {
            return refuse(account, Outcome::BadRequest.into());
        };
        let host = host.as_ref().map(http::uri::Authority::as_str);
        if let Some(home) = &self.home
            && head.version == Version::HTTP_2
            && !home.owns(host.unwrap_or_default().as_bytes())
        {
            return refuse(account, Outcome::Misdirected.into());
        }
        let found = match self.desk.route(host, head.uri.path()) {
            Ok(found) => found,
            Err(unserved) => {
                if let Some(row) = unserved.row {
                    account.counted_in(row);
                }
                return refuse(account, unserved.outcome.into());
            }
        };
        let (app, budget) = (found.app, found.budget);
        let id: Arc<str> = request_id.to_str().unwrap_or_default().into();
        account.counted_in(budget.row());
        account.routed(&app, &id, &head);
        let expects = head.headers.contains_key(header::EXPECT);
        // Before anything is counted by a field: the guest reads what is there
        // afterwards.
        self.forward(&mut head.headers, host, request_id);
        let rate = app.limits.rate.as_ref();
        let sheet = &self.desk.column().sheet;
        if let Err(refused) = budget.pass(sheet, rate, self.origin, &head.headers) {
            return refuse(account, refused);
        }
        if body.least() > app.limits.max_body {
            return refuse(account, Outcome::BodyTooLarge.into());
        }
        if app.strip_prefix {
            head.uri = stripped(head.uri, found.prefix);
        }
        let mut body = (!body.is_empty()).then(|| {
            let bounds = Bounds {
                most: app.limits.max_body,
                pause: self.body_timeout,
                trailers: self.max_head,
            };
            Inbound::new(body, bounds, lifeline)
        });
        if let Some(body) = &mut body
            && !expects
            && let Err(outcome) = self.gather(&app, body).await
        {
            return refuse(account, outcome.into());
        }
        match app.admit(&budget, self.desk.column(), self.origin).await {
            Ok(admitted) => account.admitted(admitted),
            Err(outcome) => return refuse(account, outcome.into()),
        }
        let body = body.map(|body| body.watched(app.upload()));
        self.call(account, app, head, body, (id, lifeline))
            .await
            .map_err(Into::into)
    }

    /// Waits for the first part of a body, before which a guest could do nothing
    /// but hold an instance. Some clients send nothing before they are answered:
    /// they are not kept waiting where nobody else wants the permit.
    async fn gather(&self, app: &App, body: &mut Inbound) -> Result<(), Outcome> {
        while !body.has_begun() {
            let begins = tokio::time::timeout(FIRST_PART, body.begin());
            let begun = app.gather(self.origin, begins).await?;
            if begun.is_ok() || !app.admission.is_pressed() {
                break;
            }
        }
        Ok(())
    }

    async fn call(
        &self,
        mut account: Account,
        app: Arc<App>,
        head: Parts,
        body: Option<Inbound>,
        (request_id, lifeline): (Arc<str>, &Arc<Lifeline>),
    ) -> Result<Reply, Outcome> {
        account.guest_begins();
        let setup = CallSetup {
            scheme: self.scheme.clone(),
            request_id,
            patience: self.write_timeout,
        };
        let called = match body {
            None => {
                let body: RequestBody = Empty::new().map_err(|never| match never {}).boxed_unsync();
                let request = Request::from_parts(head, body);
                app.handler.call(request, setup, account).await
            }
            Some(body) => {
                let request = Request::from_parts(head, body.boxed_unsync());
                let call = app.handler.call(request, setup, account);
                tokio::select! {
                    biased;
                    // The guest is cancelled: its request was never whole.
                    () = lifeline.ended() => {
                        Err(lifeline.outcome().unwrap_or(Outcome::BadRequest))
                    }
                    called = call => match lifeline.outcome() {
                        // The request broke off in the same turn in which the
                        // guest answered: an answer to half a request is not sent.
                        Some(outcome) => Err(outcome),
                        None => called,
                    },
                }
            }
        };
        let response = called?;
        lifeline.begin();
        Ok(Reply {
            response: response.map(|body| {
                let lifeline = Arc::clone(lifeline);
                ReplyBody::Guest(GuestReply {
                    body,
                    app,
                    lifeline,
                })
            }),
            close: false,
        })
    }

    /// What h2 leaves open of a head (RFC 9113 §8.2).
    fn make_sane(&self, headers: &mut HeaderMap) -> Result<(), Outcome> {
        if headers.len() > self.max_fields || list_size(headers) > self.max_head {
            return Err(Outcome::HeadTooLarge);
        }
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
        let padded = |value: &HeaderValue| {
            let value = value.as_bytes();
            value.first().is_some_and(is_space) || value.last().is_some_and(is_space)
        };
        if headers.values().any(padded) {
            return Err(Outcome::BadRequest);
        }
        // Clients split cookies to compress them better (RFC 9113 §8.2.3).
        let mut cookies = headers.get_all(header::COOKIE).iter();
        if let (Some(first), Some(second)) = (cookies.next(), cookies.next()) {
            let mut joined = Vec::from(first.as_bytes());
            for cookie in std::iter::once(second).chain(cookies) {
                joined.extend_from_slice(b"; ");
                joined.extend_from_slice(cookie.as_bytes());
            }
            let joined = HeaderValue::from_bytes(&joined).map_err(|_| Outcome::BadRequest)?;
            headers.insert(header::COOKIE, joined);
        }
        Ok(())
    }

    /// Tells the guest about the connection, and nothing that the client made
    /// up about it.
    fn forward(&self, headers: &mut HeaderMap, host: Option<&str>, request_id: &HeaderValue) {
        headers.insert(REQUEST_ID, request_id.clone());
        match &self.client {
            Some(client) => headers.insert(FORWARDED_FOR, client.clone()),
            None => headers.remove(FORWARDED_FOR),
        };
        let proto = if self.scheme == Scheme::HTTPS {
            "https"
        } else {
            "http"
        };
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(proto));
        // Only the reader of the body handles it, which is this worker.
        headers.remove(header::EXPECT);
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
    fn prefixes_are_cut_off_and_a_path_remains() {
        let cut = |uri: &'static str, prefix| stripped(Uri::from_static(uri), prefix).to_string();
        assert_eq!(cut("/api/users?x=1", 5), "/users?x=1");
        assert_eq!(cut("/api/users", 4), "/users");
        assert_eq!(cut("/api", 4), "/");
        assert_eq!(cut("/api?x", 4), "/?x");
    }
}
