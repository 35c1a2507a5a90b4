//! Who the workers of a pool are: a name, `UID` or `UID:GID`.

use crate::document::{Entry, quotable};
use crate::report::Reported;

const EXAMPLE: &str = "\"skep\"";

/// The longest name: `LOGIN_NAME_MAX`, without its NUL.
const MAX_NAME: usize = 255;

/// Reads a user; whether there is one is found out at start.
pub(crate) fn read(entry: &Entry<'_>) -> Result<String, Reported> {
    let Some(text) = entry.as_str() else {
        return Err(match entry.as_integer().map(u32::try_from) {
            Some(Ok(id)) if id != u32::MAX => entry
                .problem(format!(
                    "`{}` must be a string, not an integer",
                    quotable(entry.name)
                ))
                .hint(format!("write it in quotes: \"{id}\""))
                .report(),
            _ => entry.wrong_type("the name of a user or \"UID:GID\"", EXAMPLE),
        });
    };
    if is_user(text) {
        return Ok(text.to_owned());
    }
    Err(entry
        .problem(format!(
            "`{}` is neither the name of a user nor \"UID\" or \"UID:GID\"",
            quotable(text)
        ))
        .hint("as in \"skep\", \"990\" or \"990:990\"")
        .report())
}

fn is_user(text: &str) -> bool {
    if text.starts_with(|c: char| c.is_ascii_digit()) && text.contains(':') {
        let (user, group) = text.split_once(':').unwrap_or((text, ""));
        return is_id(user) && is_id(group);
    }
    is_id(text) || is_name(text)
}

/// The greatest number stands for "no change" in the system's own calls.
fn is_id(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
        && text.parse::<u32>().is_ok_and(|id| id != u32::MAX)
}

/// As lenient as the file of users can be. A name of digits only would be
/// taken for a number.
fn is_name(text: &str) -> bool {
    (1..=MAX_NAME).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b':' | b'/'))
        && !text.starts_with(['-', '+'])
        && !text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_a_name_or_numbers() {
        for text in [
            "skep",
            "_skep",
            "www-data",
            "a.b",
            "pc$",
            "u@example.com",
            "0",
            "990",
            "990:991",
            "4294967294",
            "1a",
        ] {
            assert!(is_user(text), "{text}");
        }
        for text in [
            "",
            "-x",
            "a b",
            "a:b",
            "a:1",
            "1:a",
            "1:",
            ":1",
            "1:2:3",
            "-1",
            "+1",
            "4294967295",
            "4294967296",
            "1:4294967295",
            "../x",
            "ä",
            "a\n",
            "１",
        ] {
            assert!(!is_user(text), "{text}");
        }
        assert!(is_user(&"a".repeat(255)));
        assert!(!is_user(&"a".repeat(256)));
    }
}
