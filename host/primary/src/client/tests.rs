use std::os::unix::net::UnixListener;
use std::thread;

use serde_json::json;

use super::*;

/// A primary that takes one request, answers with these lines and hangs up.
/// Returns what `ask` made of it, and the request.
fn against<T>(
    replies: &'static [&'static str],
    ask: impl FnOnce(&mut Client) -> T,
) -> (T, serde_json::Value) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c");
    let listener = UnixListener::bind(&path).unwrap();
    let primary = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut stream = BufReader::new(stream);
        let mut request = String::new();
        stream.read_line(&mut request).unwrap();
        // At once, because a client may leave after the first of them.
        let text: String = replies.iter().map(|reply| format!("{reply}\n")).collect();
        stream.get_mut().write_all(text.as_bytes()).unwrap();
        serde_json::from_str(&request).unwrap()
    });
    let answer = ask(&mut Client::connect(&path).unwrap());
    (answer, primary.join().unwrap())
}

#[test]
fn an_operation_tells_what_happens_and_what_was_done() {
    let mut said = Vec::new();
    let deployment = Deployment {
        app: "hello".into(),
        source: "/a.wasm".into(),
        strategy: Some(Strategy::Restart),
        canary: Some(Portion::percent(10)),
        force: true,
        ..Deployment::default()
    };
    let (answer, request) = against(
        &[
            r#"{"reply":"progress","message":"one"}"#,
            r#"{"reply":"progress","message":"two"}"#,
            r#"{"reply":"done","message":"hello is at revision 2"}"#,
        ],
        |client| client.deploy(deployment, |message| said.push(message.to_owned())),
    );
    assert_eq!(answer.unwrap().as_deref(), Some("hello is at revision 2"));
    assert_eq!(said, ["one", "two"]);
    assert_eq!(
        request,
        json!({
            "command": "deploy", "app": "hello", "source": "/a.wasm", "strategy": "restart",
            "canary": 1000, "force": true, "dry_run": false, "detach": false,
        })
    );
}

#[test]
fn every_request_is_the_one_that_was_meant() {
    type Ask = fn(&mut Client) -> Result<Option<String>, ClientError>;
    let requests: [(Ask, serde_json::Value); 9] = [
        (
            |client| client.promote("a", |_| {}),
            json!({ "command": "promote", "app": "a" }),
        ),
        (
            |client| client.rollback("a", Some(Revision(3)), |_| {}),
            json!({ "command": "rollback", "app": "a", "revision": 3 }),
        ),
        (
            |client| client.reload(|_| {}),
            json!({ "command": "reload" }),
        ),
        (
            |client| client.restart(None, |_| {}),
            json!({ "command": "restart", "pool": null }),
        ),
        (
            |client| client.scale("p", 4, |_| {}),
            json!({ "command": "scale", "pool": "p", "workers": 4 }),
        ),
        (
            |client| client.rotate(WorkerId(7), |_| {}),
            json!({ "command": "rotate", "worker": 7 }),
        ),
        (
            |client| client.reset("p"),
            json!({ "command": "reset", "target": "p" }),
        ),
        (
            |client| client.pause("a"),
            json!({ "command": "pause", "app": "a" }),
        ),
        (
            |client| client.resume("a"),
            json!({ "command": "resume", "app": "a" }),
        ),
    ];
    for (ask, expected) in requests {
        let (answer, request) = against(&[r#"{"reply":"done"}"#], ask);
        assert_eq!(answer.unwrap(), None);
        assert_eq!(request, expected);
    }
}

#[test]
fn a_no_keeps_its_words_and_its_code() {
    let (answer, _) = against(
        &[r#"{"reply":"refused","message":"busy","code":5}"#],
        |client| client.reload(|_| {}),
    );
    let Err(ClientError::Refused { message, code }) = answer else {
        panic!("{answer:?}");
    };
    assert_eq!((message.as_str(), code), ("busy", 5));
}

#[test]
fn a_primary_that_ends_ends_the_wait() {
    let progress = &[r#"{"reply":"progress","message":"one"}"#];
    let (answer, _) = against(progress, |client| client.promote("a", |_| {}));
    assert!(matches!(answer, Err(ClientError::Gone)), "{answer:?}");
    let (answer, _) = against(&[], |client| client.history("a"));
    assert!(matches!(answer, Err(ClientError::Gone)), "{answer:?}");
    // Whoever ends it wants just that.
    let (answer, _) = against(progress, |client| client.stop(false, |_| {}));
    answer.unwrap();
}

#[test]
fn events_are_followed_to_the_end() {
    let lines = &[
        r#"{"reply":"event","event":{"name":"a"}}"#,
        r#"{"reply":"event","event":{"name":"b"}}"#,
    ];
    let follow = |take: usize| {
        let mut names = Vec::new();
        let (answer, _) = against(lines, |client| {
            client.events(true, |event| {
                names.push(event["name"].clone());
                if names.len() == take {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                }
            })
        });
        answer.unwrap();
        names
    };
    assert_eq!(follow(9), ["a", "b"]);
    assert_eq!(follow(1), ["a"]);
    // Who asks for what there is wants to know whether that was all.
    let (answer, _) = against(lines, |client| {
        client.events(false, |_| ControlFlow::Continue(()))
    });
    assert!(matches!(answer, Err(ClientError::Gone)), "{answer:?}");
}

#[test]
fn an_answer_to_another_question_makes_no_sense() {
    let (answer, _) = against(&[r#"{"reply":"done"}"#], Client::status);
    assert!(matches!(answer, Err(ClientError::Garbled(_))), "{answer:?}");
    let (answer, _) = against(&["nonsense"], Client::status);
    assert!(matches!(answer, Err(ClientError::Garbled(_))), "{answer:?}");
}
