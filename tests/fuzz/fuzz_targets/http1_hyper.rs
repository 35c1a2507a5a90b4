//! HTTP/1.1: what the machine answers is heard the same by hyper. The corpus is
//! `corpus/http1`.
#![no_main]

use std::sync::LazyLock;
use std::time::Instant;

use libfuzzer_sys::fuzz_target;

static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

fuzz_target!(|bytes: &[u8]| {
    let _ = skep_fuzz_http1::beside_hyper(*NOW, bytes);
});
