//! SHA-256 digests: what an artifact is found by and checked against.

use std::fmt::{self, Write as _};
use std::io::{self, Read, Write};
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

/// A SHA-256 digest; displayed as lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Digest([u8; 32]);

/// A text that is not the display of a [`Digest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not 64 digits of lower-case hexadecimal")]
pub(crate) struct NoDigest;

/// Bytes read at a time: large enough that system calls do not show, small
/// enough for a thread's stack to stay as it is.
const PIECE: usize = 64 << 10;

impl Digest {
    /// Reads to the end of `from`, or to one byte over `limit`, and copies what
    /// was read to `to`. Returns the digest and the number of bytes; a number
    /// over `limit` means that there was more.
    pub(crate) fn of_copy(
        from: &mut impl Read,
        to: &mut impl Write,
        limit: u64,
    ) -> io::Result<(Self, u64)> {
        let mut hasher = Sha256::new();
        let mut from = from.take(limit.saturating_add(1));
        let mut piece = vec![0; PIECE];
        let mut size = 0;
        loop {
            let count = match from.read(&mut piece) {
                Ok(0) => return Ok((Self(hasher.finalize().into()), size)),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            hasher.update(&piece[..count]);
            to.write_all(&piece[..count])?;
            size += count as u64;
        }
    }

    /// The digest of everything that `from` still holds, and its size; as
    /// [`Digest::of_copy`] without the copy.
    pub(crate) fn of(from: &mut impl Read, limit: u64) -> io::Result<(Self, u64)> {
        Self::of_copy(from, &mut io::sink(), limit)
    }
}

impl FromStr for Digest {
    type Err = NoDigest;

    fn from_str(text: &str) -> Result<Self, NoDigest> {
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(NoDigest),
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != 32 || !rest.is_empty() {
            return Err(NoDigest);
        }
        let mut digest = [0; 32];
        for (byte, [high, low]) in digest.iter_mut().zip(pairs) {
            *byte = digit(*high)? << 4 | digit(*low)?;
        }
        Ok(Self(digest))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        for byte in &self.0[..4] {
            write!(f, "{byte:02x}")?;
        }
        f.write_char('…')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_those_of_sha256sum() {
        let (digest, size) = Digest::of(&mut &b"abc"[..], 10).unwrap();
        assert_eq!(size, 3);
        assert_eq!(
            digest.to_string(),
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
    }

    #[test]
    fn digests_are_read_as_they_are_shown() {
        let (digest, _) = Digest::of(&mut &b"abc"[..], 10).unwrap();
        let text = digest.to_string();
        assert_eq!(text.parse(), Ok(digest));
        for bad in [&text[1..], &text.to_uppercase(), "../../etc/passwd", ""] {
            assert_eq!(bad.parse::<Digest>(), Err(NoDigest));
        }
    }

    #[test]
    fn what_is_over_the_limit_is_not_read_to_its_end() {
        let (_, size) = Digest::of(&mut io::repeat(0), 1 << 20).unwrap();
        assert_eq!(size, (1 << 20) + 1);
    }
}
