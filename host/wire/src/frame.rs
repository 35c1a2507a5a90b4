//! Framing on a stream socket that also carries file descriptors.
//!
//! ```text
//! 0       2        3      4          8
//! +-------+--------+------+----------+---------------- - -
//! | "SK"  | version| fds  | length   | JSON, `length` bytes
//! +-------+--------+------+----------+---------------- - -
//! ```
//! `length` is little-endian. The version comes first so that another
//! version's reader can say so instead of misreading the rest. Descriptors
//! arrive beside the bytes and in order; the count says how many of them are
//! this message's.

use std::collections::VecDeque;

use crate::{Message, text};

/// The version of every message between skep's own processes. They are always
/// of one binary until an upgrade in place exists, so there is one number.
pub const VERSION: u8 = 1;

/// Most bytes of a message that the primary sends: a plan of 10,000 apps is
/// about 4 MiB, an app with a large environment a few KiB.
pub const MAX_PLAN: usize = 8 << 20;

/// Most descriptors of one message: the kernel's own limit.
pub const MAX_FDS: usize = 253;

const HEADER: usize = 8;
const MAGIC: [u8; 2] = *b"SK";

/// Bytes or descriptors that are no message of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The stream does not start with our magic.
    #[error("not a skep message")]
    NotOurs,
    /// The other side speaks another version.
    #[error("message version {0}, expected {VERSION}")]
    Version(u8),
    /// The message is larger than [`Message::MOST`].
    #[error("message of {bytes} bytes is over the limit of {most}")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        most: usize,
    },
    /// The message carries more than [`MAX_FDS`] descriptors.
    #[error("message with {0} descriptors is over the limit of {MAX_FDS}")]
    TooManyFds(usize),
    /// The header's count is not that of the message.
    #[error("message {name} with {got} descriptors, expected {expected}")]
    FdCount {
        /// The message.
        name: &'static str,
        /// What the header or the socket said.
        got: usize,
        /// What the message needs.
        expected: usize,
    },
    /// The payload is no such message.
    #[error("malformed message: {0}")]
    Malformed(String),
}

/// One message as bytes. The caller sends [`Message::fds`] descriptors with
/// the first of them.
///
/// # Errors
///
/// [`FrameError::TooLarge`] and [`FrameError::TooManyFds`]: nothing was sent.
pub fn encode<M: Message>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut frame = vec![0; HEADER];
    serde_json::to_writer(&mut frame, message)
        .map_err(|error| FrameError::Malformed(text::cut(error.to_string())))?;
    let bytes = frame.len() - HEADER;
    let most = M::MOST;
    if bytes > most {
        return Err(FrameError::TooLarge { bytes, most });
    }
    let fds = message.fds();
    if fds > MAX_FDS {
        return Err(FrameError::TooManyFds(fds));
    }
    frame[..2].copy_from_slice(&MAGIC);
    frame[2] = VERSION;
    frame[3] = u8::try_from(fds).expect("MAX_FDS fits a byte");
    let length = u32::try_from(bytes).expect("MOST fits 32 bits");
    frame[4..HEADER].copy_from_slice(&length.to_le_bytes());
    Ok(frame)
}

/// Puts messages together from what a socket delivers, in whatever pieces.
/// `F` is the descriptor type, so that this crate needs none.
#[derive(Debug)]
pub struct Decoder<F> {
    bytes: VecDeque<u8>,
    fds: VecDeque<F>,
}

impl<F> Default for Decoder<F> {
    fn default() -> Self {
        Self {
            bytes: VecDeque::new(),
            fds: VecDeque::new(),
        }
    }
}

impl<F> Decoder<F> {
    /// Takes what one read delivered.
    pub fn push(&mut self, bytes: &[u8], fds: impl IntoIterator<Item = F>) {
        self.bytes.extend(bytes);
        self.fds.extend(fds);
    }

    /// The next whole message with its descriptors, or `None` while more is
    /// needed. After an error the channel is of no more use.
    ///
    /// # Errors
    ///
    /// What is wrong with the stream.
    pub fn message<M: Message>(&mut self) -> Result<Option<(M, Vec<F>)>, FrameError> {
        if self.fds.len() > MAX_FDS {
            return Err(FrameError::TooManyFds(self.fds.len()));
        }
        if self.bytes.len() < HEADER {
            return Ok(None);
        }
        let head = &self.bytes.make_contiguous()[..HEADER];
        if head[..2] != MAGIC {
            return Err(FrameError::NotOurs);
        }
        if head[2] != VERSION {
            return Err(FrameError::Version(head[2]));
        }
        let announced = usize::from(head[3]);
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        if length > M::MOST {
            return Err(FrameError::TooLarge {
                bytes: length,
                most: M::MOST,
            });
        }
        if self.bytes.len() < HEADER + length {
            return Ok(None);
        }
        let payload = &self.bytes.make_contiguous()[HEADER..HEADER + length];
        let message: M = serde_json::from_slice(payload)
            // What it quotes may be the whole message.
            .map_err(|error| FrameError::Malformed(text::cut(error.to_string())))?;
        self.bytes.drain(..HEADER + length);
        let wrong = |got| FrameError::FdCount {
            name: message.name(),
            got,
            expected: message.fds(),
        };
        if announced != message.fds() {
            return Err(wrong(announced));
        }
        if self.fds.len() < announced {
            return Err(wrong(self.fds.len()));
        }
        let fds = self.fds.drain(..announced).collect();
        Ok(Some((message, fds)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{FromWorker, ToBuilder, ToWorker};

    #[test]
    fn messages_survive_any_cut() {
        let mut stream = encode(&ToWorker::Drain).unwrap();
        stream.extend(encode(&ToWorker::Stop).unwrap());
        for cut in 0..stream.len() {
            let mut decoder = Decoder::<()>::default();
            let mut got = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                decoder.push(part, []);
                while let Some((message, fds)) = decoder.message::<ToWorker>().unwrap() {
                    assert!(fds.is_empty());
                    got.push(message);
                }
            }
            assert_eq!(got, [ToWorker::Drain, ToWorker::Stop]);
        }
    }

    #[test]
    fn descriptors_belong_to_their_message() {
        let mut decoder = Decoder::default();
        decoder.push(&encode(&ToBuilder::Fingerprint).unwrap(), []);
        decoder.push(&encode(&ToBuilder::Compile).unwrap(), ["in", "out"]);
        assert_eq!(
            decoder.message::<ToBuilder>().unwrap(),
            Some((ToBuilder::Fingerprint, vec![]))
        );
        assert_eq!(
            decoder.message::<ToBuilder>().unwrap(),
            Some((ToBuilder::Compile, vec!["in", "out"]))
        );
        decoder.push(&encode(&ToBuilder::Compile).unwrap(), ["in"]);
        assert!(matches!(
            decoder.message::<ToBuilder>(),
            Err(FrameError::FdCount {
                got: 1,
                expected: 2,
                ..
            })
        ));
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let mut decoder = Decoder::<()>::default();
        decoder.push(b"GET / HTTP/1.1\r\n", []);
        assert_eq!(decoder.message::<ToWorker>(), Err(FrameError::NotOurs));

        let mut frame = encode(&FromWorker::Drained).unwrap();
        frame[2] = 9;
        let mut decoder = Decoder::<()>::default();
        decoder.push(&frame, []);
        assert_eq!(decoder.message::<FromWorker>(), Err(FrameError::Version(9)));

        let mut frame = encode(&FromWorker::Drained).unwrap();
        frame[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        let mut decoder = Decoder::<()>::default();
        decoder.push(&frame, []);
        assert!(matches!(
            decoder.message::<FromWorker>(),
            Err(FrameError::TooLarge { .. })
        ));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..64), 0..8),
            with_header: bool,
        ) {
            let mut decoder = Decoder::<u8>::default();
            if with_header {
                decoder.push(&[b'S', b'K', VERSION, 0], []);
            }
            for piece in pieces {
                decoder.push(&piece, [0]);
                if decoder.message::<ToWorker>().is_err() {
                    break;
                }
            }
        }
    }
}
