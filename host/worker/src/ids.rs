//! Numbers that nobody can guess, and the ids of requests.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use http::{HeaderMap, HeaderValue};

use crate::reply::REQUEST_ID;

/// The longest request id that a client may give.
const MAX_REQUEST_ID: usize = 128;

/// A number that does not look like the one before: a counter through SplitMix64,
/// from a seed that the kernel gave.
pub(crate) fn random() -> u64 {
    static SEED: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let seed = *SEED.get_or_init(|| RandomState::new().hash_one(std::process::id()));
    let next = NEXT.fetch_add(1, Relaxed);
    let mut z = seed.wrapping_add(next.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The client's own request id if it is one, or a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    if let Some(given) = headers.get(REQUEST_ID) {
        let text = given.as_bytes();
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(byte);
        if !text.is_empty() && text.len() <= MAX_REQUEST_ID && text.iter().all(plain) {
            return given.clone();
        }
    }
    new_request_id()
}

/// 16 hexadecimal digits, unique over workers with the odds of 64 bits, and of
/// no use to anybody who wants to guess.
pub(crate) fn new_request_id() -> HeaderValue {
    let number = random();
    let mut text = [0; 16];
    for (at, digit) in text.iter_mut().enumerate() {
        let nibble = usize::try_from((number >> (4 * at)) & 0xf).expect("four bits");
        *digit = b"0123456789abcdef"[nibble];
    }
    HeaderValue::from_bytes(&text).expect("hexadecimal digits are a header value")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_are_kept_only_if_plain() {
        let mut headers = HeaderMap::new();
        headers.insert(REQUEST_ID, HeaderValue::from_static("abc-1.2_3"));
        assert_eq!(request_id(&headers), "abc-1.2_3");
        headers.insert(REQUEST_ID, HeaderValue::from_static("a b\"c"));
        let made = request_id(&headers);
        assert_eq!(made.len(), 16);
        assert_ne!(made, request_id(&headers));
    }
}
