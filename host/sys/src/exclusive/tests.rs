use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::epoll::EpollTimeout;

use nix::sys::socket::{setsockopt, sockopt};

use super::*;

const NOW: EpollTimeout = EpollTimeout::ZERO;

fn bound() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

fn share(socket: &OwnedFd) -> ExclusiveListener {
    ExclusiveListener::new(socket.try_clone().unwrap()).unwrap()
}

/// The runtime's name for the listener.
const TOKEN: u64 = 0x55d0_c4a7_e2c0;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Arrangement {
    Apart,
    Joined,
}

const BOTH: [Arrangement; 2] = [Arrangement::Apart, Arrangement::Joined];

/// What an async runtime does: an edge-triggered watch on the listener.
fn runtime(listener: &ExclusiveListener, arrangement: Arrangement) -> Epoll {
    let outer = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).unwrap();
    let event = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, TOKEN);
    outer.add(listener, event).unwrap();
    if arrangement == Arrangement::Joined {
        listener.join().unwrap();
    }
    outer
}

fn edge(outer: &Epoll) -> bool {
    let mut events = [EpollEvent::empty()];
    let edge = outer.wait(&mut events, NOW).unwrap() == 1;
    assert!(!edge || events[0].data() == TOKEN);
    edge
}

fn drain(listener: &ExclusiveListener) -> Vec<Accepted> {
    std::iter::from_fn(|| listener.accept().unwrap()).collect()
}

#[test]
fn an_edge_comes_for_each_connection_after_a_drain() {
    for arrangement in BOTH {
        let (socket, address) = bound();
        let listener = share(&socket);
        let outer = runtime(&listener, arrangement);
        assert!(!edge(&outer));
        for rotate in [false, true, false] {
            let client = TcpStream::connect(address).unwrap();
            assert!(edge(&outer));
            assert!(!edge(&outer), "edges come once");
            let accepted = drain(&listener);
            assert_eq!(accepted.len(), 1);
            assert_eq!(accepted[0].peer, Peer::Tcp(client.local_addr().unwrap()));
            if rotate {
                listener.rotate().unwrap();
                assert!(!edge(&outer));
            }
        }
    }
}

#[test]
fn a_pause_hides_connections_and_a_resume_tells_them() {
    for arrangement in BOTH {
        let (socket, address) = bound();
        let listener = share(&socket);
        let outer = runtime(&listener, arrangement);
        listener.pause().unwrap();
        listener.pause().unwrap();
        let _clients = [
            TcpStream::connect(address).unwrap(),
            TcpStream::connect(address).unwrap(),
        ];
        listener.rotate().unwrap();
        assert!(!edge(&outer));
        listener.resume().unwrap();
        listener.resume().unwrap();
        assert!(edge(&outer));
        // One is taken, and a rotation tells the other.
        assert!(listener.accept().unwrap().is_some());
        listener.rotate().unwrap();
        assert!(edge(&outer));
        assert_eq!(drain(&listener).len(), 1);
    }
}

#[test]
fn nothing_queued_is_lost_when_one_share_closes() {
    for arrangement in BOTH {
        let (socket, address) = bound();
        let (leaving, staying) = (share(&socket), share(&socket));
        let outer = runtime(&staying, arrangement);
        let clients: Vec<_> = (0..50)
            .map(|_| TcpStream::connect(address).unwrap())
            .collect();
        assert!(leaving.accept().unwrap().is_some());
        leaving.close();
        drop(socket);
        assert!(edge(&outer));
        assert_eq!(drain(&staying).len(), clients.len() - 1);
    }
}

#[test]
fn unix_peers_and_reset_connections_are_accepted_as_what_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let unix = UnixListener::bind(&path).unwrap();
    unix.set_nonblocking(true).unwrap();
    let listener = ExclusiveListener::new(unix.into()).unwrap();
    let client = UnixStream::connect(&path).unwrap();
    let accepted = listener.accept().unwrap().unwrap();
    assert_eq!(accepted.peer, Peer::Unix);
    drop(accepted);
    assert_eq!((&client).read(&mut [0]).unwrap(), 0);

    let (socket, address) = bound();
    let listener = share(&socket);
    let gone = TcpStream::connect(address).unwrap();
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&gone, sockopt::Linger, &linger).unwrap();
    drop(gone);
    let _here = TcpStream::connect(address).unwrap();
    // Whether the first counts as a connection is the kernel's choice.
    let accepted = drain(&listener);
    assert!((1..=2).contains(&accepted.len()), "{accepted:?}");
}

/// One process's loop: waits as a runtime would and accepts one connection at a
/// time, in turn with the others.
fn accept_in_turn(
    listener: &ExclusiveListener,
    arrangement: Arrangement,
    stop: &OwnedFd,
    wakes: &AtomicUsize,
) -> usize {
    let outer = runtime(listener, arrangement);
    outer
        .add(stop, EpollEvent::new(EpollFlags::EPOLLIN, 1))
        .unwrap();
    let mut accepted = 0;
    loop {
        let mut events = [EpollEvent::empty(); 2];
        let timeout = EpollTimeout::try_from(Duration::from_secs(20)).unwrap();
        let count = outer.wait(&mut events, timeout).unwrap();
        assert!(count > 0, "woken in time");
        if events[..count].iter().any(|event| event.data() == 1) {
            return accepted;
        }
        wakes.fetch_add(1, Ordering::Relaxed);
        while let Some(connection) = listener.accept().unwrap() {
            accepted += 1;
            listener.rotate().unwrap();
            drop(connection);
        }
    }
}

fn serial_load(
    arrangement: Arrangement,
    processes: usize,
    connections: usize,
) -> (Vec<usize>, usize) {
    let (socket, address) = bound();
    let (stop, stopped) = nix::unistd::pipe().map(|(r, w)| (w, r)).unwrap();
    let wakes = AtomicUsize::new(0);
    let shares: Vec<_> = (0..processes).map(|_| share(&socket)).collect();
    let counts = std::thread::scope(|scope| {
        let threads: Vec<_> = shares
            .iter()
            .map(|listener| {
                let stopped = &stopped;
                let wakes = &wakes;
                scope.spawn(move || accept_in_turn(listener, arrangement, stopped, wakes))
            })
            .collect();
        for _ in 0..connections {
            let mut client = TcpStream::connect(address).unwrap();
            assert_eq!(client.read(&mut [0]).unwrap(), 0);
        }
        drop(stop);
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect()
    });
    (counts, wakes.into_inner())
}

#[test]
fn serial_connections_go_round_and_wake_one() {
    for processes in [2, 4] {
        let (counts, wakes) = serial_load(Arrangement::Joined, processes, 800);
        assert_eq!(counts.iter().sum::<usize>(), 800);
        // No worker gets more than 35 % of the connections of four.
        let fair = 800 / processes;
        for count in &counts {
            assert!(
                (fair * 6 / 10..=fair * 14 / 10).contains(count),
                "{counts:?}"
            );
        }
        assert!(wakes < 1000, "{wakes} wakes for 800 connections");
    }
}

#[test]
fn apart_everything_is_served_too() {
    let (counts, _) = serial_load(Arrangement::Apart, 3, 300);
    assert_eq!(counts.iter().sum::<usize>(), 300);
}

#[test]
fn what_the_runtime_gave_up_is_not_registered_again() {
    let (socket, address) = bound();
    let listener = share(&socket);
    assert_eq!(
        listener.join().unwrap_err().kind(),
        io::ErrorKind::NotConnected
    );
    let outer = runtime(&listener, Arrangement::Joined);
    // What a runtime does when it drops its registration.
    outer.delete(&listener).unwrap();
    let _client = TcpStream::connect(address).unwrap();
    for result in [listener.rotate(), listener.pause(), listener.rotate()] {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::NotConnected);
    }
    assert!(!edge(&outer));
    assert_eq!(drain(&listener).len(), 1);
}

#[test]
fn a_dropped_listener_leaves_no_registration_behind() {
    for arrangement in BOTH {
        let (socket, address) = bound();
        let listener = share(&socket);
        let outer = runtime(&listener, arrangement);
        listener.close();
        // The socket is still open here, as it is in other processes.
        let _client = TcpStream::connect(address).unwrap();
        assert!(!edge(&outer));
    }
}
