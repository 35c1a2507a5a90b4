//! Routes: no pattern, host or path panics, and a match is what it says.
#![no_main]

use libfuzzer_sys::fuzz_target;
use skep_core::route::{RoutePattern, RouteTable};

fuzz_target!(|text: &str| {
    let mut lines = text.lines();
    let (Some(host), Some(path)) = (lines.next(), lines.next()) else {
        return;
    };
    let patterns: Vec<_> = lines.filter_map(|line| RoutePattern::new(line).ok()).collect();
    for pattern in &patterns {
        let again = RoutePattern::new(pattern.as_str()).expect("it was one before");
        assert_eq!(*pattern, again);
    }
    let numbered = patterns.into_iter().enumerate().map(|(n, pattern)| (pattern, n));
    let Ok(table) = RouteTable::build(numbered) else {
        return;
    };
    for host in [None, Some(host)] {
        if let Some(found) = table.find(host, path) {
            assert!(path.is_char_boundary(found.prefix));
        }
    }
});
