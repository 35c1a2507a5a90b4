use std::fs::File;
use std::io::{ErrorKind, Read, Write, pipe};
use std::net::TcpListener;

use super::*;

fn recv_some(channel: &Channel) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut buffer = [0; 64];
    let mut fds = Vec::new();
    let got = channel.recv(&mut buffer, &mut fds).unwrap();
    (buffer[..got].to_vec(), fds)
}

#[test]
fn bytes_and_descriptors_arrive_together_and_close_on_exec() {
    let (ours, theirs) = Channel::pair().unwrap();
    let theirs = Channel::from_fd(theirs).unwrap();
    let (mut reader, mut writer) = pipe().unwrap();
    assert_eq!(
        ours.send(b"one", &[reader.as_fd(), writer.as_fd()])
            .unwrap(),
        3
    );
    assert_eq!(ours.send(b"two", &[]).unwrap(), 3);
    let mut buffer = [0; 2];
    let mut fds = Vec::new();
    assert_eq!(theirs.recv(&mut buffer, &mut fds).unwrap(), 2);
    assert_eq!(fds.len(), 2);
    for fd in &fds {
        let flags = FdFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC));
    }
    let (bytes, more) = recv_some(&theirs);
    assert!(more.is_empty());
    assert!(b"etwo".starts_with(&bytes));

    let mut passed = File::from(fds.pop().unwrap());
    passed.write_all(b"x").unwrap();
    let mut byte = [0];
    reader.read_exact(&mut byte).unwrap();
    assert_eq!(&byte, b"x");
    writer.flush().unwrap();
}

#[test]
fn descriptors_of_two_messages_are_not_mixed() {
    let (ours, theirs) = Channel::pair().unwrap();
    let theirs = Channel::from_fd(theirs).unwrap();
    let (reader, writer) = pipe().unwrap();
    ours.send(b"a", &[reader.as_fd()]).unwrap();
    ours.send(b"bb", &[writer.as_fd(), writer.as_fd()]).unwrap();
    let (bytes, fds) = recv_some(&theirs);
    assert_eq!((bytes.as_slice(), fds.len()), (&b"a"[..], 1));
    let (bytes, fds) = recv_some(&theirs);
    assert_eq!((bytes.as_slice(), fds.len()), (&b"bb"[..], 2));
}

#[test]
fn as_many_descriptors_as_the_kernel_allows_fit() {
    let (ours, theirs) = Channel::pair().unwrap();
    let theirs = Channel::from_fd(theirs).unwrap();
    let all = vec![ours.as_fd(); MAX_FDS];
    ours.send(b"x", &all).unwrap();
    assert_eq!(recv_some(&theirs).1.len(), MAX_FDS);
    let many = vec![ours.as_fd(); MAX_FDS + 1];
    assert_eq!(
        ours.send(b"x", &many).unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
}

#[test]
fn a_full_an_empty_and_an_ended_channel_say_so() {
    let (ours, theirs) = Channel::pair().unwrap();
    let mut fds = Vec::new();
    let error = ours.recv(&mut [0; 8], &mut fds).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    let error = ours.recv(&mut [], &mut fds).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    let error = ours.send(&[], &[theirs.as_fd()]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);

    let block = [0; 1 << 16];
    let error = loop {
        match ours.send(&block, &[]) {
            Ok(sent) => assert!(sent > 0),
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    // Descriptors do not go without their byte.
    assert!(ours.send(b"x", &[theirs.as_fd()]).is_err());

    let (ours, theirs) = Channel::pair().unwrap();
    drop(theirs);
    assert_eq!(ours.recv(&mut [0; 8], &mut fds).unwrap(), 0);
    let error = ours.send(b"x", &[]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
    assert!(fds.is_empty());
}

#[test]
fn only_unix_stream_sockets_are_channels() {
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    assert!(Channel::from_fd(tcp.into()).is_err());
    let file = File::open("/dev/null").unwrap();
    assert!(Channel::from_fd(file.into()).is_err());
    let (blocking, _) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(Channel::from_fd(blocking.try_clone().unwrap().into()).is_err());
    // Whoever passes it prepares it.
    blocking.set_nonblocking(true).unwrap();
    assert!(Channel::from_fd(blocking.into()).is_ok());
}
