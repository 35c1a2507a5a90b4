//! How the rollout's sentences write durations.

use std::fmt;
use std::time::Duration;

/// A duration for people: `800 µs`, `10.2 ms`, `1.5 s`.
pub(super) struct Span(pub(super) Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let (number, unit) = if self.0 >= Duration::from_secs(1) {
            (seconds, "s")
        } else if self.0 >= Duration::from_millis(1) || self.0.is_zero() {
            (seconds * 1e3, "ms")
        } else {
            (seconds * 1e6, "µs")
        };
        // One digit after the point, and none where it would be a zero.
        let text = format!("{number:.1}");
        write!(f, "{} {unit}", text.strip_suffix(".0").unwrap_or(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_people_write_them() {
        let words = |micros| Span(Duration::from_micros(micros)).to_string();
        assert_eq!(words(0), "0 ms");
        assert_eq!(words(800), "800 µs");
        assert_eq!(words(5_000), "5 ms");
        assert_eq!(words(10_240), "10.2 ms");
        assert_eq!(words(1_500_000), "1.5 s");
        assert_eq!(words(120_000_000), "120 s");
    }
}
