//! "Did you mean": which of some names was meant.

/// How alike two names must be, from 0 to 1, for one to be offered in place of
/// the other. As clap has it for commands.
const ALIKE: f64 = 0.7;

/// The name that is most like the one that was asked for, if any is.
pub(crate) fn closest<'a>(
    wanted: &str,
    names: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::jaro(name, wanted), name))
        .filter(|(alike, _)| *alike > ALIKE)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_similar_name_is_offered() {
        assert_eq!(closest("helo", ["help", "hello", "x"]), Some("hello"));
        assert_eq!(closest("helo", ["zzz"]), None);
        assert_eq!(closest("helo", []), None);
    }
}
