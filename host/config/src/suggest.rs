//! "Did you mean": the known name that a mistyped one is closest to.

/// Longer words are not compared: the comparison takes the product of both
/// lengths, and no name of ours is that long.
const MAX_COMPARED: usize = 64;

/// The candidate that `word` was probably meant to be, if any is close enough.
pub(crate) fn closest<'a>(
    word: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    if word.len() > MAX_COMPARED {
        return None;
    }
    let folded = fold(word);
    // A third of the letters may be wrong, and one always.
    let allowed = (folded.chars().count() / 3).max(1);
    candidates
        .into_iter()
        .map(|candidate| {
            (
                strsim::damerau_levenshtein(&folded, &fold(candidate)),
                candidate,
            )
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Without the differences between `camelCase`, `kebab-case` and `snake_case`.
fn fold(word: &str) -> String {
    word.chars()
        .filter(|c| !matches!(c, '-' | '_'))
        .flat_map(char::to_lowercase)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::closest;

    const KEYS: [&str; 5] = ["timeout", "max_body", "routes", "cpu", "strip_prefix"];

    #[test]
    fn slips_of_finger_and_style_are_seen() {
        assert_eq!(closest("timout", KEYS), Some("timeout"));
        assert_eq!(closest("maxBody", KEYS), Some("max_body"));
        assert_eq!(closest("strip-prefix", KEYS), Some("strip_prefix"));
        assert_eq!(closest("route", KEYS), Some("routes"));
        assert_eq!(closest("CPU", KEYS), Some("cpu"));
    }

    #[test]
    fn other_words_are_not() {
        assert_eq!(closest("banana", KEYS), None);
        assert_eq!(closest("xyz", KEYS), None);
        assert_eq!(closest("", KEYS), None);
        assert_eq!(closest(&"t".repeat(1 << 20), KEYS), None);
    }
}
