use std::future::Future;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use skep_wire::{FromAcceptor, Message as _, ToAcceptor};

use super::*;

/// Longer than anything takes that works.
const LONG: Duration = Duration::from_secs(20);

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, what).await.expect("in time")
}

fn later() -> Instant {
    Instant::now() + LONG
}

/// The dispatcher's end of a worker's channel, and the worker's as bytes.
fn link() -> (Link<FromAcceptor, ToAcceptor>, UnixStream) {
    let (ours, theirs) = Channel::pair().unwrap();
    (Link::new(ours).unwrap(), UnixStream::from(theirs))
}

fn took(id: u64) -> FromAcceptor {
    FromAcceptor::Took { ids: vec![id] }
}

#[tokio::test]
async fn messages_and_descriptors_go_both_ways() {
    let (ours, theirs) = Channel::pair().unwrap();
    let mut one = Link::<FromAcceptor, ToAcceptor>::new(ours).unwrap();
    let theirs = Channel::from_fd(theirs).unwrap();
    let mut other = Link::<ToAcceptor, FromAcceptor>::new(theirs).unwrap();
    let got_back = ToAcceptor::GotBack { ids: vec![1, 2] };
    one.tell(&got_back, &[], later()).await.unwrap();
    let (message, fds) = soon(other.next()).await.unwrap().unwrap();
    assert_eq!((message, fds.len()), (got_back, 0));

    let (socket, mut client) = UnixStream::pair().unwrap();
    let handout = skep_wire::Handout {
        id: 3,
        host: None,
        once: false,
        read: Vec::new(),
        spoken: skep_wire::Spoken::Nothing,
    };
    let take = ToAcceptor::Take(vec![handout]);
    // Descriptors that are too few are told to whoever forgot them.
    assert!(matches!(
        one.tell(&take, &[], later()).await,
        Err(LinkError::Frame(FrameError::FdCount { .. }))
    ));
    one.tell(&take, &[socket.as_fd()], later()).await.unwrap();
    let (message, mut fds) = soon(other.next()).await.unwrap().unwrap();
    assert_eq!(message, take);
    let mut passed = UnixStream::from(fds.pop().unwrap());
    passed.write_all(b"x").unwrap();
    std::io::Read::read_exact(&mut client, &mut [0]).unwrap();

    drop(one);
    assert!(soon(other.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn giving_up_loses_nothing() {
    let (mut link, mut worker) = link();
    let frame = encode(&took(7)).unwrap();
    for byte in &frame[..frame.len() - 1] {
        worker.write_all(&[*byte]).unwrap();
        let wait = tokio::time::timeout(Duration::from_millis(1), link.next());
        assert!(wait.await.is_err(), "not whole yet");
    }
    worker.write_all(&frame[frame.len() - 1..]).unwrap();
    let (message, _) = soon(link.next()).await.unwrap().unwrap();
    assert_eq!(message, took(7));
}

#[tokio::test]
async fn who_takes_nothing_ends_the_conversation_at_the_deadline() {
    let (mut link, worker) = link();
    let large = ToAcceptor::GotBack {
        ids: vec![u64::MAX; 100_000],
    };
    let by = Instant::now() + Duration::from_millis(50);
    let late = soon(link.tell(&large, &[], by)).await;
    assert!(matches!(late, Err(LinkError::Late)), "{late:?}");
    // What follows half a message would be read as the rest of it.
    let small = ToAcceptor::Hosts { matter: true };
    let broken = link.tell(&small, &[], later()).await;
    assert!(matches!(broken, Err(LinkError::Broken)), "{broken:?}");
    assert!(matches!(soon(link.next()).await, Err(LinkError::Broken)));
    drop(worker);
}

#[tokio::test]
async fn a_message_that_is_given_up_ends_the_conversation() {
    let (mut link, _worker) = link();
    let large = ToAcceptor::GotBack {
        ids: vec![u64::MAX; 100_000],
    };
    let given_up = tokio::time::timeout(
        Duration::from_millis(10),
        link.tell(&large, &[], Instant::now() + LONG),
    );
    assert!(given_up.await.is_err());
    assert!(matches!(link.next().await, Err(LinkError::Broken)));
}

#[tokio::test]
async fn who_floods_does_not_hold_the_reader() {
    let (mut link, mut worker) = link();
    let flood = encode(&took(1)).unwrap().repeat(400);
    let flooding = std::thread::spawn(move || {
        worker.set_nonblocking(false).unwrap();
        // Until the reader has had enough.
        while worker.write_all(&flood).is_ok() {}
    });
    // Somebody else of the same thread, who is always there and always last.
    let mut others = 0_u32;
    let mut heard = 0_u32;
    while others < 100 {
        tokio::select! {
            biased;
            message = link.next() => {
                assert_eq!(message.unwrap().unwrap().0, took(1));
                heard += 1;
            }
            () = std::future::ready(()) => others += 1,
        }
        assert!(heard <= (others + 1) * TURN_MESSAGES, "{heard} {others}");
    }
    drop(link);
    flooding.join().unwrap();
}

#[tokio::test]
async fn what_a_process_said_before_it_ended_is_there() {
    let (link, mut worker) = link();
    worker.write_all(&encode(&took(1)).unwrap()).unwrap();
    worker.write_all(&encode(&took(2)).unwrap()).unwrap();
    let (mut ears, _) = link.split();
    assert_eq!(ears.next_of_these().unwrap().unwrap().0, took(1));
    drop(worker);
    assert_eq!(ears.next_of_these().unwrap().unwrap().0, took(2));
    assert!(ears.next_of_these().unwrap().is_none());
    assert!(soon(ears.next()).await.unwrap().is_none());
}

#[tokio::test]
async fn who_floods_is_not_heard_to_the_end_at_once() {
    let (link, mut worker) = link();
    let flood = encode(&took(1)).unwrap().repeat(400);
    worker.set_nonblocking(true).unwrap();
    let (mut ears, _) = link.split();
    let mut flooded = || while worker.write(&flood).is_ok() {};
    flooded();
    let mut heard = 0;
    while ears.next_of_these().unwrap().is_some() {
        heard += 1;
        flooded();
    }
    assert_eq!(heard, TURN_MESSAGES);
    // Not even what is said in the name of a process that has ended.
    let mut last = 0;
    while ears.next_of_the_last().unwrap().is_some() {
        last += 1;
        flooded();
    }
    assert_eq!(last, LAST_WORDS.messages);
}

#[tokio::test]
async fn what_is_no_message_ends_the_conversation() {
    let (mut link, mut worker) = link();
    worker.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    let heard = soon(link.next()).await;
    assert!(matches!(heard, Err(LinkError::Frame(FrameError::NotOurs))));

    let (mut link, mut worker) = self::link();
    let mut header = encode(&took(1)).unwrap()[..8].to_vec();
    let length = u32::try_from(FromAcceptor::MOST + 1).unwrap();
    header[4..].copy_from_slice(&length.to_le_bytes());
    worker.write_all(&header).unwrap();
    let heard = soon(link.next()).await;
    assert!(matches!(
        heard,
        Err(LinkError::Frame(FrameError::TooLarge { .. }))
    ));
}
