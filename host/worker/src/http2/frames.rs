//! Which frames a client of HTTP/2 may send, and how many of each kind.
//!
//! Pure: heads of frames, times and bytes in, verdicts out. Nothing is decoded
//! but the nine bytes before each frame, and the first bytes of trailers.

use std::time::Instant;

/// Bytes before each frame (RFC 9113 §4.1).
pub(super) const HEADER: usize = 9;

/// Frames that move nothing (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, DATA
/// without bytes, unknown ones) that a connection may send at once. A browser
/// sends a dozen, a client that downloads one for each piece.
const IDLE_FRAMES: i64 = 1000;

/// So many more for each stream that it begins.
const IDLE_FRAMES_A_STREAM: i64 = 20;

/// So many more a second; gRPC clients send a PING every few seconds.
const IDLE_FRAMES_A_SECOND: i64 = 50;

/// One more for so many bytes that it takes: a client may say with each piece
/// that it has room again.
const BYTES_AN_IDLE_FRAME: usize = 512;

/// Streams that a connection may reset at once. Browsers reset what a person has
/// scrolled by; an attack resets all ("rapid reset", CVE-2023-44487).
const RESETS: i64 = 200;

/// What a stream that is begun adds to the budget of resets, of which a reset
/// takes two: half of all streams may be reset for ever.
const RESETS_A_STREAM: i64 = 1;

/// What is wrong with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Abuse {
    #[error("the first frame is not SETTINGS")]
    NoSettings,
    #[error("too many frames that move nothing")]
    IdleFrames,
    #[error("too many streams were reset")]
    Resets,
    #[error("trailers with a pseudo-field")]
    PseudoTrailer,
    #[error("trailers that are too large")]
    LargeTrailers,
}

/// A frame's type (RFC 9113 §6).
mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const SETTINGS: u8 = 4;
    pub(super) const CONTINUATION: u8 = 9;
}

/// A frame's flags.
mod flag {
    pub(super) const ACK: u8 = 0x1;
    pub(super) const PADDED: u8 = 0x8;
    pub(super) const PRIORITY: u8 = 0x20;
}

/// Counts frames. Pure: headers, times and bytes in, verdicts out.
#[derive(Debug)]
pub(super) struct Watch {
    began: bool,
    /// An acknowledgement that is not h2's to see.
    swallow_ack: bool,
    idle_frames: i64,
    resets: i64,
    filled: Instant,
    newest: u32,
    /// Bytes of the trailers that are on their way.
    trailers: Option<usize>,
    max_head: usize,
}

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Pass,
    Swallow,
    /// It passes if what it holds does not begin with a pseudo-field.
    PassTrailers,
}

/// The nine bytes before a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FrameHead {
    pub(super) length: usize,
    kind: u8,
    pub(super) flags: u8,
    stream: u32,
}

impl FrameHead {
    pub(super) fn parse(bytes: [u8; HEADER]) -> Self {
        let [a, b, c, kind, flags, s, t, u, v] = bytes;
        let length = u32::from_be_bytes([0, a, b, c]);
        Self {
            length: usize::try_from(length).unwrap_or(usize::MAX),
            kind,
            flags,
            stream: u32::from_be_bytes([s & 0x7f, t, u, v]),
        }
    }
}

impl Watch {
    pub(super) fn new(max_head: usize, greeted: bool, now: Instant) -> Self {
        Self {
            began: false,
            swallow_ack: greeted,
            idle_frames: IDLE_FRAMES,
            resets: RESETS,
            filled: now,
            newest: 0,
            trailers: None,
            max_head,
        }
    }

    /// The client took so many bytes.
    pub(super) fn took(&mut self, bytes: usize) {
        let more = i64::try_from(bytes.div_ceil(BYTES_AN_IDLE_FRAME)).unwrap_or(i64::MAX);
        self.idle_frames = self.idle_frames.saturating_add(more).min(IDLE_FRAMES);
    }

    pub(super) fn frame(&mut self, head: FrameHead, now: Instant) -> Result<Verdict, Abuse> {
        let acknowledges = head.kind == kind::SETTINGS && head.flags & flag::ACK != 0;
        if !self.began {
            if head.kind != kind::SETTINGS || acknowledges {
                return Err(Abuse::NoSettings);
            }
            self.began = true;
        }
        if acknowledges && std::mem::take(&mut self.swallow_ack) {
            return Ok(Verdict::Swallow);
        }
        match head.kind {
            kind::DATA if head.length > 0 => {}
            kind::HEADERS if head.stream > self.newest => {
                self.newest = head.stream;
                self.trailers = None;
                self.idle_frames = (self.idle_frames + IDLE_FRAMES_A_STREAM).min(IDLE_FRAMES);
                self.resets = (self.resets + RESETS_A_STREAM).min(RESETS);
            }
            kind::HEADERS => {
                self.trailers = Some(0);
                self.trailer_bytes(head.length)?;
                return Ok(Verdict::PassTrailers);
            }
            kind::CONTINUATION => self.trailer_bytes(head.length)?,
            kind::RST_STREAM => {
                self.resets -= 2;
                if self.resets < 0 {
                    return Err(Abuse::Resets);
                }
            }
            _ => self.idle_frame(now)?,
        }
        Ok(Verdict::Pass)
    }

    fn trailer_bytes(&mut self, bytes: usize) -> Result<(), Abuse> {
        if let Some(sum) = &mut self.trailers {
            *sum += bytes;
            if *sum > self.max_head {
                return Err(Abuse::LargeTrailers);
            }
        }
        Ok(())
    }

    fn idle_frame(&mut self, now: Instant) -> Result<(), Abuse> {
        self.idle_frames -= 1;
        if self.idle_frames >= 0 {
            return Ok(());
        }
        let seconds = now.saturating_duration_since(self.filled).as_secs();
        if seconds == 0 {
            return Err(Abuse::IdleFrames);
        }
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        self.filled = now;
        self.idle_frames = IDLE_FRAMES_A_SECOND
            .saturating_mul(seconds)
            .min(IDLE_FRAMES);
        Ok(())
    }
}

/// Whether a block of trailers begins with a pseudo-field (RFC 9113 §8.1): h2
/// leaves such fields out without a word. `None` if too little of it is there.
/// One that is known only by its place in the dynamic table is not seen.
pub(super) fn begins_with_pseudo(flags: u8, payload: &[u8], length: usize) -> Option<bool> {
    /// Names of pseudo-fields in the static table (RFC 7541, appendix A).
    const PSEUDO: std::ops::RangeInclusive<u8> = 1..=14;
    let mut at = usize::from(flags & flag::PADDED != 0);
    if flags & flag::PRIORITY != 0 {
        at += 5;
    }
    // Sizes of the table may come first; each is a byte or a few.
    while payload.get(at).is_some_and(|byte| byte & 0xe0 == 0x20) {
        let long = payload[at] & 0x1f == 0x1f;
        at += 1;
        while long && payload.get(at).is_some_and(|byte| byte & 0x80 != 0) {
            at += 1;
        }
        at += usize::from(long);
    }
    if at + 3 > payload.len() && payload.len() < length {
        return None;
    }
    let Some(first) = payload.get(at) else {
        return Some(false);
    };
    let (index, literal) = match first {
        byte if byte & 0x80 != 0 => (byte & 0x7f, false),
        byte if byte & 0x40 != 0 => (byte & 0x3f, true),
        byte => (byte & 0x0f, true),
    };
    if literal && index == 0 {
        let name = payload.get(at + 1).zip(payload.get(at + 2));
        return Some(name.is_some_and(|(length, first)| match length & 0x80 {
            0 => *first == b':',
            // `:` in Huffman's code are the seven bits 1011100.
            _ => first >> 1 == 0b101_1100,
        }));
    }
    Some(PSEUDO.contains(&index))
}

/// What is known of a frame whose head is there.
pub(super) enum Judged {
    /// Too little of it is there.
    More,
    Abuse(Abuse),
    Is(Verdict),
}

impl Watch {
    /// Judges a frame; `pseudo` says whether it would begin with a pseudo-field
    /// if it were trailers, if that is known.
    pub(super) fn judge(&mut self, frame: FrameHead, pseudo: Option<bool>) -> Judged {
        let is_trailers = frame.kind == kind::HEADERS && self.began && frame.stream <= self.newest;
        if is_trailers && pseudo.is_none() {
            return Judged::More;
        }
        match self.frame(frame, Instant::now()) {
            Ok(Verdict::PassTrailers) if pseudo == Some(true) => {
                Judged::Abuse(Abuse::PseudoTrailer)
            }
            Ok(verdict) => Judged::Is(verdict),
            Err(abuse) => Judged::Abuse(abuse),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn head(kind: u8, flags: u8, stream: u32, length: usize) -> FrameHead {
        FrameHead {
            length,
            kind,
            flags,
            stream,
        }
    }

    fn open(greeted: bool, now: Instant) -> Watch {
        let mut watch = Watch::new(1000, greeted, now);
        assert_eq!(watch.frame(head(4, 0, 0, 0), now), Ok(Verdict::Pass));
        watch
    }

    #[test]
    fn a_connection_begins_with_settings() {
        let now = Instant::now();
        for first in [head(6, 0, 0, 8), head(4, 1, 0, 0), head(1, 5, 1, 10)] {
            let mut watch = Watch::new(1000, false, now);
            assert_eq!(watch.frame(first, now), Err(Abuse::NoSettings));
        }
        // Of two acknowledgements the first is the dispatcher's.
        let mut watch = open(true, now);
        assert_eq!(watch.frame(head(4, 1, 0, 0), now), Ok(Verdict::Swallow));
        assert_eq!(watch.frame(head(4, 1, 0, 0), now), Ok(Verdict::Pass));
    }

    #[test]
    fn floods_end_and_ordinary_use_does_not() {
        let now = Instant::now();
        for flood in [
            head(6, 0, 0, 8),
            head(4, 0, 0, 6),
            head(0, 0, 1, 0),
            head(8, 0, 0, 4),
            head(0x77, 0, 0, 1),
        ] {
            let mut watch = open(false, now);
            let passed = (0..2000)
                .take_while(|_| watch.frame(flood, now).is_ok())
                .count();
            assert!((900..=1000).contains(&passed), "{flood:?}: {passed}");
            // Time and work fill it again.
            let later = now + Duration::from_secs(2);
            assert!(watch.frame(flood, later).is_ok());
        }
        let mut watch = open(false, now);
        for stream in 0..10_000 {
            watch.frame(head(1, 5, 1 + 2 * stream, 10), now).unwrap();
            for _ in 0..10 {
                watch.took(16 << 10);
                watch.frame(head(8, 0, 0, 4), now).unwrap();
            }
        }
        let mut watch = open(false, now);
        let resets = (0..10_000).take_while(|stream| {
            watch.frame(head(1, 5, 1 + 2 * stream, 10), now).unwrap();
            watch.frame(head(3, 0, 1 + 2 * stream, 4), now).is_ok()
        });
        assert!((150..250).contains(&resets.count()));
    }

    #[test]
    fn trailers_are_bounded_and_have_no_pseudo_fields() {
        let now = Instant::now();
        let mut watch = open(false, now);
        watch.frame(head(1, 4, 1, 10), now).unwrap();
        assert_eq!(
            watch.frame(head(1, 1, 1, 900), now),
            Ok(Verdict::PassTrailers)
        );
        assert_eq!(
            watch.frame(head(9, 4, 1, 101), now),
            Err(Abuse::LargeTrailers)
        );

        let pseudo = |flags, payload: &[u8]| begins_with_pseudo(flags, payload, payload.len());
        assert_eq!(pseudo(0, b"\x84"), Some(true));
        assert_eq!(pseudo(0, b"\x44\x02/x"), Some(true));
        assert_eq!(pseudo(0, b"\x00\x05:path\x02/x"), Some(true));
        assert_eq!(pseudo(0, b"\x40\x84\xb9\x58\xd3\x3f\x02/x"), Some(true));
        assert_eq!(pseudo(8, b"\x00\x84"), Some(true));
        assert_eq!(pseudo(0x20, b"\0\0\0\0\0\x84"), Some(true));
        assert_eq!(pseudo(0, b"\x3f\xe1\x1f\x84"), Some(true));
        assert_eq!(pseudo(0, b"\x00\x03x-t\x011"), Some(false));
        assert_eq!(pseudo(0, b"\x90"), Some(false));
        assert_eq!(pseudo(0, b""), Some(false));
        assert_eq!(begins_with_pseudo(0, b"\x00", 10), None);
    }
}
