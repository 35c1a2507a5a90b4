//! The same bytes mean the same, wherever the network cuts them.

use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use skep_tests::http::Address;
use skep_tests::{Client, Skep, pause};

use crate::app;

/// What everything is made from: good requests, bad ones, and one behind the
/// other.
const BASES: [&str; 14] = [
    "GET /status/200 HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /status/200 HTTP/1.0\r\n\r\n",
    "HEAD /status/200 HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET http://a/status/200 HTTP/1.1\r\nhost: a\r\n\r\n",
    "POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\nx: y\r\n\r\nabc",
    "POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
     3\r\nabc\r\n0\r\n\r\n",
    "POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
     3;x=y\r\nabc\r\na\r\n0123456789\r\n0\r\nx-t: 1\r\n\r\n",
    "POST /upload HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\nabc",
    "POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n\
     0\r\n\r\n",
    "POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
    "POST /upload HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nx: y\n\r\n0\r\n\r\n",
    "GET /status/200 HTTP/1.1\nhost: a\n\n",
    "\r\n\r\nGET /status/200 HTTP/1.1\r\nhost: a\r\n\r\n",
    "GET /status/200 HTTP/1.1\r\nhost: a\r\n\r\n\r\nGET /status/201 HTTP/1.1\r\nhost: a\r\n\r\n",
];

/// Behind each of them: shows whether the end was found.
const LAST: &str = "GET /status/202 HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

const INPUTS: usize = 400;
const THREADS: usize = 16;

/// The same numbers every time: xorshift from a fixed seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(most).unwrap()).unwrap()
    }
}

/// A base with something put in, taken out or changed, and where it is cut.
fn inputs() -> Vec<(Vec<u8>, Vec<usize>)> {
    const PIECES: [&[u8]; 11] = [
        b"\n", b"\r", b" ", b"\t", b"\0", b":", b"\r\n", b"\n\r\n", b"0", b",", b";",
    ];
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let mut inputs = Vec::new();
    for number in 0..INPUTS {
        let mut bytes = BASES[number % BASES.len()].as_bytes().to_vec();
        bytes.extend(LAST.as_bytes());
        // The first of each base are as they are.
        if number >= BASES.len() * 3 {
            for _ in 0..=dice.below(2) {
                let at = dice.below(bytes.len());
                let piece = PIECES[dice.below(PIECES.len())];
                let taken = match dice.below(3) {
                    0 => at..at,
                    _ => at..at + 1,
                };
                let put = if dice.below(3) == 0 { &[][..] } else { piece };
                bytes.splice(taken, put.iter().copied());
            }
        }
        let mut cuts: Vec<_> = (0..=dice.below(2))
            .map(|_| 1 + dice.below(bytes.len() - 1))
            .collect();
        cuts.sort_unstable();
        inputs.push((bytes, cuts));
    }
    inputs
}

/// The statuses of what was let in. Whether a refusal is a 400 or a close may
/// depend on how much was there.
fn let_in(address: &Address, bytes: &[u8], cuts: &[usize]) -> Vec<String> {
    let mut client = Client::connect(address).unwrap();
    client.patience(Duration::from_secs(5)).unwrap();
    let mut from = 0;
    for to in cuts.iter().copied().chain([bytes.len()]) {
        // Who refuses early may close before all was sent.
        if client.send(&bytes[from..to]).is_err() {
            break;
        }
        from = to;
        if to < bytes.len() {
            pause(Duration::from_millis(8));
        }
    }
    let said = client.rest().unwrap();
    let said = String::from_utf8_lossy(&said).into_owned();
    said.match_indices("HTTP/1.")
        .filter_map(|(at, _)| said.get(at + 9..at + 12))
        .filter(|status| status.starts_with(['2', '3']))
        .map(str::to_owned)
        .collect()
}

#[test]
fn the_same_bytes_mean_the_same_wherever_they_are_cut() {
    let skep = Skep::config(&format!(
        "[listener.web]\naddress = \"127.0.0.1:0\"\nheader_timeout = \"300ms\"\n\
         body_timeout = \"300ms\"\n[pool.default]\nworkers = 1\n{}",
        app("a", "echo", "")
    ));
    let address = skep.address();
    let inputs = inputs();
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(String::new());
    thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while let Some((bytes, cuts)) = inputs.get(next.fetch_add(1, Relaxed)) {
                    let whole = let_in(&address, bytes, &[]);
                    let cut = let_in(&address, bytes, cuts);
                    if whole != cut {
                        let _ = writeln!(
                            wrong.lock().unwrap(),
                            "{}\n  at once {whole:?}, cut at {cuts:?} {cut:?}",
                            bytes.escape_ascii()
                        );
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "\n{wrong}");
}
