//! HTTP/1.1 framing: no bytes panic, and pieces make no difference.
#![no_main]

use libfuzzer_sys::fuzz_target;

// The worker keeps it to itself; it is pure and stands alone.
#[path = "../../../host/worker/src/strict.rs"]
#[expect(dead_code, reason = "only a part of it is called here")]
mod strict;

fuzz_target!(|input: (u8, &[u8])| {
    let (piece, bytes) = input;
    let mut whole = strict::Framing::new(4096);
    let at_once = whole.take(bytes).map_err(|(_, violation)| violation);
    let mut pieces = strict::Framing::new(4096);
    let in_pieces = bytes
        .chunks(usize::from(piece).max(1))
        .try_for_each(|part| pieces.take(part).map_err(|(_, violation)| violation));
    assert_eq!(at_once.is_ok(), in_pieces.is_ok(), "{at_once:?} {in_pieces:?}");
    if at_once.is_ok() {
        assert_eq!(whole.is_between(), pieces.is_between());
    }
});
