//! Signals that come before anybody handles them, and what a process inherits
//! of its parent's ways with them.

use std::ffi::{CStr, c_char, c_int};
use std::io;

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, pthread_sigmask, signal};

/// The commands that obey signals.
const OBEYS: &CStr = c"serve";

/// Runs before `main`, and before what other libraries do before it: a
/// reload that is asked for now is done when the fleet is there, and does not
/// end the process, as is the way of SIGHUP.
// SAFETY: the section is one of pointers to functions that are called with the
// arguments of the program, by the C library that this is linked with.
#[used]
#[unsafe(link_section = ".preinit_array")]
static HOLD: extern "C" fn(c_int, *const *const c_char, *const *const c_char) = hold;

extern "C" fn hold(count: c_int, arguments: *const *const c_char, _: *const *const c_char) {
    let count = usize::try_from(count).unwrap_or(0);
    let mut arguments = (1..count).map(|index| {
        // SAFETY: the C library passes as many pointers to strings that live as
        // long as the process.
        unsafe { CStr::from_ptr(*arguments.add(index)) }
    });
    if arguments.any(|argument| argument == OBEYS) {
        let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&held()), None);
    }
}

/// What waits until somebody handles it. A process that is the first of its
/// namespace has no defaults: what it does not handle and does not block is lost.
fn held() -> SigSet {
    let mut held = SigSet::empty();
    held.add(Signal::SIGHUP);
    if std::process::id() == 1 {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT] {
            held.add(signal);
        }
    }
    held
}

/// Ends of children are told from now on: a parent that ignored SIGCHLD had the
/// kernel throw away how they ended.
///
/// # Errors
///
/// None that a kernel gives for these arguments.
pub fn hear_of_children() -> io::Result<()> {
    // SAFETY: the default disposition runs no code of ours.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }?;
    Ok(())
}

/// Blocks nothing from now on, whatever the parent blocked, or this process
/// before `main`. Signals that waited come now. To be called once they are
/// handled, or by who handles none.
///
/// # Errors
///
/// None that a kernel gives for these arguments.
pub fn release() -> io::Result<()> {
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Ignores the signals that end a process and mean nothing to this one:
/// SIGUSR1, SIGUSR2, and SIGXFSZ, which comes beside the error of a write beyond
/// the limit of a file's size.
///
/// # Errors
///
/// None that a kernel gives for these arguments.
pub fn ignore_foreign() -> io::Result<()> {
    for foreign in [Signal::SIGUSR1, Signal::SIGUSR2, Signal::SIGXFSZ] {
        // SAFETY: to be ignored runs no code of ours.
        unsafe { signal(foreign, SigHandler::SigIgn) }?;
    }
    Ok(())
}
