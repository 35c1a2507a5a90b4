//! Outbound requests of this worker's guests: `skep-capabilities` between the
//! engine, which calls it, and the connector, which opens its connections.
//!
//! The connector may come, go and be replaced at any time. A request that waits
//! for a connection then asks the next one, once; open connections stay.

mod asker;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use http::Request;
use http_body_util::BodyExt as _;
use skep_capabilities::outbound::{
    AppOutbound, Denial, Outbound, OutboundError, OutboundLog, Roots, Timeouts,
};
use skep_core::egress::OpenFailure;
use skep_core::{AppName, LogLevel};
use skep_engine::{
    OutboundBody, OutboundError as GuestError, OutboundHttp, OutboundReply, OutboundTimeouts,
};
use skep_wire::LoadApp;

use crate::log::AppLog;
use crate::outbound::asker::Asker;

/// What sends the requests of all guests of this worker.
pub(crate) struct Outlet {
    outbound: Outbound,
    asker: Arc<Asker>,
    shares: Mutex<Shares>,
}

/// How many connections each app may have open, over all workers of the pool.
struct Shares {
    limits: BTreeMap<AppName, u32>,
    workers: u16,
}

impl Outlet {
    /// Opens what a confined worker could not: to be called before it is one.
    pub(crate) fn new(workers: u16) -> Arc<Self> {
        let asker = Arc::new(Asker::new());
        Arc::new(Self {
            outbound: Outbound::new(Arc::clone(&asker) as _, Roots::open()),
            asker,
            shares: Mutex::new(Shares {
                limits: BTreeMap::new(),
                workers,
            }),
        })
    }

    /// Asks this connector from now on.
    pub(crate) fn meet(&self, channel: OwnedFd) -> anyhow::Result<()> {
        self.asker.meet(channel)
    }

    /// What sends the requests of a handler's guests. There is one also where
    /// nothing is granted: what is denied is told and counted.
    pub(crate) fn app(&self, load: &LoadApp, log: &Arc<AppLog>) -> Arc<dyn OutboundHttp> {
        let limit = load.limits.outbound_connections;
        let share = {
            let mut shares = self.shares();
            shares.limits.insert(load.app.clone(), limit);
            share(limit, shares.workers)
        };
        let (app, grants) = (load.app.clone(), load.outbound.clone());
        let outbound = self.outbound.app(app, grants, share, Arc::clone(log) as _);
        Arc::new(Sender {
            outbound,
            log: Arc::clone(log),
        })
    }

    /// The pool has so many workers from now on.
    pub(crate) fn share(&self, workers: u16) {
        let mut shares = self.shares();
        if shares.workers == workers {
            return;
        }
        shares.workers = workers;
        for (app, limit) in &shares.limits {
            self.outbound.limit(app, share(*limit, workers));
        }
    }

    /// Closes connections that have waited for too long. To be called about
    /// every half second.
    pub(crate) fn expire_idle(&self) {
        self.outbound.expire_idle();
    }

    fn shares(&self) -> MutexGuard<'_, Shares> {
        // A panic leaves it consistent.
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One worker's share, rounded down, so that no worker takes what another may
/// use: the connector counts over all of them.
fn share(limit: u32, workers: u16) -> u32 {
    (limit / u32::from(workers.max(1))).max(1).min(limit)
}

/// Sends the requests of one handler's guests.
struct Sender {
    outbound: Arc<AppOutbound>,
    log: Arc<AppLog>,
}

impl OutboundHttp for Sender {
    fn send(
        &self,
        request: Request<OutboundBody>,
        timeouts: OutboundTimeouts,
        request_id: &str,
    ) -> OutboundReply {
        let outbound = Arc::clone(&self.outbound);
        let log = Arc::clone(&self.log);
        let request_id = request_id.to_owned();
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        let timeouts = Timeouts {
            connect: timeouts.connect,
            first_byte: timeouts.first_byte,
            between_bytes: timeouts.between_bytes,
        };
        Box::pin(async move {
            match outbound.send(request, timeouts, &request_id).await {
                Ok(response) => Ok(response
                    .map(|body| body.map_err(|error| in_guests_terms(&error)).boxed_unsync())),
                Err(error) => {
                    if let OutboundError::Roots(reason) = &error
                        && let Some(record) = log.record(LogLevel::Warn, "outbound.failed")
                    {
                        let record = record.text("request", &request_id);
                        log.write(record.text("reason", &reason.to_string()));
                    }
                    Err(in_guests_terms(&error))
                }
            }
        })
    }
}

impl OutboundLog for AppLog {
    fn denied(&self, denial: &Denial<'_>) {
        if let Some(record) = self.record(LogLevel::Warn, "outbound.denied") {
            self.write(
                record
                    .text("request", denial.request)
                    .text("scheme", denial.scheme.as_str())
                    .text("host", denial.host)
                    .number("port", denial.port)
                    .text("reason", denial.reason),
            );
        }
    }
}

/// What guests are told: enough to know whether to try again.
fn in_guests_terms(error: &OutboundError) -> GuestError {
    match error {
        OutboundError::Open(why) => match why {
            OpenFailure::Denied => GuestError::HttpRequestDenied,
            OpenFailure::DeniedAddress => GuestError::DestinationIpProhibited,
            OpenFailure::TooMany => GuestError::ConnectionLimitReached,
            OpenFailure::Name => GuestError::DnsError {
                rcode: None,
                info_code: None,
            },
            OpenFailure::Refused => GuestError::ConnectionRefused,
            OpenFailure::Unreachable => GuestError::DestinationIpUnroutable,
            OpenFailure::Timeout => GuestError::ConnectionTimeout,
        },
        OutboundError::Uri => GuestError::HttpRequestUriInvalid,
        OutboundError::Method => GuestError::HttpRequestMethodInvalid,
        OutboundError::Certificate => GuestError::TlsCertificateError,
        OutboundError::Roots(_) => GuestError::ConfigurationError,
        OutboundError::Tls(_) => GuestError::TlsProtocolError,
        OutboundError::FirstByte => GuestError::HttpResponseTimeout,
        OutboundError::BetweenBytes => GuestError::ConnectionReadTimeout,
        OutboundError::Closed => GuestError::ConnectionTerminated,
        OutboundError::Incomplete => GuestError::HttpResponseIncomplete,
        OutboundError::HeadTooLarge => GuestError::HttpResponseHeaderSectionSize(None),
        OutboundError::Protocol | OutboundError::Body => GuestError::HttpProtocolError,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_never_add_up_to_more_than_the_limit_where_that_is_possible() {
        assert_eq!(share(100, 3), 33);
        assert_eq!(share(100, 1), 100);
        assert_eq!(share(100, 0), 100);
        assert_eq!(share(2, 8), 1);
        assert_eq!(share(0, 8), 0);
    }
}
