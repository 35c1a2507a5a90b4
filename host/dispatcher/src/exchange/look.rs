//! A look at the first bytes of a connection, which stay in it.

use std::io;
use std::os::fd::BorrowedFd;

use skep_wire::Spoken;

use super::Exchange;
use crate::peek::{self, Heard};

/// What a client of HTTP/2 may wait for before it says its first host: an empty
/// SETTINGS frame.
const GREETING: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// What a look at a connection's first bytes came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// More must come.
    More,
    /// It is for this host.
    Host(String),
    /// It is to be answered so, and closed.
    Refuse(Refusal),
    /// It is to be closed.
    Close,
}

/// What is said to a client whose first head is not good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Bad,
    TooLarge,
}

impl Exchange {
    /// Looks at what has come of a connection's head, and greets a client of
    /// HTTP/2 that may be waiting for that.
    pub(crate) fn look(
        &mut self,
        socket: BorrowedFd<'_>,
        read: &[u8],
        spoken: &mut Spoken,
    ) -> Look {
        let Some(room) = self
            .buffer
            .get_mut(read.len()..)
            .filter(|room| !room.is_empty())
        else {
            return Look::Refuse(Refusal::TooLarge);
        };
        let more = match skep_sys::peek(socket, room) {
            Ok(0) => None,
            Ok(more) => Some(more),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Some(0),
            Err(_) => return Look::Close,
        };
        self.buffer[..read.len()].copy_from_slice(read);
        let bytes = &self.buffer[..read.len() + more.unwrap_or(0)];
        *spoken = peek::spoken(bytes, *spoken);
        match peek::hear(bytes, &self.limits, *spoken) {
            Heard::NeedMore if more.is_none() => Look::Close,
            Heard::NeedMore => match spoken {
                Spoken::Http2 {
                    greeted: greeted @ false,
                } => {
                    *greeted = true;
                    // A socket that was never written to has room for it.
                    match skep_sys::write_now(socket, GREETING) {
                        Ok(sent) if sent == GREETING.len() => Look::More,
                        Ok(_) | Err(_) => Look::Close,
                    }
                }
                _ => Look::More,
            },
            Heard::Host(host) => Look::Host(host.unwrap_or_default()),
            // The answer is in words of HTTP/1.
            Heard::Bad | Heard::TooLarge if !peek::is_http1(bytes, *spoken) => Look::Close,
            Heard::Bad => Look::Refuse(Refusal::Bad),
            Heard::TooLarge => Look::Refuse(Refusal::TooLarge),
        }
    }
}
