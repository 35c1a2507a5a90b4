//! Inputs: requests that somebody once got wrong, changed where it hurts.

use std::path::Path;

use super::machine::Server;

/// The same sequence every time, from a seed: xorshift.
#[derive(Clone, Debug)]
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        // Seeds that are small numbers must not begin alike, and none is 0.
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Less than `end`, or 0.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let wide = u128::from(self.next()) * (end as u128);
        usize::try_from(wide >> 64).expect("less than a usize")
    }

    fn one_of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }
}

/// What a mutation puts anywhere.
const BITS: &[&[u8]] = &[
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\r\n",
    b"\r\r\n",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"\0",
    b":",
    b",",
    b";",
    b"0",
    b"1",
    b"9",
    b"a",
    b"f",
    b"\x7f",
    b"\x0b",
    b"\x01",
    b"\x80",
    b"#",
    b"?",
    b"/",
    b"*",
    b"\"",
    b"\\",
    b"=",
    b"+",
    b"-",
    b"@",
    b"[",
    b"]",
    b"%",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"http://a",
    b"0\r\n\r\n",
    b"5\r\nhello\r\n",
    b"0x",
    b"00000000000000000",
    b"ffffffffffffffff",
    b"18446744073709551615",
];

/// What a mutation puts at the beginning of a line.
const LINES: &[&[u8]] = &[
    b"Host: a\r\n",
    b"Host: b\r\n",
    b"host:\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 5\r\n",
    b"content-length: 5, 5\r\n",
    b"Content-Length: 18446744073709551614\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"transfer-encoding: gzip, chunked\r\n",
    b"Transfer-Encoding: identity\r\n",
    b"Connection: close\r\n",
    b"Connection: keep-alive\r\n",
    b"connection: x, Close ,y\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"expect: 200-ok\r\n",
    b"TE: trailers\r\n",
    b"Trailer: X\r\n",
    b"X: y\r\n",
    b" folded\r\n",
    b"\tfolded\r\n",
    b"X-Forwarded-For: c\r\n",
    b"\r\n",
    b"\n",
    b"5\r\nhello\r\n",
    b"0\r\n",
    b"0\r\n\r\n",
    b"3;x=\"y\"\r\nabc\r\n",
    b"GET / HTTP/1.1\r\n",
    b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\nabc",
];

/// A longer input says nothing that a shorter one does not, but for limits.
const MAX_LEN: usize = 6000;

/// Makes one input after the other.
#[derive(Debug)]
pub(crate) struct Mutator {
    /// Those that are answered, and after them the others.
    seeds: Vec<Vec<u8>>,
    answered: usize,
    rng: Rng,
    text: Vec<u8>,
    cuts: Vec<usize>,
}

impl Mutator {
    /// From the files of a folder, in an order that does not depend on it.
    pub(crate) fn new(corpus: &Path, seed: u64) -> Self {
        let mut files: Vec<_> = std::fs::read_dir(corpus)
            .expect("the corpus is there")
            .map(|entry| entry.expect("it can be read").path())
            .collect();
        files.sort();
        let mut seeds: Vec<_> = files
            .iter()
            .map(|file| std::fs::read(file).expect("it can be read"))
            .collect();
        let now = std::time::Instant::now();
        let is_refused = |seed: &Vec<u8>| Server::hear(now, [&**seed]).reading.refused;
        seeds.sort_by_key(is_refused);
        let answered = seeds.partition_point(|seed| !is_refused(seed));
        assert!(answered > 50, "the corpus is whole");
        Self {
            answered,
            seeds,
            rng: Rng::new(seed),
            text: Vec::new(),
            cuts: Vec::new(),
        }
    }

    pub(crate) fn seeds(&self) -> &[Vec<u8>] {
        &self.seeds
    }

    pub(crate) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Makes the next input; [`text`](Self::text) has it then.
    pub(crate) fn advance(&mut self) {
        self.text.clear();
        let messages = self.rng.one_of(&[1, 1, 1, 2, 2, 3]);
        for _ in 0..messages {
            // What is refused hides all that is behind it.
            let among = match self.rng.below(4) {
                0 => self.seeds.len(),
                _ => self.answered,
            };
            let seed = self.rng.below(among);
            self.text.extend_from_slice(&self.seeds[seed]);
        }
        let changes = self.rng.one_of(&[0, 1, 1, 1, 1, 2, 2, 3, 6]);
        for _ in 0..changes {
            self.change();
        }
        self.text.truncate(MAX_LEN);
        self.cut();
    }

    pub(crate) fn text(&self) -> &[u8] {
        &self.text
    }

    /// The input as it comes in pieces.
    pub(crate) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.cuts.iter().copied());
        let ends = self.cuts.iter().copied().chain([self.text.len()]);
        begins.zip(ends).map(|(from, to)| &self.text[from..to])
    }

    fn cut(&mut self) {
        self.cuts.clear();
        let len = self.text.len();
        if len < 1000 && self.rng.below(16) == 0 {
            self.cuts.extend(1..len);
            return;
        }
        for _ in 0..self.rng.one_of(&[1, 1, 1, 2, 2, 3, 6]) {
            let cut = self.rng.below(len + 1);
            self.cuts.push(cut);
        }
        self.cuts.sort_unstable();
    }

    /// Where a line begins, or somewhere.
    fn place(&mut self) -> usize {
        let somewhere = self.rng.below(self.text.len() + 1);
        if self.rng.below(2) == 0 {
            return somewhere;
        }
        let feed = self.text[somewhere..]
            .iter()
            .position(|byte| *byte == b'\n');
        feed.map_or(somewhere, |feed| somewhere + feed + 1)
    }

    fn change(&mut self) {
        let len = self.text.len();
        if len == 0 {
            self.text.extend_from_slice(b"G");
            return;
        }
        let at = self.place();
        match self.rng.below(12) {
            0..3 => {
                let bits = self.rng.one_of(BITS);
                self.text.splice(at..at, bits.iter().copied());
            }
            3..5 => {
                let line = self.rng.one_of(LINES);
                self.text.splice(at..at, line.iter().copied());
            }
            5 => {
                let bits = self.rng.one_of(BITS);
                let to = len.min(at + bits.len());
                self.text.splice(at..to, bits.iter().copied());
            }
            // Bytes are lost, mostly few.
            6 | 7 => {
                let many = self.rng.one_of(&[1, 1, 1, 2, 2, 4, 20]);
                self.text.drain(at..len.min(at + many));
            }
            // A line, or a part of one, is repeated, here or elsewhere.
            8 => {
                let rest = &self.text[at..];
                let feed = rest.iter().position(|byte| *byte == b'\n');
                let part = rest[..feed.map_or(rest.len(), |feed| feed + 1)].to_vec();
                let to = if self.rng.below(2) == 0 {
                    at
                } else {
                    self.place()
                };
                let times = self.rng.one_of(&[1, 1, 1, 2, 45]);
                if part.len() * times < MAX_LEN {
                    self.text.splice(to..to, part.repeat(times));
                }
            }
            // One byte is another.
            9 => {
                let at = at.min(len - 1);
                let bit = self.rng.below(8);
                self.text[at] ^= 1 << bit;
            }
            // A number is another.
            10 => {
                let digit = |byte: &u8| byte.is_ascii_hexdigit();
                if let Some(found) = self.text[at..].iter().position(digit) {
                    self.text[at + found] = self.rng.one_of(b"0123456789abcdefABCDEF");
                }
            }
            // A part of another input takes the place of the rest, or of nothing.
            _ => {
                let seed = self.rng.below(self.seeds.len());
                let from = self.rng.below(self.seeds[seed].len());
                let end = if self.rng.below(2) == 0 { at } else { len };
                self.text
                    .splice(at..end, self.seeds[seed][from..].iter().copied());
            }
        }
    }
}
