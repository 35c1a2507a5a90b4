//! The listener in the runtime that workers use.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::mpsc;
use std::time::Duration;

use skep_sys::{ExclusiveListener, watch};
use tokio::io::unix::AsyncFd;

/// Longer than any step takes.
const PATIENCE: Duration = Duration::from_secs(20);

fn bound() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

fn registered(socket: &OwnedFd) -> AsyncFd<ExclusiveListener> {
    watch(ExclusiveListener::new(socket.try_clone().unwrap()).unwrap()).unwrap()
}

/// The next connection, in turn with the other processes.
async fn accept(listener: &AsyncFd<ExclusiveListener>) -> OwnedFd {
    loop {
        let mut ready = tokio::time::timeout(PATIENCE, listener.readable())
            .await
            .expect("woken in time")
            .unwrap();
        if let Some(accepted) = listener.get_ref().accept().unwrap() {
            listener.get_ref().rotate().unwrap();
            return accepted.stream;
        }
        ready.clear_ready();
    }
}

#[test]
fn two_runtimes_take_turns() {
    let (socket, address) = bound();
    let (done, turns) = mpsc::channel();
    for worker in 0..2_usize {
        let (socket, done) = (socket.try_clone().unwrap(), done.clone());
        std::thread::spawn(move || {
            runtime().block_on(async {
                let listener = registered(&socket);
                done.send(None).unwrap();
                loop {
                    let stream = accept(&listener).await;
                    if done.send(Some(worker)).is_err() {
                        return;
                    }
                    drop(stream);
                }
            });
        });
    }
    for _ in 0..2 {
        assert_eq!(turns.recv_timeout(PATIENCE).unwrap(), None);
    }
    let mut counts = [0; 2];
    for _ in 0..400 {
        let _client = TcpStream::connect(address).unwrap();
        counts[turns.recv_timeout(PATIENCE).unwrap().unwrap()] += 1;
    }
    assert!(counts.iter().all(|count| *count >= 140), "{counts:?}");
}

#[test]
fn a_paused_listener_wakes_when_it_resumes() {
    let (socket, address) = bound();
    runtime().block_on(async {
        let listener = registered(&socket);
        for _ in 0..3 {
            listener.get_ref().pause().unwrap();
            let clients = [0; 2].map(|_| TcpStream::connect(address).unwrap());
            listener.get_ref().resume().unwrap();
            for _ in &clients {
                drop(accept(&listener).await);
            }
        }
    });
}

#[test]
fn a_listener_that_leaves_its_runtime_is_inert_until_it_comes_back() {
    let (socket, address) = bound();
    runtime().block_on(async {
        let listener = registered(&socket).into_inner();
        let _client = TcpStream::connect(address).unwrap();
        listener.rotate().unwrap_err();
        assert!(listener.accept().unwrap().is_some());
        // It can be registered again, and so can another share of the socket.
        for listener in [watch(listener).unwrap(), registered(&socket)] {
            let _client = TcpStream::connect(address).unwrap();
            drop(accept(&listener).await);
        }
    });
}
