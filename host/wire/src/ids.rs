//! Numbers of connections, of which a message has a bounded number.

use std::fmt;

use serde::de::{Deserializer, Error, SeqAccess, Visitor};

/// Most numbers of connections in one message.
pub const MAX_IDS: usize = 1024;

/// For `#[serde(deserialize_with)]`: no more than [`MAX_IDS`] numbers, so that
/// nobody has a reader go through millions.
pub(crate) fn few<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u64>, D::Error> {
    struct Few;

    impl<'de> Visitor<'de> for Few {
        type Value = Vec<u64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "at most {MAX_IDS} numbers")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut numbers: A) -> Result<Vec<u64>, A::Error> {
            let mut ids = Vec::new();
            while let Some(id) = numbers.next_element()? {
                if ids.len() == MAX_IDS {
                    return Err(A::Error::invalid_length(MAX_IDS + 1, &self));
                }
                ids.push(id);
            }
            Ok(ids)
        }
    }

    from.deserialize_seq(Few)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Decoder, FromAcceptor, encode};

    #[test]
    fn a_message_has_a_bounded_number_of_them() {
        for (count, fits) in [(MAX_IDS, true), (MAX_IDS + 1, false), (100_000, false)] {
            let mut decoder = Decoder::<()>::default();
            let ids = vec![1; count];
            decoder.push(&encode(&FromAcceptor::Took { ids }).unwrap(), []);
            assert_eq!(decoder.message::<FromAcceptor>().is_ok(), fits, "{count}");
        }
    }
}
