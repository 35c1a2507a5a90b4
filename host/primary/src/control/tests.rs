use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;

use skep_wire::encode_line;

use super::*;

/// A control socket whose loop answers `Done` to everything.
async fn with_control<F: Future<Output = ()>>(test: impl FnOnce(PathBuf) -> F) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let (control, mut requests) = Control::start(&path, || {}).unwrap();
    let answering = tokio::spawn(async move {
        while let Some(Asked { asker, .. }) = requests.recv().await {
            asker.progress("on the way".to_owned());
            asker.answer(ControlReply::Done { message: None });
        }
    });
    test(path.clone()).await;
    control.finish().await;
    assert!(!path.exists());
    answering.await.unwrap();
}

async fn exchange(path: &Path, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn requests_are_answered_in_turn() {
    with_control(|path| async move {
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let status = encode_line(&ControlRequest::Status);
        let progress = r#"{"reply":"progress","message":"on the way"}"#;
        let once = format!("{progress}\n{{\"reply\":\"done\"}}\n");
        assert_eq!(exchange(&path, &status.repeat(2)).await, once.repeat(2));
    })
    .await;
}

#[tokio::test]
async fn nonsense_is_refused_and_does_not_harm() {
    with_control(|path| async move {
        let answer = exchange(&path, b"GET / HTTP/1.1\n").await;
        assert!(answer.contains(r#""reply":"refused""#), "{answer}");
        let endless = vec![b'x'; usize::try_from(MAX_REQUEST).unwrap() + 10];
        let mut stream = UnixStream::connect(&path).await.unwrap();
        // The rest may meet a closed socket.
        let _ = stream.write_all(&endless).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        assert!(String::from_utf8_lossy(&answer).contains("too long"));
        assert_eq!(exchange(&path, b"{\"command\":\"sta").await, "");
        let status = encode_line(&ControlRequest::Status);
        assert!(
            exchange(&path, &status)
                .await
                .ends_with("{\"reply\":\"done\"}\n")
        );
    })
    .await;
}

#[tokio::test]
async fn idle_clients_do_not_delay_the_end() {
    let begun = std::time::Instant::now();
    with_control(|path| async move {
        let _idle = UnixStream::connect(&path).await.unwrap();
    })
    .await;
    assert!(begun.elapsed() < FAREWELL);
}

#[tokio::test]
async fn nobody_keeps_an_operator_out() {
    with_control(|path| async move {
        let status = encode_line(&ControlRequest::Status);
        let mut others = Vec::new();
        for number in 0..300 {
            let mut other = UnixStream::connect(&path).await.unwrap();
            // Silent ones, and some that do not read their reply.
            if number % 2 == 0 {
                other.write_all(&status).await.unwrap();
            }
            others.push(other);
            if number % 50 == 0 {
                let answer = exchange(&path, &status).await;
                assert!(answer.ends_with("{\"reply\":\"done\"}\n"), "{answer}");
            }
        }
        let answer = exchange(&path, &status).await;
        assert!(answer.ends_with("{\"reply\":\"done\"}\n"), "{answer}");
    })
    .await;
}

#[tokio::test]
async fn who_waits_for_an_answer_and_goes_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let (control, mut requests) = Control::start(&path, || {}).unwrap();
    let follow = encode_line(&ControlRequest::Events { follow: true });
    let mut client = UnixStream::connect(&path).await.unwrap();
    client.write_all(&follow).await.unwrap();
    let asked = requests.recv().await.unwrap();
    // The end of its own writing is not its end.
    client.shutdown().await.unwrap();
    tokio::time::sleep(LOOK * 2).await;
    assert!(asked.asker.event(serde_json::json!(1)));
    let mut piece = [0; 64];
    assert!(client.read(&mut piece).await.unwrap() > 0);
    drop(client);
    let gone = async {
        while !asked.asker.is_gone() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(LOOK * 5, gone).await.unwrap();
    control.finish().await;
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let (control, _requests) = Control::start(&path, || {}).unwrap();
    assert!(matches!(
        Control::start(&path, || {}),
        Err(ControlError::InUse(_))
    ));
    control.finish().await;

    fs::write(&path, "precious").unwrap();
    assert!(matches!(
        Control::start(&path, || {}),
        Err(ControlError::Io { .. })
    ));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn the_answer_always_has_a_place() {
    let (sender, mut replies) = mpsc::channel(REPLIES);
    let asker = Asker(sender);
    for _ in 0..REPLIES * 2 {
        asker.progress("x".to_owned());
    }
    asker.answer(ControlReply::Done { message: None });
    let mut last = None;
    while let Ok(reply) = replies.try_recv() {
        last = Some(reply);
    }
    assert_eq!(last, Some(ControlReply::Done { message: None }));
}

#[tokio::test]
async fn a_file_that_is_removed_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("control.sock");
    let (told, mut rebound) = mpsc::unbounded_channel();
    let (control, mut requests) = Control::start(&path, move || {
        let _ = told.send(());
    })
    .unwrap();
    tokio::spawn(async move {
        while let Some(Asked { asker, .. }) = requests.recv().await {
            asker.answer(ControlReply::Done { message: None });
        }
    });
    for _ in 0..2 {
        fs::remove_file(&path).unwrap();
        let soon = timeout(Duration::from_secs(20), rebound.recv());
        soon.await.unwrap().unwrap();
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let status = encode_line(&ControlRequest::Status);
        assert_eq!(exchange(&path, &status).await, "{\"reply\":\"done\"}\n");
    }
    control.finish().await;
    assert!(!path.exists());
}
