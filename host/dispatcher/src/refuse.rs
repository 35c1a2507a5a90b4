//! The last words to a client whose first head is not good.

use std::os::fd::{AsFd as _, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::exchange::{Exchange, Refusal};
use crate::tasks::SharedExchange;

/// How long a client that was refused is still read from. A socket that is
/// closed with something unread is reset, and a reset overtakes the answer: so
/// one that is still sending gets this long to read it.
const LINGER: Duration = Duration::from_secs(2);

/// Bytes that are read from a client that was refused.
const MAX_LINGER: usize = 256 << 10;

/// Clients that are read from at a time, so that those who send nonsense do not
/// use up the descriptors of those who do not. More are closed at once.
const MAX_LINGERING: usize = 1024;

/// Bytes of one read.
const READ: usize = 16 << 10;

/// Answers, as far as the socket takes that at once, and lets the client read
/// it.
pub(crate) fn refuse(
    exchange: &mut Exchange,
    shared: &SharedExchange,
    socket: OwnedFd,
    refusal: Refusal,
) {
    let status = match refusal {
        Refusal::Bad => "400 Bad Request",
        Refusal::TooLarge => "431 Request Header Fields Too Large",
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: text/plain; charset=utf-8\r\n\
         content-length: {}\r\n\r\n{status}\n",
        status.len() + 1
    );
    let told = skep_sys::write_now(socket.as_fd(), answer.as_bytes());
    if told.is_err()
        || skep_sys::end_writing(socket.as_fd()).is_err()
        || exchange.lingering >= MAX_LINGERING
    {
        return;
    }
    exchange.lingering += 1;
    let shared = Rc::clone(shared);
    tokio::task::spawn_local(async move {
        linger(socket).await;
        shared.borrow_mut().lingering -= 1;
    });
}

/// Reads what the client still sends until it closes, within bounds.
async fn linger(socket: OwnedFd) {
    let Ok(socket) = skep_sys::watch(socket) else {
        return;
    };
    let until = Instant::now() + LINGER;
    let mut left = MAX_LINGER;
    while left > 0 {
        let Ok(Ok(mut readable)) = timeout_at(until, socket.readable()).await else {
            return;
        };
        let read =
            readable.try_io(|socket| skep_sys::read_now(socket.get_ref().as_fd(), &mut [0; READ]));
        match read {
            Ok(Ok(bytes @ 1..)) => left = left.saturating_sub(bytes),
            Ok(Ok(0) | Err(_)) => return,
            Err(_) => {}
        }
    }
}
