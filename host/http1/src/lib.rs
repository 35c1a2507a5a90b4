//! HTTP/1.1 of a server as a pure machine: bytes and `now` in, events and
//! bytes out.
//!
//! Responsible for everything that HTTP/1.1 says about one connection (RFC
//! 9110, RFC 9112): heads, framing of bodies both ways, keep-alive, pipelining,
//! `100 Continue`, half-closed clients, early answers, time limits, and how a
//! connection ends. Not here: sockets, timers, routing, and what a request
//! means; whoever drives a [`Connection`] reads, writes and waits.
//!
//! It is the only reader of HTTP/1.1 in skep. A message that two readers could
//! understand differently is refused, because behind or before another proxy
//! that is how requests are smuggled: bare line feeds, two framings, two hosts,
//! folded lines. Heads are parsed by httparse; what httparse leaves open is
//! decided around it, in the same pass.
//!
//! ```text
//!            bytes              head is whole           answer and body are whole, all is written
//!  Idle ───────────▶ Head ───────────────────▶ Exchange ──────────────────────────────────────────▶ Idle
//!   │ late, EOF       │ late: 408, bad: 4xx       │ last answer, or the client may still be sending
//!   ▼                 ▼                           ▼
//!  Closed          Exchange that closes        Linger ── client closed, late ──▶ Closed
//! ```
#![forbid(unsafe_code)]

mod answer;
mod body;
mod connection;
mod head;
mod peek;
mod target;

pub use answer::{BadAnswer, Size};
pub use body::{Piece, check_trailers};
pub use connection::{Connection, Late, Next, Settings};
pub use head::{Head, Length, Violation, Waiting};
pub use peek::{Peek, Preface, peek_host, preface};
pub use target::{BadTarget, authority_of, host_of};
