//! Words that one process says and another one keeps, shows or writes down.
//!
//! A process that may have been taken over fills no log, history or reply by
//! what it says: its words are cut where they are written, and again where they
//! are read.

use serde::{Deserialize, Deserializer, Serializer};

/// Most bytes of words, the mark of a cut included. A guest's panic with its
/// backtrace is about a third of it.
pub const MAX_TEXT: usize = 4 << 10;

/// What stands where something was cut.
const CUT: &str = "…";

/// The words, cut to [`MAX_TEXT`] bytes.
pub(crate) fn cut(mut words: String) -> String {
    if words.len() > MAX_TEXT {
        words.truncate(beginning(&words).len());
        words.push_str(CUT);
        words.shrink_to_fit();
    }
    words
}

/// As much of words that are to be cut as remains.
fn beginning(words: &str) -> &str {
    &words[..words.floor_char_boundary(MAX_TEXT - CUT.len())]
}

/// For `#[serde(with)]`.
pub(crate) fn serialize<S: Serializer>(words: &str, to: S) -> Result<S::Ok, S::Error> {
    if words.len() > MAX_TEXT {
        to.collect_str(&format_args!("{}{CUT}", beginning(words)))
    } else {
        to.serialize_str(words)
    }
}

/// For `#[serde(with)]`.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    String::deserialize(from).map(cut)
}

/// Words that need not be there.
pub(crate) mod optional {
    use serde::{Deserialize, Deserializer, Serializer};

    /// For `#[serde(with)]`.
    pub(crate) fn serialize<S: Serializer>(
        words: &Option<String>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match words {
            Some(words) => super::serialize(words, to),
            None => to.serialize_none(),
        }
    }

    /// For `#[serde(with)]`.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<String>, D::Error> {
        Ok(Option::<String>::deserialize(from)?.map(super::cut))
    }
}

/// A few of them.
pub(crate) mod few {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// Most that are heard of one message.
    const MOST: usize = 16;

    /// For `#[serde(with)]`.
    pub(crate) fn serialize<S: Serializer>(list: &[String], to: S) -> Result<S::Ok, S::Error> {
        list.serialize(to)
    }

    /// For `#[serde(with)]`.
    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
        let list = Vec::<String>::deserialize(from)?;
        Ok(list.into_iter().take(MOST).map(super::cut).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decoder, FrameError, FromWorker, encode};

    #[test]
    fn what_is_too_long_is_cut_between_characters() {
        for (words, bytes) in [
            ("x".repeat(MAX_TEXT), MAX_TEXT),
            ("x".repeat(MAX_TEXT + 1), MAX_TEXT),
            ("ä".repeat(MAX_TEXT), MAX_TEXT - 1),
        ] {
            let is_short = words.len() <= MAX_TEXT;
            let message = words.clone();
            let said = encode(&FromWorker::Unfit { message }).unwrap();
            let mut decoder = Decoder::<()>::default();
            decoder.push(&said, []);
            let heard = decoder.message::<FromWorker>().unwrap();
            let Some((FromWorker::Unfit { message, .. }, _)) = heard else {
                panic!("{heard:?}");
            };
            assert_eq!(message.len(), bytes);
            assert_eq!(message == words, is_short);
        }
    }

    #[test]
    fn what_somebody_else_wrote_is_cut_where_it_is_read() {
        let long = serde_json::to_string(&"x".repeat(100_000)).unwrap();
        let json = format!("{{\"unfit\":{{\"message\":{long}}}}}");
        let FromWorker::Unfit { message, .. } = serde_json::from_str(&json).unwrap() else {
            panic!("{json}");
        };
        assert_eq!(message.len(), MAX_TEXT);
    }

    #[test]
    fn an_error_does_not_quote_the_whole_message() {
        let mut frame = encode(&FromWorker::Drained).unwrap();
        let payload = serde_json::to_string(&"a".repeat(100_000)).unwrap();
        frame.truncate(4);
        frame.extend(u32::try_from(payload.len()).unwrap().to_le_bytes());
        frame.extend(payload.bytes());
        let mut decoder = Decoder::<()>::default();
        decoder.push(&frame, []);
        let error = decoder.message::<FromWorker>().unwrap_err();
        assert!(matches!(error, FrameError::Malformed(_)), "{error:?}");
        assert!(error.to_string().len() < MAX_TEXT + 100);
    }
}
