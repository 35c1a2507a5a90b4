//! What can be read of the file of a history that is none as a whole: torn,
//! damaged, of another version, or too large.

use serde::de::DeserializeOwned;
use serde_json::Deserializer;
use skep_core::history::{Pieces, RevisionRecord};

/// Finds the pieces of a history. Records that are whole are taken wherever they
/// stand; what is said before the first of them is looked for by name. A name
/// within another text has its quotes escaped, so that nobody who gives a reason
/// can make one up.
pub(super) fn pieces(bytes: &[u8]) -> Pieces {
    let text = String::from_utf8_lossy(bytes);
    let mut records: Vec<RevisionRecord> = Vec::new();
    let mut head = text.len();
    let mut at = 0;
    while let Some(next) = text[at..].find('{') {
        let begin = at + next;
        at = begin + 1;
        let Some((record, length)) = value::<RevisionRecord>(&text[begin..]) else {
            continue;
        };
        head = head.min(begin);
        at = begin + length;
        records.push(record);
    }
    let head = &text[..head];
    Pieces {
        next: named(head, "next"),
        active: named(head, "active"),
        paused: named(head, "paused").unwrap_or_default(),
        read: named(head, "read"),
        trail: named(head, "trail").unwrap_or_default(),
        revisions: records,
    }
}

/// The value of a name.
fn named<T: DeserializeOwned>(text: &str, name: &str) -> Option<T> {
    let name = format!("\"{name}\"");
    let after = text.split_once(&name)?.1.trim_start();
    value(after.strip_prefix(':')?).map(|(value, _)| value)
}

/// The value that a text begins with, and its length.
fn value<T: DeserializeOwned>(text: &str) -> Option<(T, usize)> {
    let mut values = Deserializer::from_str(text).into_iter::<T>();
    let value = values.next()?.ok()?;
    Some((value, values.byte_offset()))
}

#[cfg(test)]
mod tests {
    use skep_core::Revision;
    use skep_core::history::History;

    use super::*;

    fn history() -> History {
        let mut history = History::new();
        for of in 1..=3 {
            let source = "/srv/hello.wasm".into();
            let revision = history.begin(format!("{of:064x}"), source, of);
            history.live(revision);
        }
        let bad = history.begin(format!("{:064x}", 4), "/srv/bad.wasm".into(), 4);
        let forged = r#"{"revision": 9, "next": 1, "paused": true}, {"revision":"#;
        history.rejected(bad, forged.to_owned());
        history
    }

    #[test]
    fn what_is_whole_is_found_in_what_is_not() {
        let history = history();
        for written in [
            serde_json::to_string(&history).unwrap(),
            serde_json::to_string_pretty(&history).unwrap(),
        ] {
            let newer = written.replacen("\"version\"", "\"hue\": {\"of\": 7}, \"version\"", 1);
            for text in [&written, &newer] {
                let mended = History::mended(pieces(text.as_bytes())).unwrap();
                assert_eq!(mended, history);
            }
            // Wherever it ends, numbers are not given twice, and what answered
            // does as soon as its record is there.
            let third = written.find("00003\"").unwrap() + 200;
            for end in (0..written.len()).filter(|end| written.is_char_boundary(*end)) {
                let Some(mended) = History::mended(pieces(&written.as_bytes()[..end])) else {
                    assert!(end < 40, "{}", &written[..end]);
                    continue;
                };
                assert!(!mended.paused());
                assert_eq!(mended.next(), history.next());
                if end > third {
                    assert_eq!(mended.active(), Some(Revision(3)));
                }
            }
        }
        assert_eq!(History::mended(pieces(b"\xff{{{\"paused\": 7")), None);
    }
}
