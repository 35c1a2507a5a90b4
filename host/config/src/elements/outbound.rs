//! What an app may reach outside.

use skep_core::egress::{InvalidGrant, OutboundGrant};

use crate::document::{Entry, Spanned, quotable};
use crate::report::Reported;

const EXAMPLE: &str = "[\"https://api.example.com\"]";

/// The most grants of one list. Every connection is compared with all of them.
const MAX_GRANTS: usize = 256;

/// Reads grants; faulty ones are reported and left out.
pub(crate) fn read(entry: &Entry<'_>) -> Vec<OutboundGrant> {
    let Some(elements) = entry.as_array() else {
        match entry.as_str() {
            Some(grant) if OutboundGrant::new(grant).is_ok() => entry
                .problem("`outbound` must be an array, not a string")
                .hint(format!("write it in brackets: [\"{grant}\"]"))
                .report(),
            _ => entry.wrong_type("an array of grants", EXAMPLE),
        };
        return Vec::new();
    };
    if elements.len() > MAX_GRANTS {
        entry
            .problem(format!(
                "`outbound` may have at most {MAX_GRANTS} grants, not {}",
                elements.len()
            ))
            .hint("a name as \"https://*.example.com\" or a network stands for many places")
            .report();
        return Vec::new();
    }
    let mut grants: Vec<Spanned<OutboundGrant>> = Vec::new();
    for element in &elements {
        let Ok(grant) = read_one(element) else {
            continue;
        };
        match grants.iter().find(|other| other.value.is_same(&grant)) {
            Some(first) => {
                element
                    .problem(format!(
                        "the grant `{}` is there twice",
                        quotable(grant.as_str())
                    ))
                    .also(&first.span, "first here")
                    .hint("remove one of them")
                    .report();
            }
            None => grants.push(Spanned {
                value: grant,
                span: element.span.clone(),
            }),
        }
    }
    grants.into_iter().map(|grant| grant.value).collect()
}

fn read_one(element: &Entry<'_>) -> Result<OutboundGrant, Reported> {
    let text = element.as_str().ok_or_else(|| {
        element
            .problem("a grant must be a string")
            .hint(format!("as in `outbound = {EXAMPLE}`"))
            .report()
    })?;
    OutboundGrant::new(text).map_err(|error| {
        let draft = element.problem(shown(&error));
        match hint(&error, text) {
            Some(hint) => draft.hint(hint).report(),
            None => draft.report(),
        }
    })
}

/// The error, with what it repeats of the file fit for a message.
fn shown(error: &InvalidGrant) -> String {
    match error {
        InvalidGrant::Scheme | InvalidGrant::Mapped(..) | InvalidGrant::Network(..) => {
            error.clone()
        }
        InvalidGrant::Path(path) => InvalidGrant::Path(quotable(path)),
        InvalidGrant::Host(host) => InvalidGrant::Host(quotable(host)),
        InvalidGrant::Number(host) => InvalidGrant::Number(quotable(host)),
        InvalidGrant::Port(port) => InvalidGrant::Port(quotable(port)),
    }
    .to_string()
}

fn hint(error: &InvalidGrant, text: &str) -> Option<String> {
    let (scheme, rest) = text.split_once("://").unwrap_or(("https", text));
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let scheme = scheme.to_ascii_lowercase();
    let bracketed = format!("{scheme}://[{host}]");
    let bare = format!("{scheme}://{host}");
    let close = match error {
        InvalidGrant::Scheme => format!("{scheme}://{rest}"),
        InvalidGrant::Path(_) => bare,
        InvalidGrant::Host(_) if matches!(authority, "*" | "*:*") => {
            return Some(
                "there is no grant for everything; name hosts, all below one \
                 (\"https://*.example.com\") or networks"
                    .to_owned(),
            );
        }
        // An IPv6 address without its brackets.
        InvalidGrant::Host(_) | InvalidGrant::Port(_) if OutboundGrant::new(&bracketed).is_ok() => {
            bracketed
        }
        // What surrounds a host in a URL.
        InvalidGrant::Host(_) | InvalidGrant::Port(_) if rest.contains(['@', '?', '#']) => bare,
        InvalidGrant::Host(_)
        | InvalidGrant::Port(_)
        | InvalidGrant::Number(_)
        | InvalidGrant::Mapped(..)
        | InvalidGrant::Network(..) => return None,
    };
    OutboundGrant::new(&close)
        .is_ok()
        .then(|| format!("did you mean \"{}\"?", quotable(&close)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_meant_is_guessed() {
        let meant = |close: &str| Some(format!("did you mean \"{close}\"?"));
        for (text, close) in [
            ("api.example.com", "https://api.example.com"),
            ("api.example.com:8443", "https://api.example.com:8443"),
            ("HTTP://a", "http://a"),
            ("https://a/", "https://a"),
            ("http://a:80/v1?x", "http://a:80"),
            ("https://u:p@a", "https://a"),
            ("https://a?x", "https://a"),
            ("http://::1", "http://[::1]"),
            ("http://fd00::1", "http://[fd00::1]"),
        ] {
            let error = OutboundGrant::new(text).unwrap_err();
            assert_eq!(hint(&error, text), meant(close), "{text}");
        }
        for text in [
            "",
            "ftp://a",
            "https://a b",
            "https://",
            "http://1",
            "http://a:0",
        ] {
            let error = OutboundGrant::new(text).unwrap_err();
            assert_eq!(hint(&error, text), None, "{text}");
        }
    }
}
