//! The way of one request.

use std::sync::Arc;
use std::time::Duration;

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::Body as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use skep_core::egress::{OpenFailure, Scheme, covers};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::announce::announced;
use super::connection::{Connection, Returning};
use super::pool::{Crowded, Found, Slot, Use};
use super::target::{Target, Written};
use super::{
    AppOutbound, AppShared, Denial, OutboundError, OutboundResult, RequestBody, ResponseBody,
    Timeouts, Wanted,
};

/// The longest that a connection may take, and how long it may where the guest
/// says nothing. Longer than the slowest name server and three lost packets.
const CONNECT: Duration = Duration::from_secs(10);

/// The longest that the head of a response may take. The call's own deadline
/// comes before; this is for guests that outlive theirs.
const FIRST_BYTE: Duration = Duration::from_secs(600);

/// The longest pause within a response's body.
const BETWEEN_BYTES: Duration = Duration::from_secs(600);

/// Counts what becomes of a request, also if it is given up.
struct Count<'a> {
    shared: &'a AppShared,
    result: OutboundResult,
}

impl AppOutbound {
    /// Sends a request; the future ends with the head of the response.
    /// `request_id` is only for the log.
    ///
    /// # Errors
    ///
    /// Why there is no response.
    pub async fn send(
        self: Arc<Self>,
        request: Request<RequestBody>,
        timeouts: Timeouts,
        request_id: &str,
    ) -> Result<Response<ResponseBody>, OutboundError> {
        let mut count = Count {
            shared: &self.shared,
            result: OutboundResult::Cancelled,
        };
        let sent = self.attempt(request, timeouts, request_id).await;
        count.result = match &sent {
            Ok(_) => OutboundResult::Ok,
            Err(error) => error.result(),
        };
        sent
    }

    async fn attempt(
        &self,
        request: Request<RequestBody>,
        timeouts: Timeouts,
        request_id: &str,
    ) -> Result<Response<ResponseBody>, OutboundError> {
        let uri = request.uri().clone();
        let written = Written::of(&uri)?;
        // It would turn the connection into a tunnel.
        if request.method() == Method::CONNECT {
            return Err(OutboundError::Method);
        }
        let sent = match written.target() {
            Some(target) if covers(&self.grants, target.scheme, &target.host, target.port) => {
                self.exchange(request, target, timeouts).await
            }
            _ => Err(OutboundError::Open(OpenFailure::Denied)),
        };
        if let Err(OutboundError::Open(
            why @ (OpenFailure::Denied | OpenFailure::DeniedAddress | OpenFailure::TooMany),
        )) = &sent
        {
            self.log.denied(&Denial {
                request: request_id,
                scheme: written.scheme,
                host: written.shown(),
                port: written.port,
                reason: why.name(),
            });
        }
        sent
    }

    async fn exchange(
        &self,
        request: Request<RequestBody>,
        target: Target,
        timeouts: Timeouts,
    ) -> Result<Response<ResponseBody>, OutboundError> {
        let mut request = announced(in_origin_form(request, &target)?).await;
        let connect = timeouts.connect.unwrap_or(CONNECT).min(CONNECT);
        let first_byte = timeouts.first_byte.unwrap_or(FIRST_BYTE).min(FIRST_BYTE);
        let between = timeouts.between_bytes.unwrap_or(BETWEEN_BYTES);
        let usage = Use {
            handler: self.handler,
            target,
        };
        let mut fresh = false;
        loop {
            let by = Instant::now() + connect;
            let (mut connection, reused) = self.connection(&usage, fresh, by).await?;
            let spare = if reused { spare_of(&request) } else { None };
            let sending = connection.sender.try_send_request(request);
            match timeout_at(Instant::now() + first_byte, sending).await {
                Err(_) => return Err(OutboundError::FirstByte),
                Ok(Ok(response)) => {
                    let from = Returning {
                        connection,
                        usage,
                        pool: Arc::clone(&self.shared.pool),
                    };
                    return answered(response, between.min(BETWEEN_BYTES), from);
                }
                // The other end had closed it, and has seen nothing of this; or
                // it closed it meanwhile, and may have.
                Ok(Err(mut error)) => {
                    let why = OutboundError::from_hyper(error.error());
                    let again = match error.take_message() {
                        Some(unsent) => Some(unsent),
                        None if matches!(why, OutboundError::Closed) => spare,
                        None => None,
                    };
                    match again {
                        Some(again) if reused => request = again,
                        _ => return Err(why),
                    }
                    fresh = true;
                }
            }
        }
    }

    /// A connection, and whether it was used before.
    async fn connection(
        &self,
        usage: &Use,
        fresh: bool,
        by: Instant,
    ) -> Result<(Connection, bool), OutboundError> {
        let pool = &self.shared.pool;
        let slot = match timeout_at(by, pool.obtain(usage, fresh)).await {
            Ok(Ok(Found::Waiting(connection))) => return Ok((connection, true)),
            Ok(Ok(Found::Slot(slot))) => slot,
            Ok(Err(Crowded)) | Err(_) => return Err(OutboundError::Open(OpenFailure::TooMany)),
        };
        match timeout_at(by, self.open(&usage.target, slot, by)).await {
            Ok(opened) => Ok((opened?, false)),
            Err(_) => Err(OutboundError::Open(OpenFailure::Timeout)),
        }
    }

    async fn open(
        &self,
        target: &Target,
        slot: Slot,
        by: Instant,
    ) -> Result<Connection, OutboundError> {
        let wanted = Wanted {
            app: self.app.clone(),
            scheme: target.scheme,
            host: target.host.to_string(),
            port: target.port,
            timeout: by.saturating_duration_since(Instant::now()),
        };
        let opened = self
            .opener
            .open(wanted)
            .await
            .map_err(OutboundError::Open)?;
        // Only a runtime that has no room for it refuses a socket.
        let stream = TcpStream::from_std(opened.socket.into())
            .map_err(|_| OutboundError::Open(OpenFailure::TooMany))?;
        match target.scheme {
            Scheme::Http => Connection::begin(stream, opened.held, slot).await,
            Scheme::Https => {
                let stream = self.tls.connect(&target.host, stream).await?;
                Connection::begin(stream, opened.held, slot).await
            }
        }
    }
}

impl Drop for Count<'_> {
    fn drop(&mut self) {
        self.shared.count(self.result);
    }
}

/// The request as it is sent to the server itself: its path, and one `Host`.
fn in_origin_form(
    mut request: Request<RequestBody>,
    target: &Target,
) -> Result<Request<RequestBody>, OutboundError> {
    let path = request.uri().path_and_query().cloned();
    let path = path
        .filter(|path| path.as_str().starts_with('/'))
        .or_else(|| {
            // `http://a.example?q`
            let query = request.uri().query()?;
            PathAndQuery::try_from(format!("/?{query}")).ok()
        })
        .unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    let host = HeaderValue::try_from(target.host_field()).map_err(|_| OutboundError::Uri)?;
    request.headers_mut().insert(HOST, host);
    Ok(request)
}

/// The same request again, if sending it twice does what sending it once does
/// and nothing of it is lost.
fn spare_of(request: &Request<RequestBody>) -> Option<Request<RequestBody>> {
    if !request.method().is_safe() || !request.body().is_end_stream() {
        return None;
    }
    let mut spare = Request::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *spare.method_mut() = request.method().clone();
    *spare.uri_mut() = request.uri().clone();
    *spare.version_mut() = request.version();
    *spare.headers_mut() = request.headers().clone();
    Some(spare)
}

fn answered(
    response: Response<Incoming>,
    between: Duration,
    from: Returning,
) -> Result<Response<ResponseBody>, OutboundError> {
    // Nobody asked for another protocol.
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        return Err(OutboundError::Protocol);
    }
    Ok(response.map(|incoming| ResponseBody::new(incoming, between, from)))
}
