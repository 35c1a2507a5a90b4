//! The pictures of the README, drawn from what real processes do. With
//! `SKEP_BLESS=1` they are written into it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use skep_tests::variant::variant;
use skep_tests::{Client, Skep, build, guest, process, wait_for};

use crate::deploys::{done, operate};
use crate::{app, pool};

const PATIENCE: Duration = Duration::from_secs(30);

/// What one row of the timeline stands for.
const ROW: Duration = Duration::from_millis(100);

/// Characters of a row.
const WIDE: usize = 40;

fn readme() -> PathBuf {
    build::root().join("README.md")
}

/// The picture of this name in the README, or what is to be there from now on.
fn picture(name: &str, drawn: &str) -> String {
    let text = fs::read_to_string(readme()).expect("there is a README");
    let begin = format!("<!-- picture: {name} -->\n```text\n");
    let start = text.find(&begin).expect("the README has the picture") + begin.len();
    let end = start + text[start..].find("```\n").expect("a picture ends");
    if std::env::var_os("SKEP_BLESS").is_some() {
        let blessed = format!("{}{drawn}{}", &text[..start], &text[end..]);
        fs::write(readme(), blessed).expect("the README can be written");
        return drawn.to_owned();
    }
    text[start..end].to_owned()
}

/// What the processes are for, by how their titles begin.
const FOR: [(&str, &str); 4] = [
    (
        "skep: dispatcher",
        "hands connections to the pool of their host",
    ),
    (
        "skep: connector",
        "opens the outbound connections that are granted",
    ),
    (
        "skep: worker acme/",
        "runs one tenant's handlers, in a jail of its own",
    ),
    ("skep: worker default/", "runs handlers, answers requests"),
];

#[test]
fn the_processes() {
    let text = format!(
        "[tenant.acme]\nisolation = \"dedicated\"\n[pool.acme]\nworkers = 1\n{}{}{}",
        pool(2),
        app(
            "a",
            "fetch",
            "outbound = [\"http://127.0.0.1:9\"]\nroutes = [\"a.test/*\"]"
        ),
        app("b", "hello", "tenant = \"acme\"\nroutes = [\"b.test/*\"]"),
    );
    let skep = Skep::config(&text);
    let titles = || -> BTreeSet<String> {
        let children = process::children(skep.pid()).into_iter();
        let titles = children.map(|child| process::title(child.pid));
        titles.filter(|title| title.starts_with("skep: ")).collect()
    };
    let found = wait_for(PATIENCE, "every process", titles, |titles| {
        let is_there = |kind: &str| titles.iter().any(|title| title.starts_with(kind));
        titles.len() == 5 && FOR.iter().all(|(kind, _)| is_there(kind))
    });
    let mut drawn = String::from(
        "skep serve                        binds the addresses, supervises, serves nothing\n",
    );
    let mut rows: Vec<(usize, &String)> = found
        .iter()
        .filter_map(|title| {
            Some((
                FOR.iter().position(|(kind, _)| title.starts_with(kind))?,
                title,
            ))
        })
        .collect();
    rows.sort();
    assert_eq!(rows.len(), found.len(), "what is that? {found:?}");
    for (index, (kind, title)) in rows.iter().enumerate() {
        let branch = if index + 1 == rows.len() {
            "└─"
        } else {
            "├─"
        };
        let _ = writeln!(drawn, "{branch} {title:<30}  {}", FOR[*kind].1);
    }
    assert_eq!(picture("processes", &drawn), drawn);
}

/// When a request ended, and the revision that answered it.
type Answer = (Duration, Result<String, String>);

#[test]
fn a_rolling_upgrade_under_load() {
    let app = app("a", "revision", "rollout = { observe = \"0s\" }");
    let skep = Skep::config(&(pool(4) + &app));
    let other = variant(&guest("revision"), 2, skep.dir().path());
    let (over, answers) = (AtomicBool::new(false), Mutex::new(Vec::<Answer>::new()));
    let began = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    let answer = Client::connect(&skep.address())
                        .and_then(|mut client| client.get("/"))
                        .map_err(|error| format!("{error:?}"))
                        .and_then(|response| match response.head.header("x-revision") {
                            Some(revision) if response.status() == 200 => Ok(revision.to_owned()),
                            _ => Err(response.status().to_string()),
                        });
                    answers.lock().unwrap().push((began.elapsed(), answer));
                }
            });
        }
        let seen = |wanted: usize| {
            let enough = || answers.lock().unwrap().len();
            wait_for(PATIENCE, "requests", enough, |count| *count >= wanted);
        };
        seen(400);
        let other = other.to_string_lossy();
        done(&operate(
            &skep,
            &["deploy", "a", &other, "--strategy", "restart"],
        ));
        let by_now = answers.lock().unwrap().len();
        seen(by_now + 400);
        over.store(true, Ordering::Relaxed);
    });
    let answers = answers.into_inner().unwrap();
    let failed: Vec<_> = answers
        .iter()
        .filter_map(|(_, answer)| answer.as_ref().err())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let of = |answer: &Answer| answer.1.as_deref() == Ok("2");
    assert!(!of(&answers[0]) && answers.last().is_some_and(of));

    // The rows in which both answer, and two on each side.
    let row = |at: Duration| usize::try_from(at.as_millis() / ROW.as_millis()).unwrap();
    let rows = row(answers.iter().map(|(at, _)| *at).max().unwrap());
    let counts: Vec<(usize, usize)> = (0..rows)
        .map(|number| {
            let here = answers.iter().filter(|(at, _)| row(*at) == number);
            let all = here.clone().count();
            (
                all - here.clone().filter(|answer| of(answer)).count(),
                here.filter(|a| of(a)).count(),
            )
        })
        .collect();
    let first = counts
        .iter()
        .position(|(_, new)| *new > 0)
        .unwrap_or(0)
        .saturating_sub(2);
    let last = counts.iter().rposition(|(old, _)| *old > 0).unwrap_or(0) + 3;
    let mut drawn = String::from(
        "  time  requests, by the revision that answered: ░ the old one, █ the new one   failed\n",
    );
    for (number, (old, new)) in counts.iter().enumerate().take(last).skip(first) {
        let all = (old + new).max(1);
        let share = (new * WIDE + all / 2) / all;
        let bar = "░".repeat(WIDE - share) + &"█".repeat(share);
        let at = (ROW * u32::try_from(number - first).unwrap()).as_secs_f64();
        let _ = writeln!(
            drawn,
            "{at:>4.1} s  {bar}  {old:>5} + {new:<5}             0"
        );
    }
    let known = picture("upgrade", &drawn);
    // Each run draws another one; what it shows is the same.
    let head = drawn.lines().next();
    assert_eq!(known.lines().next(), head);
    assert!(
        known.lines().skip(1).all(|line| line.ends_with(" 0")),
        "{known}"
    );
    println!("{drawn}");
}
