//! First heads: no bytes panic, and of HTTP/1 what was said of some bytes holds
//! for all that come after them.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_core::ConnectionLimits;
use skep_dispatcher::peek::{Heard, hear};
use skep_wire::Spoken;

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let limits = ConnectionLimits::default();
    let early = hear(&bytes[..bytes.len().min(cut.into())], &limits, Spoken::Nothing);
    let whole = hear(bytes, &limits, Spoken::Nothing);
    // Where a later frame or record is none, it may be bad after all.
    let is_http1 = !bytes.starts_with(b"\x16") && !bytes.starts_with(b"PRI * ");
    if early != Heard::NeedMore && is_http1 {
        assert_eq!(early, whole);
    }
});
