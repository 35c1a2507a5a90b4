//! The value of `Date` fields.

use std::cell::Cell;
use std::io::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a date (RFC 9110 §5.6.7).
const LENGTH: usize = 29;

thread_local! {
    static CACHED: Cell<(Duration, [u8; LENGTH])> = const { Cell::new((Duration::ZERO, [0; LENGTH])) };
}

/// The date, written out once a second.
pub(crate) fn now() -> [u8; LENGTH] {
    let now = SystemTime::now();
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (until, text) = CACHED.get();
    // A clock that was set back is behind by more than a second.
    if since < until && until - since <= Duration::from_secs(1) {
        return text;
    }
    let mut text = [b' '; LENGTH];
    // It is as long as the place for it.
    let _ = write!(&mut text[..], "{}", httpdate::HttpDate::from(now));
    CACHED.set((Duration::from_secs(since.as_secs() + 1), text));
    text
}

#[cfg(test)]
mod tests {
    #[test]
    fn it_is_a_date_and_the_same_within_a_second() {
        let date = super::now();
        let text = std::str::from_utf8(&date).unwrap();
        assert!(httpdate::parse_http_date(text).is_ok(), "{text}");
        assert!(text.ends_with(" GMT"));
    }
}
