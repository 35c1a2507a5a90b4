use super::super::{history, status};
use super::*;
use crate::exit::Words;

#[test]
fn an_app_and_its_revisions() {
    let (status, history) = (status::tests::fleet(), history::tests::history());
    let found = find(&status, Some(&history), "hello").unwrap();
    let golden = "\
app hello
  tenant    default
  pool      default
  state     paused, canary
  revision  7
  canary    8 at 12.5%
  digest    sha256:00
  source    hello.wasm
  wasi      0.2
  routes    /a /b /c /d

REVISION  NOW     OUTCOME      TIME                  DIGEST        SOURCE           REASON
       3  canary  deploying    2026-11-21T11:32:43Z  aaaaaaaaaaaa  /srv/hello.wasm  -
       2  -       rolled-back  2026-11-21T11:32:42Z  aaaaaaaaaaaa  /srv/hello.wasm  5.1% of\\nrequests failed
       1  active  live         2026-11-21T11:32:41Z  aaaaaaaaaaaa  /srv/hello.wasm  -
";
    assert_eq!(render(&found, 200), golden);
}

#[test]
fn a_pool_and_all_that_is_in_it() {
    let status = status::tests::fleet();
    let text = render(&find(&status, None, "default").unwrap(), 200);
    let golden = "\
pool default
  serving    1/2
  breaker    TRIPPED
  rolling    1 left
  spawns     7
  restarts   5
  crashes    5
  last exit  validation-failed: no database, 12s ago (worker 6, pid 4299, slot 1)
  listener   http://127.0.0.1:8080

WORKER  POOL ";
    assert!(text.starts_with(golden), "{text}");
    assert!(text.contains("\nAPP    TENANT"), "{text}");
}

#[test]
fn a_worker_by_its_number() {
    let status = status::tests::fleet();
    let golden = "\
worker 7
  pool         default
  slot         1
  pid          4301
  state        starting
  generation   2
  up           1h 1m
  ready after  6.0ms
  connections  3, 40 ever
  requests     0, 1 in flight
  outcomes     ok 120340, trap 4
  p50          -
  p99          -
  cpu          1m 2s
  rss          13 MiB
";
    assert_eq!(render(&find(&status, None, "7").unwrap(), 200), golden);
}

#[test]
fn one_name_may_be_several_things() {
    let mut status = status::tests::fleet();
    status.listeners[0].name = skep_core::ListenerName::new("default").unwrap();
    let found = find(&status, None, "default").unwrap();
    let text = render(&found, 200);
    let listener = "\nlistener default\n  address  http://127.0.0.1:8080\n  pools    default\n";
    assert!(text.starts_with("pool default\n"), "{text}");
    assert!(text.ends_with(listener), "{text}");
    let document = serde_json::to_value(&found).unwrap();
    assert_eq!(document["pool"]["workers"], 2);
    assert_eq!(document["pool"]["members"][1]["id"], 7);
    assert_eq!(document["pool"]["apps"][0]["name"], "hello");
    assert_eq!(document["listener"]["address"], "http://127.0.0.1:8080");
    assert!(document.get("app").is_none() && document.get("worker").is_none());
}

#[test]
fn what_is_not_there_is_guessed() {
    let status = status::tests::fleet();
    assert!(find(&status, None, "helo").is_none());
    let hint = |what: &str| match unknown(&status, what).words() {
        Words::Message { hint, .. } => hint.clone().unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(hint("helo"), "did you mean `hello`?");
    assert_eq!(hint("99"), "`skep status` shows what there is");
    assert_eq!(unknown(&status, "99").exit(), Exit::Usage);
}
