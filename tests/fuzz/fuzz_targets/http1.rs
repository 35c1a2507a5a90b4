//! HTTP/1.1: no bytes panic, and pieces make no difference.
#![no_main]

use std::sync::LazyLock;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;

static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fuzz_target!(|input: (u8, [u8; 8], &[u8])| {
    let (piece, script, bytes) = input;
    let pieces = bytes.chunks(usize::from(piece).max(1));
    skep_fuzz_http1::alone(*NOW, bytes, pieces, &script);
});
