//! Proof on real processes: the harness and the suites that drive the skep
//! binary.
//!
//! The harness builds what it needs (the binary, the guests), starts skep in a
//! directory of its own, speaks HTTP with it byte by byte, and looks at its
//! processes from outside. What it is not: a second implementation of anything;
//! it knows skep by its command line, its control socket, and `/proc`.
//!
//! | module | |
//! |---|---|
//! | [`build`] | the binary and the guests, built once |
//! | [`options`], [`skep`] | one running skep, ended with the test |
//! | [`command`] | commands of skep that end by themselves |
//! | [`http`] | a strict HTTP/1 client on plain sockets |
//! | [`h2`] | an HTTP/2 client |
//! | [`frames`], [`hpack`] | another one, which breaks rules |
//! | [`load`] | many clients at once, every request classified |
//! | [`traffic`] | the same on many connections of both protocols, with the revision of every answer checked |
//! | [`variant`](mod@variant) | the same component with another digest |
//! | [`process`] | processes as `/proc` shows them, and signals |
//! | [`wait`] | waiting for a condition, with a deadline |
//! | [`golden`] | texts that were reviewed |
//! | [`turn`] | which tests have the machine for themselves |
#![forbid(unsafe_code)]

mod address;
pub mod build;
pub mod command;
pub mod frames;
pub mod golden;
pub mod h2;
pub mod hpack;
pub mod http;
mod lines;
pub mod load;
pub mod options;
mod peer;
pub mod process;
pub mod skep;
pub mod traffic;
pub mod turn;
pub mod variant;
pub mod wait;
mod warm;

pub use build::{attacker, binary, foreign_guest, guest};
pub use http::{Client, Failed, Response};
pub use skep::{Skep, Stop};
pub use traffic::Traffic;
pub use variant::variant;
pub use wait::{pause, wait_for};
