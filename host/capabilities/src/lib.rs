//! What guests may use besides computing, where they were granted it.
//!
//! Responsible for speaking the protocols, for bounds, and for counting. Not
//! here: which wasm interface it is called by (`engine`), where sockets come
//! from (`worker`), what a grant covers (`core`).
#![forbid(unsafe_code)]

pub mod outbound;
