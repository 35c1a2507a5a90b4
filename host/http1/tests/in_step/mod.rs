//! The machine beside other readers of the same bytes: what each of them hears.
//!
//! Used by the short run in `mutations.rs` and, for as long as one likes, by
//! `tests/fuzz`.
#![allow(dead_code, reason = "each of its users needs a part of it")]

pub(crate) mod compare;
pub(crate) mod hyper;
pub(crate) mod machine;
pub(crate) mod mutate;

use http::{HeaderMap, Method, Request, Uri, Version};

/// A request as somebody understood it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heard {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Heard {
    pub(crate) fn new<B>(request: Request<B>) -> Self {
        let (head, _) = request.into_parts();
        Self {
            method: head.method,
            uri: head.uri,
            version: head.version,
            headers: head.headers,
            body: Vec::new(),
            trailers: None,
        }
    }
}

/// What a server made of the bytes of one connection.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// Requests that came whole, each of which was answered.
    pub(crate) whole: Vec<Heard>,
    /// One whose head was read and whose body was not, or not to its end.
    pub(crate) part: Option<Heard>,
    /// Something was refused, and nothing behind it read.
    pub(crate) refused: bool,
    /// The connection ended, so that nothing more would be read.
    pub(crate) closed: bool,
}
