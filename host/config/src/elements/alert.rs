//! Who is told when something needs a person.

use http::Uri;
use http::uri::Authority;
use skep_core::AlertSpec;

use crate::document::{Entry, Schema, quotable};
use crate::report::Reported;

const EXAMPLE: &str = "{ webhook = \"http://127.0.0.1:9000/hook\" }";
const URL_EXAMPLE: &str = "\"http://127.0.0.1:9000/hook\"";

static SCHEMA: Schema = Schema {
    title: "`alert`",
    keys: &["webhook"],
    unavailable: &[],
};

pub(crate) fn read(entry: &Entry<'_>) -> Result<AlertSpec, Reported> {
    let section = entry
        .as_section(&SCHEMA, SCHEMA.title)
        .ok_or_else(|| entry.wrong_type("a table", EXAMPLE))?;
    let webhook = section.get("webhook").map(|entry| read_webhook(&entry));
    // A mistyped key in its place is problem enough.
    let missing = || {
        section.refused().unwrap_or_else(|| {
            entry
                .problem("`alert` has no `webhook`")
                .hint(format!("name its URL, as in `alert = {EXAMPLE}`"))
                .report()
        })
    };
    Ok(AlertSpec {
        webhook: webhook.unwrap_or_else(|| Err(missing()))?,
    })
}

fn read_webhook(entry: &Entry<'_>) -> Result<String, Reported> {
    let text = entry
        .as_str()
        .ok_or_else(|| entry.wrong_type("a URL", URL_EXAMPLE))?;
    check(text).map_err(|error| {
        let hint = error.hint(text);
        entry.problem(error.to_string()).hint(hint).report()
    })?;
    Ok(text.to_owned())
}

/// A text that is not the URL of a webhook. What it holds besides the scheme
/// and the port is not shown: it may be a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum InvalidWebhook {
    #[error("a webhook is a URL that begins with http:// or https://")]
    NoScheme,
    #[error("`{0}` is no scheme of a webhook")]
    Scheme(String),
    #[error("the URL has no host")]
    NoHost,
    #[error("`{0}` is not a port: ports are numbers from 1 to 65535")]
    Port(String),
    #[error("a user and a password in the URL are not sent")]
    Credentials,
    #[error("what follows '#' in a URL is never sent")]
    Fragment,
    #[error("it is not a URL")]
    Malformed,
}

impl InvalidWebhook {
    fn hint(&self, text: &str) -> String {
        match self {
            Self::NoScheme => {
                let close = format!("http://{}", text.trim_start_matches('/'));
                match check(&close) {
                    Ok(()) => format!("write \"{}\"", quotable(&close)),
                    Err(_) => format!("as in `webhook = {URL_EXAMPLE}`"),
                }
            }
            Self::Scheme(_) => "use http or https".to_owned(),
            Self::NoHost | Self::Port(_) => format!("as in `webhook = {URL_EXAMPLE}`"),
            Self::Credentials => "put a token into its path or its query".to_owned(),
            Self::Fragment => "remove '#' and what follows it".to_owned(),
            Self::Malformed => {
                "write its characters as clients send them, percent-encoded".to_owned()
            }
        }
    }
}

fn check(text: &str) -> Result<(), InvalidWebhook> {
    let (scheme, rest) = text.split_once("://").ok_or(InvalidWebhook::NoScheme)?;
    if !matches!(scheme, "http" | "https") {
        return Err(InvalidWebhook::Scheme(quotable(scheme)));
    }
    // The parser leaves it out without a word.
    if rest.contains('#') {
        return Err(InvalidWebhook::Fragment);
    }
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.is_empty() {
        return Err(InvalidWebhook::NoHost);
    }
    if authority.contains('@') {
        return Err(InvalidWebhook::Credentials);
    }
    let authority = Authority::try_from(authority).map_err(|_| InvalidWebhook::Malformed)?;
    if authority.host().is_empty() {
        return Err(InvalidWebhook::NoHost);
    }
    let port = &authority.as_str()[authority.host().len()..];
    if let Some(port) = port.strip_prefix(':')
        && !matches!(port.parse::<u16>(), Ok(1..))
    {
        return Err(InvalidWebhook::Port(quotable(port)));
    }
    let is_ascii = text.bytes().all(|byte| byte.is_ascii_graphic());
    match Uri::try_from(text) {
        Ok(_) if is_ascii => Ok(()),
        _ => Err(InvalidWebhook::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_a_url_with_a_host() {
        for url in [
            "http://127.0.0.1:9000/hook",
            "https://hooks.example.com/T0/B0?token=a%20b",
            "https://example.com",
            "http://[::1]:80",
            "http://localhost?x",
        ] {
            assert_eq!(check(url), Ok(()), "{url}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let port = |port: &str| InvalidWebhook::Port(port.to_owned());
        for (url, error) in [
            ("", InvalidWebhook::NoScheme),
            ("127.0.0.1:9000/hook", InvalidWebhook::NoScheme),
            ("http:/example.com", InvalidWebhook::NoScheme),
            ("HTTP://a/", InvalidWebhook::Scheme("HTTP".to_owned())),
            ("ftp://a/", InvalidWebhook::Scheme("ftp".to_owned())),
            ("://a/", InvalidWebhook::Scheme(String::new())),
            ("http://", InvalidWebhook::NoHost),
            ("http:///hook", InvalidWebhook::NoHost),
            ("http://:9000/hook", InvalidWebhook::NoHost),
            ("http://a:0/", port("0")),
            ("http://a:70000/", port("70000")),
            ("http://a:/", port("")),
            ("http://u:p@a/", InvalidWebhook::Credentials),
            ("http://a/#b", InvalidWebhook::Fragment),
            ("http://a b/", InvalidWebhook::Malformed),
            ("http://a/b c", InvalidWebhook::Malformed),
            ("http://a/ä", InvalidWebhook::Malformed),
            ("http://[::1/", InvalidWebhook::Malformed),
        ] {
            assert_eq!(check(url), Err(error), "{url}");
        }
        let hint = InvalidWebhook::NoScheme.hint("127.0.0.1:9000/hook");
        assert_eq!(hint, "write \"http://127.0.0.1:9000/hook\"");
    }
}
