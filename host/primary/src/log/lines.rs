//! Bytes that come in pieces, as lines of bounded length.

/// Bytes of the longest line that is handed out whole: a guest's line of 8 KiB
/// of which every byte is quoted, with the rest of its record.
pub(super) const LONGEST: usize = 64 << 10;

/// A line, or what there is of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// All of it, without its newline.
    Whole(&'a [u8]),
    /// Some of it: it is longer than [`LONGEST`], or has no end.
    Part(&'a [u8]),
}

/// What has come of a line whose end has not. Takes no memory between lines.
#[derive(Debug, Default)]
pub(super) struct Lines {
    begun: Vec<u8>,
    /// Whether parts of the line were handed out already.
    cut: bool,
}

impl Lines {
    /// Takes a piece; hands out the lines that end in it, and parts of those
    /// that are too long.
    pub(super) fn push(&mut self, piece: &[u8], mut each: impl FnMut(Line<'_>)) {
        for line in piece.split_inclusive(|byte| *byte == b'\n') {
            match line.strip_suffix(b"\n") {
                Some(line) if self.begun.is_empty() && !self.cut => each(Line::Whole(line)),
                Some(end) => {
                    self.add(end, &mut each);
                    self.end(&mut each);
                }
                None => self.add(line, &mut each),
            }
        }
    }

    /// No more will come: hands out what has no end.
    pub(super) fn finish(&mut self, mut each: impl FnMut(Line<'_>)) {
        if !self.begun.is_empty() {
            each(Line::Part(&self.begun));
        }
        *self = Self::default();
    }

    fn add(&mut self, mut more: &[u8], each: &mut impl FnMut(Line<'_>)) {
        while self.begun.len() + more.len() > LONGEST {
            let (fits, rest) = more.split_at(LONGEST - self.begun.len());
            self.begun.extend_from_slice(fits);
            each(Line::Part(&self.begun));
            self.begun.clear();
            self.cut = true;
            more = rest;
        }
        self.begun.extend_from_slice(more);
    }

    fn end(&mut self, each: &mut impl FnMut(Line<'_>)) {
        match self.cut {
            true if self.begun.is_empty() => {}
            true => each(Line::Part(&self.begun)),
            false => each(Line::Whole(&self.begun)),
        }
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(pieces: &[&[u8]]) -> Vec<(bool, Vec<u8>)> {
        let (mut lines, mut got) = (Lines::default(), Vec::new());
        let mut keep = |line: Line<'_>| {
            got.push(match line {
                Line::Whole(line) => (true, line.to_vec()),
                Line::Part(part) => (false, part.to_vec()),
            });
        };
        for piece in pieces {
            lines.push(piece, &mut keep);
            assert!(lines.begun.len() <= LONGEST);
        }
        lines.finish(&mut keep);
        assert_eq!(lines.begun.capacity(), 0);
        got
    }

    #[test]
    fn lines_are_the_same_however_they_are_cut() {
        let text = b"one\n\ntwo\nthree\nrest";
        let expected: Vec<_> = [&b"one"[..], b"", b"two", b"three"]
            .map(|line| (true, line.to_vec()))
            .into_iter()
            .chain([(false, b"rest".to_vec())])
            .collect();
        for one in 0..=text.len() {
            for two in one..=text.len() {
                let pieces = [&text[..one], &text[one..two], &text[two..]];
                assert_eq!(all(&pieces), expected, "{one} {two}");
            }
        }
    }

    #[test]
    fn a_line_that_does_not_end_is_handed_out_in_parts() {
        let long = vec![b'x'; LONGEST];
        assert_eq!(all(&[&long, b"\n"]), [(true, long.clone())]);
        let parts = [(false, long.clone()), (false, b"x".to_vec())];
        assert_eq!(all(&[&long, b"x\n"]), parts);
        assert_eq!(all(&[&long, b"x"]), parts);
        let endless = all(&[&long, &long, &long, b"\nnext\n"]);
        assert_eq!(endless.len(), 4);
        assert!(endless[..3].iter().all(|(whole, _)| !whole));
        assert_eq!(endless[3], (true, b"next".to_vec()));
    }
}
