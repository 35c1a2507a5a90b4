//! How requests end, and what clients send them.

use std::fmt;

/// How one request ended. Each ends in exactly one class, and all but
/// [`Class::Ok`] are failures.
///
/// What is *not* here: a kept-alive connection that was seen closed before a
/// byte of the request was written to it. RFC 9112 §9.3.1 and §9.5 let a
/// server close an idle connection at any time and make clients open another;
/// RFC 9113 §6.8 says the same of GOAWAY. Nothing was asked, so nothing was
/// lost: the request goes to a new connection and ends there.
///
/// What *is* here: a request that was written and never answered, though a
/// client could repeat it if it is idempotent. From the client's side the
/// server dropped it, and a server that means to lose nothing announces its
/// closing with its last response, or with a GOAWAY that still answers what
/// was under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// A status from 200 to 299, the body whole, the revision a right one.
    Ok,
    /// A whole response with another status.
    Status(u16),
    /// A whole response by a revision that was not live.
    WrongRevision,
    /// Nobody listened.
    Refused,
    /// The connection, or the HTTP/2 stream, was reset before anything of the
    /// response.
    Reset,
    /// The request was written, and the connection ended in order without a
    /// response. A new connection that is closed before the request could be
    /// written is one too: it was accepted in order to serve.
    Lost,
    /// The response began and was not whole.
    Cut,
    /// No whole response within the client's patience.
    Timeout,
    /// Anything else: what came is no HTTP, or this machine is out of ports.
    Strange,
}

impl Class {
    /// Whether the request failed.
    #[must_use]
    pub fn is_failure(self) -> bool {
        self != Self::Ok
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.pad("ok"),
            Self::Status(code) => f.pad(&format!("status {code}")),
            Self::WrongRevision => f.pad("wrong revision"),
            Self::Refused => f.pad("refused"),
            Self::Reset => f.pad("reset"),
            Self::Lost => f.pad("lost"),
            Self::Cut => f.pad("cut"),
            Self::Timeout => f.pad("timeout"),
            Self::Strange => f.pad("strange"),
        }
    }
}

/// What a client speaks, and on how many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// HTTP/1.1 on one connection for as long as it holds.
    KeptH1,
    /// HTTP/2 on one connection for as long as it holds.
    KeptH2,
    /// HTTP/1.1 on a new connection for every request.
    NewH1,
    /// HTTP/2 on a new connection for every request.
    NewH2,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::KeptH1, Self::KeptH2, Self::NewH1, Self::NewH2];

    /// Whether it is HTTP/2.
    #[must_use]
    pub fn is_h2(self) -> bool {
        matches!(self, Self::KeptH2 | Self::NewH2)
    }

    /// Whether it keeps its connection.
    #[must_use]
    pub fn is_kept(self) -> bool {
        matches!(self, Self::KeptH1 | Self::KeptH2)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KeptH1 => "h1 kept",
            Self::KeptH2 => "h2 kept",
            Self::NewH1 => "h1 new",
            Self::NewH2 => "h2 new",
        })
    }
}
