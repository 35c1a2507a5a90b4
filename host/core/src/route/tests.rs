use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;

fn table(routes: &[&'static str]) -> RouteTable<&'static str> {
    RouteTable::build(routes.iter().map(|text| (text.parse().unwrap(), *text))).unwrap()
}

#[track_caller]
fn finds(table: &RouteTable<&'static str>, host: &str, path: &str, expected: Option<&str>) {
    let host = (host != "-").then_some(host);
    assert_eq!(
        table.find(host, path).map(|m| *m.target),
        expected,
        "{host:?} {path}"
    );
}

#[test]
fn the_most_specific_path_wins() {
    let table = table(&[
        "/*",
        "/api/*",
        "/api/v1",
        "/api/v1/*",
        "/files*",
        "/a",
        "/ab/c*",
    ]);
    for (path, expected) in [
        ("/", "/*"),
        ("/x", "/*"),
        ("/api", "/api/*"),
        ("/api/", "/api/*"),
        ("/apis", "/*"),
        ("/api/v2", "/api/*"),
        ("/api/v1", "/api/v1"),
        ("/api/v1/", "/api/v1/*"),
        ("/api/v1x", "/api/*"),
        ("/files", "/files*"),
        ("/files-of/x", "/files*"),
        ("/file", "/*"),
        ("/a", "/a"),
        ("/a/", "/*"),
        ("/ab/cd", "/ab/c*"),
        ("/ab/", "/*"),
        // Literally, whatever they would mean elsewhere.
        ("/%61pi/x", "/*"),
        ("/api%2fx", "/*"),
        ("/x/../api/v1", "/*"),
        ("/api/../x", "/api/*"),
        ("//api/", "/*"),
        ("/API/", "/*"),
    ] {
        finds(&table, "-", path, Some(expected));
        finds(&table, "example.com", path, Some(expected));
    }
    for path in ["", "*", "x", "http://a/"] {
        finds(&table, "-", path, None);
    }
}

#[test]
fn an_exact_route_takes_the_folder_from_the_prefix() {
    let table = table(&["/api/*", "/api", "/b*", "/b/*"]);
    finds(&table, "-", "/api", Some("/api"));
    finds(&table, "-", "/api/", Some("/api/*"));
    finds(&table, "-", "/b", Some("/b/*"));
    finds(&table, "-", "/bc", Some("/b*"));
}

#[test]
fn the_most_specific_host_wins_and_leaves_what_it_does_not_serve() {
    let table = table(&[
        "/*",
        "example.com/*",
        "*.example.com/*",
        "*.b.example.com/only/*",
        "a.b.example.com/one",
        "*.com/com",
        "[::1]/*",
        "10.0.0.1/*",
    ]);
    for (host, path, expected) in [
        ("example.com", "/x", "example.com/*"),
        ("EXAMPLE.com.:8080", "/x", "example.com/*"),
        ("example.com:", "/x", "example.com/*"),
        ("example.com..", "/x", "*.com/com"),
        ("example.com:80x", "/x", "/*"),
        ("a.example.com", "/x", "*.example.com/*"),
        ("x.y.example.com", "/x", "*.example.com/*"),
        ("b.example.com", "/only/", "*.example.com/*"),
        ("c.b.example.com", "/only/", "*.b.example.com/only/*"),
        ("c.b.example.com", "/x", "*.example.com/*"),
        ("a.b.example.com", "/one", "a.b.example.com/one"),
        ("a.b.example.com", "/only", "*.b.example.com/only/*"),
        ("a.b.example.com", "/two", "*.example.com/*"),
        ("example.com", "/com", "example.com/*"),
        ("x.com", "/com", "*.com/com"),
        ("x.com", "/", "/*"),
        ("com", "/com", "/*"),
        (".example.com", "/x", "/*"),
        ("notexample.com", "/x", "/*"),
        ("[::1]", "/x", "[::1]/*"),
        ("[0:0::0:1]:80", "/x", "[::1]/*"),
        ("[::1]x", "/x", "/*"),
        ("[::1", "/x", "/*"),
        ("[::2]", "/x", "/*"),
        ("10.0.0.1:80", "/x", "10.0.0.1/*"),
        ("", "/x", "/*"),
        (":80", "/x", "/*"),
        ("-", "/x", "/*"),
    ] {
        // "*.com/com" is only there for the path "/com".
        let expected = if expected == "*.com/com" && path != "/com" {
            "/*"
        } else {
            expected
        };
        finds(&table, host, path, Some(expected));
    }
}

#[test]
fn without_a_fitting_route_there_is_no_target() {
    let table = table(&["example.com/api/*", "/health"]);
    finds(&table, "example.com", "/health", Some("/health"));
    finds(&table, "example.com", "/", None);
    finds(&table, "other.com", "/api/", None);
    finds(&table, "-", "/api/", None);
    assert!(
        RouteTable::<()>::build([])
            .unwrap()
            .find(None, "/")
            .is_none()
    );
}

#[test]
fn the_prefix_to_strip_ends_before_the_slash() {
    let table = table(&["/*", "/api/*", "/files*", "/exact"]);
    for (path, prefix) in [
        ("/x", 0),
        ("/", 0),
        ("/api", 4),
        ("/api/", 4),
        ("/api/x", 4),
        ("/files-x", 6),
        ("/exact", 0),
    ] {
        assert_eq!(table.find(None, path).unwrap().prefix, prefix, "{path}");
    }
}

#[test]
fn a_route_given_twice_is_refused_however_it_is_spelled() {
    for (one, two) in [
        ("/a", "/a"),
        ("/a/*", "/a/*"),
        ("example.com/", "EXAMPLE.com./"),
        ("*.Example.com/*", "*.example.com/*"),
        ("[::1]/", "[0:0::1]/"),
    ] {
        let pattern = |text: &str| RoutePattern::new(text).unwrap();
        let error = RouteTable::build([(pattern(one), 1), (pattern(two), 2)]).unwrap_err();
        assert_eq!(error.pattern.to_string(), two);
        assert_eq!(
            error.to_string(),
            format!("the route '{two}' is given twice")
        );
    }
    table(&["/a", "/a/", "/a*", "/a/*", "x/a", "*.x/a"]);
}

#[test]
fn what_is_not_a_route_says_why() {
    let long = "/".repeat(1025);
    let label = format!("{}/", "a".repeat(64));
    for (text, expected) in [
        ("", InvalidRoute::Empty),
        (long.as_str(), InvalidRoute::TooLong),
        ("example.com", InvalidRoute::NoPath),
        ("*", InvalidRoute::NoPath),
        ("/a b", InvalidRoute::Character(' ')),
        ("/a\n", InvalidRoute::Character('\n')),
        ("/ä", InvalidRoute::Character('ä')),
        ("bücher.example/", InvalidRoute::Character('ü')),
        ("/a*b", InvalidRoute::StarInPath),
        ("/**", InvalidRoute::StarInPath),
        ("/*/x", InvalidRoute::StarInPath),
        ("/a?b=c", InvalidRoute::Query('?')),
        ("/a#b", InvalidRoute::Query('#')),
        ("https://example.com/", InvalidRoute::Scheme("https".into())),
        ("example.com:80/", InvalidRoute::Port("80".into())),
        ("[::1]:80/", InvalidRoute::Port("80".into())),
        ("*/x", InvalidRoute::StarInHost),
        ("a.*.com/", InvalidRoute::StarInHost),
        ("*a.com/", InvalidRoute::StarInHost),
        ("*.*.com/", InvalidRoute::StarInHost),
        ("a..com/", InvalidRoute::Host("a..com".into())),
        (".com/", InvalidRoute::Host(".com".into())),
        ("./", InvalidRoute::Host(".".into())),
        ("*./", InvalidRoute::Host("*.".into())),
        ("::1/", InvalidRoute::Host("::1".into())),
        ("[::1/", InvalidRoute::Host("[::1".into())),
        ("[::1%25lo]/", InvalidRoute::Host("[::1%25lo]".into())),
        ("us@er/", InvalidRoute::Host("us@er".into())),
        (&label, InvalidRoute::Host("a".repeat(64))),
    ] {
        assert_eq!(RoutePattern::new(text), Err(expected), "{text}");
    }
}

#[test]
fn a_route_is_its_text_in_json() {
    let pattern = RoutePattern::new("*.Example.com/api/*").unwrap();
    let json = serde_json::to_string(&pattern).unwrap();
    assert_eq!(json, "\"*.Example.com/api/*\"");
    assert_eq!(
        serde_json::from_str::<RoutePattern>(&json).unwrap(),
        pattern
    );
    assert!(serde_json::from_str::<RoutePattern>("\"nope\"").is_err());
}

/// The rules of the specification, word by word and slowly.
mod model {
    use super::*;

    fn host_rank(pattern: &str, host: Option<&str>) -> Option<(u8, usize)> {
        if pattern.is_empty() {
            return Some((0, 0));
        }
        let host = host?.to_ascii_lowercase();
        let (host, port) = match host.rfind([':', ']']) {
            Some(at) if host.as_bytes()[at] == b':' => host.split_at(at),
            _ => (host.as_str(), ""),
        };
        let (host, port) = (host.to_owned(), port.trim_start_matches(':'));
        if !port.chars().all(|c| c.is_ascii_digit()) {
            return None;
        }
        let pattern = pattern.to_ascii_lowercase();
        if pattern.starts_with('[') || host.starts_with('[') {
            let address = |text: &str| {
                text.strip_prefix('[')?
                    .strip_suffix(']')?
                    .parse::<Ipv6Addr>()
                    .ok()
            };
            return (address(&pattern)? == address(&host)?).then_some((2, 0));
        }
        let host = host.strip_suffix('.').unwrap_or(&host);
        let pattern = pattern.strip_suffix('.').unwrap_or(&pattern);
        match pattern.strip_prefix('*') {
            Some(below) => {
                (host.ends_with(below) && host.len() > below.len()).then_some((1, below.len()))
            }
            None => (host == pattern).then_some((2, 0)),
        }
    }

    fn path_rank(pattern: &str, path: &str) -> Option<(u8, usize)> {
        match pattern.strip_suffix('*') {
            Some(prefix) => {
                let folder = prefix
                    .strip_suffix('/')
                    .is_some_and(|folder| folder == path);
                (path.starts_with('/') && (path.starts_with(prefix) || folder))
                    .then_some((0, prefix.len()))
            }
            None => (pattern == path).then_some((1, 0)),
        }
    }

    pub(super) fn find(routes: &[String], host: Option<&str>, path: &str) -> Option<usize> {
        let rank = |text: &String| {
            let (pattern_host, pattern_path) = text.split_at(text.find('/').unwrap());
            Some((
                host_rank(pattern_host, host)?,
                path_rank(pattern_path, path)?,
            ))
        };
        (0..routes.len())
            .filter_map(|index| Some((rank(&routes[index])?, index)))
            .max()
            .map(|(_, index)| index)
    }
}

fn hosts() -> impl Strategy<Value = String> {
    prop_oneof![
        1 => Just(String::new()),
        4 => prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ab"), Just("A")], 1..4)
            .prop_map(|labels| labels.join(".")),
        1 => prop_oneof![Just("[::1]"), Just("[0::1]"), Just("[::2]")].prop_map(str::to_owned),
    ]
}

fn paths() -> impl Strategy<Value = String> {
    "(/(a|b|ab|%2f|\\.\\.|)){1,4}"
}

fn patterns() -> impl Strategy<Value = String> {
    let host = (
        hosts(),
        prop_oneof![2 => Just(""), 1 => Just("*.")],
        prop_oneof![3 => Just(""), 1 => Just(".")],
    )
        .prop_map(|(host, star, dot)| match host.as_str() {
            "" => host,
            literal if literal.starts_with('[') => host,
            _ => format!("{star}{host}{dot}"),
        });
    (host, paths(), prop_oneof![Just(""), Just("*"), Just("/*")])
        .prop_map(|(host, path, star)| format!("{host}{path}{star}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn the_table_agrees_with_the_rules(
        routes in prop::collection::vec(patterns(), 0..24),
        requests in prop::collection::vec(
            (prop::option::of((hosts(), "(\\.|\\.\\.|)", "(:|:80|:x|)")), paths()),
            1..16,
        ),
    ) {
        let mut unique: Vec<String> = Vec::new();
        for text in routes {
            let pattern = |text: &String| (text.parse::<RoutePattern>().unwrap(), ());
            if RouteTable::build(unique.iter().chain([&text]).map(pattern)).is_ok() {
                unique.push(text);
            }
        }
        let table = RouteTable::build(
            unique.iter().enumerate().map(|(index, text)| (text.parse().unwrap(), index)),
        ).unwrap();
        for (host, path) in requests {
            let host = host.map(|(name, dot, port)| {
                if name.starts_with('[') { name + &port } else { name + &dot + &port }
            });
            let found = table.find(host.as_deref(), &path);
            prop_assert_eq!(
                found.as_ref().map(|found| *found.target),
                model::find(&unique, host.as_deref(), &path),
                "{:?} {:?} {}", unique, host, path
            );
            if let Some(found) = found {
                prop_assert!(path.is_char_boundary(found.prefix));
            }
        }
    }

    #[test]
    fn no_text_confuses_the_reader_or_the_search(text in "\\PC{0,40}", host in "\\PC{0,20}", path in "\\PC{0,40}") {
        if let Ok(pattern) = RoutePattern::new(&text) {
            prop_assert_eq!(pattern.to_string(), text);
            let table = RouteTable::build([(pattern, ())]).unwrap();
            let _ = table.find(Some(&host), &path);
        }
    }
}
