//! What is asked of a terminal.

use std::mem;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// How many columns a terminal has; `None` for what is no terminal, and for one
/// that does not say.
#[must_use]
pub fn columns_of(terminal: BorrowedFd<'_>) -> Option<u16> {
    // SAFETY: `winsize` is four numbers, for which all zeroes is a value.
    let mut size: libc::winsize = unsafe { mem::zeroed() };
    // SAFETY: TIOCGWINSZ writes one `winsize` to the address that it is given; `size`
    // is one, is ours alone, and outlives the call. The descriptor is open for as
    // long as it is borrowed.
    let told = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    (told == 0 && size.ws_col > 0).then_some(size.ws_col)
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_is_no_terminal_has_no_columns() {
        let file = tempfile::tempfile().unwrap();
        assert_eq!(columns_of(file.as_fd()), None);
    }
}
