//! Where guests must not get to, and how URLs fall apart.
//!
//! What is here checks nothing: to refuse is the host's business.

use std::fmt::Debug;

/// Places that no guest may reach unless its operator has listed them, under
/// all the names that a careless check lets pass.
pub const FORBIDDEN: [&str; 44] = [
    // The metadata of clouds.
    "http://169.254.169.254/latest/meta-data/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://metadata.google.internal./",
    "http://[fd00:ec2::254]/latest/meta-data/",
    "http://100.100.100.200/latest/meta-data/",
    "http://[::ffff:169.254.169.254]/",
    "http://2852039166/",
    // This machine.
    "http://localhost/",
    "http://localhost./",
    "http://LOCALHOST:8080/",
    "http://app.localhost/",
    "http://127.0.0.1/",
    "http://127.0.0.1:8080/",
    "http://127.0.0.1:22/",
    "http://127.1/",
    "http://127.0.0.1./",
    "http://127.255.255.254/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]:8080/",
    "http://[::]/",
    "http://0.0.0.0/",
    "http://0/",
    // 127.0.0.1 as other numbers.
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    // The networks behind it.
    "http://10.0.0.1/",
    "http://172.16.0.1/",
    "http://192.168.0.1/",
    "http://100.64.0.1/",
    "http://[fe80::1]/",
    "http://[fc00::1]/",
    "http://224.0.0.1/",
    "http://255.255.255.255/",
    // A name that looks allowed in front of one that is not.
    "http://allowed@127.0.0.1/",
    "http://api.example.com:80@127.0.0.1:8080/",
    // What is not HTTP.
    "ftp://127.0.0.1/",
    "file:///etc/passwd",
    "unix:///var/run/docker.sock",
];

/// A URL's pieces, as they were written.
#[derive(Clone, Copy, Debug)]
pub struct Pieces<'a> {
    /// Before `://`; `http` where there is none.
    pub scheme: &'a str,
    /// User, host and port; may be empty.
    pub authority: &'a str,
    /// Path and query; `/` where there is none.
    pub path: &'a str,
}

impl<'a> Pieces<'a> {
    /// Takes a URL apart; everything has pieces.
    #[must_use]
    pub fn of(url: &'a str) -> Self {
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        Self {
            scheme,
            authority,
            path,
        }
    }

    /// Where a `location` leads from here.
    #[must_use]
    pub fn follow(&self, location: &str) -> String {
        if location.contains("://") {
            location.to_owned()
        } else if let Some(rest) = location.strip_prefix("//") {
            format!("{}://{rest}", self.scheme)
        } else {
            let path = location.trim_start_matches('/');
            format!("{}://{}/{path}", self.scheme, self.authority)
        }
    }
}

/// The lines of a text that are URLs to try, or the built-in ones where there
/// are none.
#[must_use]
pub fn chosen(text: &str) -> Vec<String> {
    let given: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
    if given.is_empty() {
        FORBIDDEN.map(str::to_owned).into()
    } else {
        given
    }
}

/// The name of a `wasi:http` error code as WIT writes it:
/// `http-request-denied`. Both versions print as `ErrorCode::HttpRequestDenied`.
#[must_use]
pub fn name(code: &impl Debug) -> String {
    let code = format!("{code:?}");
    let code = code
        .rsplit_once("ErrorCode::")
        .map_or(&*code, |(_, code)| code);
    let mut name = String::new();
    for letter in code.chars().take_while(char::is_ascii_alphanumeric) {
        if letter.is_ascii_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.push(letter.to_ascii_lowercase());
    }
    name
}
