//! Why a guest gets no response, and what is counted.

use std::io;

use skep_core::egress::OpenFailure;

/// Why a guest gets no response, or no more of one.
#[derive(Debug, thiserror::Error)]
pub enum OutboundError {
    /// The connection was not opened.
    #[error("no connection ({})", .0.name())]
    Open(OpenFailure),
    /// The request has no host or path that can be asked.
    #[error("the request's address makes no sense")]
    Uri,
    /// The method makes something else than a request of the connection.
    #[error("the method is not available")]
    Method,
    /// The other end cannot prove who it is.
    #[error("the certificate is not valid")]
    Certificate,
    /// There are no certificates to compare with.
    #[error("there are no root certificates")]
    Roots(#[source] super::RootsError),
    /// TLS fails otherwise.
    #[error("TLS failed")]
    Tls(#[source] io::Error),
    /// No head of a response came in time.
    #[error("no response in time")]
    FirstByte,
    /// The body came to a halt.
    #[error("the response stopped")]
    BetweenBytes,
    /// The other end closed the connection before its response began.
    #[error("the connection was closed")]
    Closed,
    /// The other end closed the connection within its response.
    #[error("the response is incomplete")]
    Incomplete,
    /// The head of the response is too large.
    #[error("the head of the response is too large")]
    HeadTooLarge,
    /// The other end does not speak HTTP/1.1 as agreed.
    #[error("the response is not HTTP")]
    Protocol,
    /// The guest's own body broke off.
    #[error("the request's body broke off")]
    Body,
}

/// What became of a request, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OutboundResult {
    /// The head of a response came, whatever its status.
    Ok,
    /// No grant covers it.
    Denied,
    /// It leads to an address that is not public and not listed.
    DeniedAddress,
    /// The app has as many connections as it may.
    TooMany,
    /// The name does not resolve.
    Name,
    /// Nobody listens there.
    Refused,
    /// There is no way there.
    Unreachable,
    /// It took too long.
    Timeout,
    /// No agreement on TLS.
    Tls,
    /// The other end, or the guest's body, broke off or made no sense.
    Broken,
    /// The request makes no sense.
    Invalid,
    /// The guest went, or wanted it no more.
    Cancelled,
}

impl OutboundResult {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 12] = [
        Self::Ok,
        Self::Denied,
        Self::DeniedAddress,
        Self::TooMany,
        Self::Name,
        Self::Refused,
        Self::Unreachable,
        Self::Timeout,
        Self::Tls,
        Self::Broken,
        Self::Invalid,
        Self::Cancelled,
    ];

    /// The stable name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Denied => "denied",
            Self::DeniedAddress => "denied-address",
            Self::TooMany => "too-many",
            Self::Name => "name",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Timeout => "timeout",
            Self::Tls => "tls",
            Self::Broken => "broken",
            Self::Invalid => "invalid",
            Self::Cancelled => "cancelled",
        }
    }
}

impl OutboundError {
    /// What is counted.
    #[must_use]
    pub const fn result(&self) -> OutboundResult {
        match self {
            Self::Open(why) => match why {
                OpenFailure::Denied => OutboundResult::Denied,
                OpenFailure::DeniedAddress => OutboundResult::DeniedAddress,
                OpenFailure::TooMany => OutboundResult::TooMany,
                OpenFailure::Name => OutboundResult::Name,
                OpenFailure::Refused => OutboundResult::Refused,
                OpenFailure::Unreachable => OutboundResult::Unreachable,
                OpenFailure::Timeout => OutboundResult::Timeout,
            },
            Self::FirstByte | Self::BetweenBytes => OutboundResult::Timeout,
            Self::Certificate | Self::Roots(_) | Self::Tls(_) => OutboundResult::Tls,
            Self::Closed | Self::Incomplete | Self::HeadTooLarge | Self::Protocol | Self::Body => {
                OutboundResult::Broken
            }
            Self::Uri | Self::Method => OutboundResult::Invalid,
        }
    }

    /// What hyper says, in our terms.
    pub(super) fn from_hyper(error: &hyper::Error) -> Self {
        if error.is_parse_too_large() {
            Self::HeadTooLarge
        } else if error.is_user() || error.is_body_write_aborted() {
            Self::Body
        } else if error.is_parse() {
            Self::Protocol
        } else {
            Self::Closed
        }
    }

    /// The same, of a body whose head was there.
    pub(super) fn from_body(error: &hyper::Error) -> Self {
        if error.is_parse() {
            Self::Protocol
        } else {
            Self::Incomplete
        }
    }

    /// What a handshake ended with.
    pub(super) fn from_tls(error: io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| {
            inner
                .downcast_ref::<rustls::Error>()
                .or_else(|| inner.source()?.downcast_ref())
        });
        match inner {
            Some(rustls::Error::InvalidCertificate(_)) => Self::Certificate,
            _ => Self::Tls(error),
        }
    }
}
