//! How calls end, whatever guest and client do. The guests are
//! `guests/hostile/ends` and `ends-p3`, the clients those that poll, poll a little,
//! leave, or do nothing at all.
#![expect(clippy::unwrap_used, reason = "tests")]

mod ahead;
mod content;
mod harness;
mod limits;
mod outcomes;
mod reuse;
mod shared;
