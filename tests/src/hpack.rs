//! HPACK (RFC 7541), as much of it as a client of tests needs: literals to send,
//! and whatever skep's encoder makes of its answers to read.

use std::collections::VecDeque;

/// A field: a name and a value.
pub type Field = (String, String);

/// The encoding of one field as it is: no table, no Huffman code, and no check
/// of anything.
#[must_use]
pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        push_length(&mut block, text.len());
        block.extend(text);
    }
    block
}

/// Appends the length of a plain text: an integer with a prefix of 7 bits.
fn push_length(block: &mut Vec<u8>, length: usize) {
    let byte = |value: usize| u8::try_from(value).expect("it is below 256");
    let Some(mut left) = length.checked_sub(127) else {
        block.push(byte(length));
        return;
    };
    block.push(127);
    while left >= 128 {
        block.push(byte(left % 128 + 128));
        left /= 128;
    }
    block.push(byte(left));
}

/// Reads header blocks, in the order in which they came.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The newest first. Nothing is evicted: a test asks for less than fills
    /// the table, and what was evicted is never referred to.
    dynamic: VecDeque<Field>,
}

impl Decoder {
    /// The fields of a block; `None` if it is malformed.
    pub fn fields(&mut self, block: &[u8]) -> Option<Vec<Field>> {
        let mut input = Input(block);
        let mut fields = Vec::new();
        while let Some(first) = input.0.first().copied() {
            match first {
                0x80.. => {
                    let index = input.number(7)?;
                    fields.push(self.entry(index)?);
                }
                0x40..0x80 => {
                    let field = self.literal(&mut input, 6)?;
                    self.dynamic.push_front(field.clone());
                    fields.push(field);
                }
                // The table's size.
                0x20..0x40 => {
                    input.number(5)?;
                }
                0..0x20 => fields.push(self.literal(&mut input, 4)?),
            }
        }
        Some(fields)
    }

    fn literal(&self, input: &mut Input<'_>, bits: u32) -> Option<Field> {
        let name = match input.number(bits)? {
            0 => input.text()?,
            index => self.entry(index)?.0,
        };
        Some((name, input.text()?))
    }

    fn entry(&self, index: usize) -> Option<Field> {
        let index = index.checked_sub(1)?;
        match STATIC.get(index) {
            Some((name, value)) => Some(((*name).to_owned(), (*value).to_owned())),
            None => self.dynamic.get(index - STATIC.len()).cloned(),
        }
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// An integer with a prefix of so many bits.
    fn number(&mut self, bits: u32) -> Option<usize> {
        let most = (1_usize << bits) - 1;
        let mut value = usize::from(self.byte()?) & most;
        if value < most {
            return Some(value);
        }
        let mut shift = 0;
        loop {
            let byte = self.byte()?;
            value = value.checked_add((usize::from(byte) & 127).checked_shl(shift)?)?;
            shift += 7;
            if byte < 128 {
                return Some(value);
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        let coded = self.0.first()? & 0x80 != 0;
        let length = self.number(7)?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        if coded {
            return huffman(text);
        }
        Some(String::from_utf8_lossy(text).into_owned())
    }
}

fn huffman(coded: &[u8]) -> Option<String> {
    let mut text = String::new();
    let (mut code, mut length) = (0_u32, 0_u8);
    let bits = coded
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| (byte >> at) & 1));
    for bit in bits {
        code = (code << 1) | u32::from(bit);
        length += 1;
        if let Some(found) = HUFFMAN.iter().position(|entry| *entry == (code, length)) {
            text.push(char::from(b' ' + u8::try_from(found).ok()?));
            (code, length) = (0, 0);
        }
        if length > LONGEST {
            return None;
        }
    }
    Some(text)
}

/// The longest code of a printable character.
const LONGEST: u8 = 19;

/// The codes and their lengths in bits of the printable characters of ASCII.
#[rustfmt::skip]
const HUFFMAN: [(u32, u8); 95] = [
    (0x14, 6), (0x3f8, 10), (0x3f9, 10), (0xffa, 12), (0x1ff9, 13), (0x15, 6), (0xf8, 8),
    (0x7fa, 11), (0x3fa, 10), (0x3fb, 10), (0xf9, 8), (0x7fb, 11), (0xfa, 8), (0x16, 6), (0x17, 6),
    (0x18, 6), (0x0, 5), (0x1, 5), (0x2, 5), (0x19, 6), (0x1a, 6), (0x1b, 6), (0x1c, 6), (0x1d, 6),
    (0x1e, 6), (0x1f, 6), (0x5c, 7), (0xfb, 8), (0x7ffc, 15), (0x20, 6), (0xffb, 12), (0x3fc, 10),
    (0x1ffa, 13), (0x21, 6), (0x5d, 7), (0x5e, 7), (0x5f, 7), (0x60, 7), (0x61, 7), (0x62, 7),
    (0x63, 7), (0x64, 7), (0x65, 7), (0x66, 7), (0x67, 7), (0x68, 7), (0x69, 7), (0x6a, 7),
    (0x6b, 7), (0x6c, 7), (0x6d, 7), (0x6e, 7), (0x6f, 7), (0x70, 7), (0x71, 7), (0x72, 7),
    (0xfc, 8), (0x73, 7), (0xfd, 8), (0x1ffb, 13), (0x7fff0, 19), (0x1ffc, 13), (0x3ffc, 14),
    (0x22, 6), (0x7ffd, 15), (0x3, 5), (0x23, 6), (0x4, 5), (0x24, 6), (0x5, 5), (0x25, 6),
    (0x26, 6), (0x27, 6), (0x6, 5), (0x74, 7), (0x75, 7), (0x28, 6), (0x29, 6), (0x2a, 6), (0x7, 5),
    (0x2b, 6), (0x76, 7), (0x2c, 6), (0x8, 5), (0x9, 5), (0x2d, 6), (0x77, 7), (0x78, 7), (0x79, 7),
    (0x7a, 7), (0x7b, 7), (0x7ffe, 15), (0x7fc, 11), (0x3ffd, 14), (0x1ffd, 13),
];

/// Appendix A.
#[rustfmt::skip]
const STATIC: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"),
    (":path", "/index.html"), (":scheme", "http"), (":scheme", "https"), (":status", "200"),
    (":status", "204"), (":status", "206"), (":status", "304"), (":status", "400"),
    (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""),
    ("accept", ""), ("access-control-allow-origin", ""), ("age", ""), ("allow", ""),
    ("authorization", ""), ("cache-control", ""), ("content-disposition", ""),
    ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""),
    ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""),
    ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""),
    ("via", ""), ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        // Appendix C.6: two responses of one connection.
        let mut decoder = Decoder::default();
        let first = decoder
            .fields(&bytes(
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff\
                 6e919d29ad171863c78f0b97c8e9ae82ae43d3",
            ))
            .unwrap();
        assert_eq!(first[0], (":status".into(), "302".into()));
        assert_eq!(first[1], ("cache-control".into(), "private".into()));
        let location = "https://www.example.com".to_owned();
        assert_eq!(first[3], ("location".into(), location));
        let second = decoder.fields(&bytes("4883640effc1c0bf")).unwrap();
        assert_eq!(second[0], (":status".into(), "307".into()));
        assert_eq!(&second[1..], &first[1..]);
    }

    #[test]
    fn what_is_sent_is_read() {
        let block = literal(b"x-name", &[b'v'; 300]);
        let fields = Decoder::default().fields(&block).unwrap();
        assert_eq!(fields, [("x-name".into(), "v".repeat(300))]);
    }
}
