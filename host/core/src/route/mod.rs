//! Which app answers a request: host and path, most specific wins.
//!
//! A [`RoutePattern`] is what a user writes; a [`RouteTable`] finds the target
//! of a host and a path. Paths are compared as the bytes that were received:
//! nothing is decoded, dot segments are not resolved, and an encoded slash is
//! no slash. So a request is understood in one way only, here and in the guest.
//!
//! Order of precedence: an exact host, then the longest wildcard host, then no
//! host; within one of them an exact path, then the longest prefix. A host
//! without a fitting path leaves the request to the next less specific one.
//!
//! What a worker does with the target, and what a bad request is, is not
//! decided here.

mod hosts;
mod pattern;
mod radix;
mod table;
#[cfg(test)]
mod tests;

pub use hosts::{HostRoute, HostTable, SharedHost, same_host};
pub use pattern::{InvalidRoute, RoutePattern};
pub use table::{DuplicateRoute, Matched, RouteTable};
