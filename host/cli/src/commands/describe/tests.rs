use super::super::{history, status};
use super::*;
use crate::exit::Words;

#[test]
fn an_app_and_its_revisions() {
    let (status, history) = (status::tests::fleet(), history::tests::history());
    let found = find(&status, Some(&history), "hello").unwrap();
    let golden = "\
app hello
  tenant       default
  pool         default
  state        paused, canary
  revision     7
  canary       8 at 12.5%
  digest       sha256:00
  source       hello.wasm
  wasi         0.2
  routes       /a /b /c /d
  requests     120345, 1 in flight, 0 queued
  outcomes     ok 120342, trap 2
  statuses     2xx 120342, 5xx 2
  latency      p50 0.2ms, p99 14ms in the last minute
  instances    1, 3.0 MiB held, 1m 1s of CPU used
  time         30s, 0.5s of CPU
  memory       128 MiB an instance
  concurrency  100, and 1000 may wait
  rate         100/min per client
  body         10 MiB
  log          1.0 MiB/s a worker
  connections  100 outbound
  instance     1 request, 1 at a time
  outbound     https://api.example.com
  env          KEY, MODE
  config       greeting

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
    let mut found = find(&status, None, "default").unwrap();
    found.tenant = None;
    let text = render(&found, 200);
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
    assert!(text.contains("\nAPP    REV"), "{text}");
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
    assert!(text.starts_with("tenant default\n"), "{text}");
    assert!(text.contains("\npool default\n"), "{text}");
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

#[test]
fn a_tenant_and_its_apps_with_what_they_came_to_together() {
    let mut status = status::tests::fleet();
    status.tenants[0].name = skep_core::TenantName::new("shop").unwrap();
    status.apps[0].tenant = status.tenants[0].name.clone();
    let found = find(&status, None, "shop").unwrap();
    let golden = "\
tenant shop
  isolation    shared
  pools        default
  requests     120345, 1 in flight, 0 queued
  outcomes     ok 120342, trap 2
  statuses     2xx 120342, 5xx 2
  latency      p50 0.2ms, p99 14ms in the last minute
  instances    1, 3.0 MiB held, 1m 1s of CPU used
  memory       1.0 GiB a worker
  concurrency  no limit
  rate         1000/s

APP    REV            STATE           REQUESTS   5XX  IN FLIGHT    P50   P99  ROUTES
hello  7, 8 at 12.5%  paused, canary    120345  0.1%          1  0.2ms  14ms  /a +3
";
    assert_eq!(render(&found, 200), golden);
    let document = serde_json::to_value(&found).unwrap();
    assert_eq!(document["tenant"]["requests"], 120_345);
    assert_eq!(document["tenant"]["apps"], 1);
    assert_eq!(document["tenant"]["deployed"][0]["name"], "hello");
    let unknown = format!("{:?}", unknown(&status, "shpo").words());
    assert!(unknown.contains("`shop`"), "{unknown}");
}
