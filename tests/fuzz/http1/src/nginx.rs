//! nginx
pub fn behind(_: u64, _: u64) {}
