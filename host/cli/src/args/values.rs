//! Values on the command line that are more than words: how each is read, and
//! what is said about those that make no sense.

use std::path::Path;

use skep_core::{ListenAddress, Portion, Revision, WorkerId};

/// Why a value makes no sense, for clap to say.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invalid(&'static str);

impl std::fmt::Display for Invalid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Invalid {}

/// An address as in the configuration, and what people type for one: `:8080`
/// and `8080` are this machine only, as is the configuration's default.
pub(super) fn listen_address(text: &str) -> Result<ListenAddress, skep_config::InvalidAddress> {
    // Unix sockets are relative to where we are.
    let parse = |text: &str| skep_config::parse_address(text, Path::new(""));
    let port = text.strip_prefix(':').unwrap_or(text);
    let is_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if is_port {
        return parse(&format!("127.0.0.1:{port}"));
    }
    match text.strip_prefix("localhost:") {
        Some(port) => parse(&format!("127.0.0.1:{port}")),
        None => parse(text),
    }
}

/// A share of the requests: `10%`, `12.5%`, or `10`; more than nothing and at
/// most all.
pub(super) fn canary_share(text: &str) -> Result<Portion, Invalid> {
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    hundredths(number)
        .map(Portion)
        .filter(|share| (Portion(1)..=Portion::ALL).contains(share))
        .ok_or(Invalid(
            "write a percentage above 0% and up to 100%, such as 10% or 12.5%",
        ))
}

/// The number of a revision.
pub(super) fn revision(text: &str) -> Result<Revision, Invalid> {
    text.parse()
        .ok()
        .filter(|number| *number > 0)
        .map(Revision)
        .ok_or(Invalid(
            "revisions are numbers; `skep history APP` shows them",
        ))
}

/// The number of a worker.
pub(super) fn worker(text: &str) -> Result<WorkerId, Invalid> {
    text.parse()
        .map(WorkerId)
        .map_err(|_| Invalid("workers have numbers; `skep status` shows them"))
}

/// A decimal number with at most two places, in hundredths.
fn hundredths(text: &str) -> Option<u32> {
    let (whole, rest) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !(1..=2).contains(&rest.len()) || !digits(whole) || !digits(rest) {
        return None;
    }
    let rest: u32 = format!("{rest:0<2}").parse().ok()?;
    whole
        .parse::<u32>()
        .ok()?
        .checked_mul(100)?
        .checked_add(rest)
}
