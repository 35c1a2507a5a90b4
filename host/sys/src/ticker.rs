//! A tick that exists only while guests run.
//!
//! Responsible for calling one function every period while at least one guest
//! is inside [`Ticker::enter`] … [`Ticker::leave`]. What a tick does is the
//! caller's (it advances an epoch).
//!
//! A worker runs guests on the thread that also polls the sockets, so the tick
//! comes as a signal to that thread. A timer that is always armed would wake an
//! idle worker a thousand times a second, and arming it for each call would
//! cost two system calls per request. So the handler itself disarms the timer,
//! after it has found nobody inside for a number of ticks in a row:
//!
//! ```text
//!            enter                 QUIET_TICKS ticks with nobody inside
//! Disarmed ────────▶ Armed ───────────────────────────────────────────▶ Disarming
//!    ▲                 ▲                                                    │ timer off
//!    └── nobody ───────┴──────────────── somebody entered meanwhile ────────┘
//! ```
//!
//! The order that loses no tick: `enter` first counts itself and then looks at
//! the state; the handler first leaves `Disarming` and then looks at the count.
//! With sequentially consistent accesses at least one of them sees the other's
//! write, and the exchange from `Disarmed` to `Armed` lets exactly one of them
//! arm the timer.

use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, Ordering::SeqCst};
use std::time::Duration;

use nix::errno::Errno;

/// Ticks with nobody inside after which the timer is disarmed: long enough
/// that a busy worker never pays for arming, short enough to be no load.
const QUIET_TICKS: u32 = 64;

const DISARMED: u8 = 0;
const ARMED: u8 = 1;
const DISARMING: u8 = 2;

// A signal handler has no other memory than statics; hence one ticker per
// process.
static TAKEN: AtomicBool = AtomicBool::new(false);
static TIMER: AtomicPtr<libc::c_void> = AtomicPtr::new(ptr::null_mut());
static PERIOD: AtomicU64 = AtomicU64::new(0);
static ON_TICK: AtomicPtr<()> = AtomicPtr::new(ptr::null_mut());
static STATE: AtomicU8 = AtomicU8::new(DISARMED);
static INSIDE: AtomicU32 = AtomicU32::new(0);
static QUIET: AtomicU32 = AtomicU32::new(0);

/// The running ticker of this process. Dropping it ends the ticks.
#[derive(Debug)]
pub struct Ticker(());

/// Prepares ticks on the calling thread, which is interrupted by them for as
/// long as it lives: use the thread that runs guests. System calls that can be
/// restarted are; waits with a timeout (`epoll_wait`) return `EINTR`, which
/// every runtime copes with.
///
/// # Safety
///
/// `on_tick` is called from a signal handler at any point of the thread's
/// work, so it may only do what is async-signal-safe: use atomics and make
/// system calls; not allocate, lock, panic or read thread-locals.
///
/// # Errors
///
/// `AlreadyExists` while there is another ticker; `InvalidInput` for a period
/// of zero or of more than an hour; otherwise the kernel has no timer left.
pub unsafe fn start(period: Duration, on_tick: fn()) -> io::Result<Ticker> {
    if period.is_zero() || period > Duration::from_secs(3600) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    if TAKEN.swap(true, SeqCst) {
        return Err(io::ErrorKind::AlreadyExists.into());
    }
    STATE.store(DISARMED, SeqCst);
    INSIDE.store(0, SeqCst);
    QUIET.store(0, SeqCst);
    PERIOD.store(
        u64::try_from(period.as_nanos()).expect("at most an hour"),
        SeqCst,
    );
    ON_TICK.store((on_tick as *const ()).cast_mut(), SeqCst);
    match install() {
        Ok(timer) => {
            TIMER.store(timer, SeqCst);
            Ok(Ticker(()))
        }
        Err(error) => {
            TAKEN.store(false, SeqCst);
            Err(error)
        }
    }
}

impl Ticker {
    /// A guest begins to run. Costs two atomic operations while the timer is
    /// armed. From any thread.
    pub fn enter(&self) {
        INSIDE.fetch_add(1, SeqCst);
        if STATE.load(SeqCst) == DISARMED {
            arm();
        }
    }

    /// A guest that has entered runs no more. One atomic operation.
    pub fn leave(&self) {
        let before = INSIDE.fetch_sub(1, SeqCst);
        debug_assert!(before > 0, "only who entered leaves");
    }

    /// [`enter`](Self::enter) now, and [`leave`](Self::leave) when the result
    /// is dropped.
    #[must_use]
    pub fn inside(&self) -> Inside<'_> {
        self.enter();
        Inside(self)
    }

    /// Whether the timer runs: for tests and diagnosis.
    #[must_use]
    pub fn is_armed(&self) -> bool {
        STATE.load(SeqCst) != DISARMED
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        let timer = TIMER.swap(ptr::null_mut(), SeqCst);
        // SAFETY: `timer` came from timer_create and is deleted once: TIMER is
        // only set by `start`. A handler that still reads the old value, or
        // whose signal is still on its way, at most makes timer_settime fail.
        unsafe { libc::timer_delete(timer) };
        // The handler stays installed, for a signal that is on its way.
        ON_TICK.store(ptr::null_mut(), SeqCst);
        TAKEN.store(false, SeqCst);
    }
}

/// Lets the ticks come every `period` from now on; those of the next ticker,
/// too, unless it says otherwise. One system call while the timer is armed. A
/// period of zero changes nothing.
///
/// Not a method: whoever paces guests does not hold the ticker, of which there
/// is one.
pub fn set_period(period: Duration) {
    let nanos = u64::try_from(period.as_nanos()).unwrap_or(u64::MAX);
    if nanos == 0 || PERIOD.swap(nanos, SeqCst) == nanos {
        return;
    }
    // While it is `DISARMING` the handler leaves the timer alone. If it is
    // disarmed, or about to be, whoever arms it next reads the period.
    if STATE
        .compare_exchange(ARMED, DISARMING, SeqCst, SeqCst)
        .is_ok()
    {
        set_timer(nanos);
        STATE.store(ARMED, SeqCst);
    }
}

/// Lets ticks come for a while from now on, as they do after a guest that has left: for
/// one that runs for a moment without being [counted](Ticker::enter). On the ticker's own
/// thread; without a ticker this does nothing. No system call while the timer is armed.
pub fn come() {
    if TIMER.load(SeqCst).is_null() {
        return;
    }
    QUIET.store(0, SeqCst);
    // The handler, which interrupts this thread, is never found in between.
    if STATE.load(SeqCst) == DISARMED {
        arm();
    }
}

/// Proof that a guest is counted as running.
#[derive(Debug)]
pub struct Inside<'a>(&'a Ticker);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// The signal of the ticks: a real-time one, so that nobody else uses it.
fn signal() -> libc::c_int {
    libc::SIGRTMIN()
}

fn install() -> io::Result<libc::timer_t> {
    // SAFETY: a zeroed sigaction is valid: no flags, empty mask, no handler.
    let mut action: libc::sigaction = unsafe { mem::zeroed() };
    action.sa_sigaction = on_signal as *const () as libc::sighandler_t;
    // Guests run on stacks of their own, with little room left below: the
    // handler uses the thread's alternate stack, which std has set up.
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: sigaction reads `action`. The handler has the signature that
    // goes without SA_SIGINFO and makes async-signal-safe calls only.
    Errno::result(unsafe { libc::sigaction(signal(), &raw const action, ptr::null_mut()) })?;

    // SAFETY: a zeroed sigevent is valid: integers and a union of pointers.
    let mut event: libc::sigevent = unsafe { mem::zeroed() };
    event.sigev_notify = libc::SIGEV_THREAD_ID;
    event.sigev_signo = signal();
    // SAFETY: gettid has no conditions.
    event.sigev_notify_thread_id = unsafe { libc::gettid() };
    let mut timer: libc::timer_t = ptr::null_mut();
    // SAFETY: timer_create reads `event` and writes `timer`, both of this
    // frame; the thread named in `event` is this one.
    Errno::result(unsafe {
        libc::timer_create(libc::CLOCK_MONOTONIC, &raw mut event, &raw mut timer)
    })?;
    Ok(timer)
}

/// Arms the timer unless somebody else does.
fn arm() {
    if STATE
        .compare_exchange(DISARMED, ARMED, SeqCst, SeqCst)
        .is_ok()
    {
        QUIET.store(0, SeqCst);
        set_timer(PERIOD.load(SeqCst));
    }
}

/// Lets the timer fire every `nanos`; 0 stops it.
fn set_timer(nanos: u64) {
    const SECOND: u64 = 1_000_000_000;
    // SAFETY: a zeroed timespec is valid, on any libc's layout.
    let mut period: libc::timespec = unsafe { mem::zeroed() };
    period.tv_sec = libc::time_t::try_from(nanos / SECOND).unwrap_or(0);
    period.tv_nsec = libc::c_long::try_from(nanos % SECOND).unwrap_or(0);
    let setting = libc::itimerspec {
        it_interval: period,
        it_value: period,
    };
    let timer = TIMER.load(SeqCst);
    // SAFETY: timer_settime reads `setting`, of this frame, and takes no old
    // value; the timer is one from timer_create. It is async-signal-safe.
    unsafe { libc::timer_settime(timer, 0, &raw const setting, ptr::null_mut()) };
}

extern "C" fn on_signal(_signal: libc::c_int) {
    // What was interrupted may be between a system call and its errno.
    let errno = Errno::last_raw();
    let on_tick = ON_TICK.load(SeqCst);
    if !on_tick.is_null() {
        // SAFETY: ON_TICK is null or a `fn()` that `start` stored, and function
        // pointers have the size of data pointers on Linux.
        let on_tick = unsafe { mem::transmute::<*mut (), fn()>(on_tick) };
        on_tick();
        rest_if_quiet();
    }
    Errno::set_raw(errno);
}

/// Disarms the timer once nobody has been inside for long enough.
fn rest_if_quiet() {
    if INSIDE.load(SeqCst) > 0 {
        QUIET.store(0, SeqCst);
        return;
    }
    if QUIET.fetch_add(1, SeqCst) + 1 < QUIET_TICKS
        || STATE
            .compare_exchange(ARMED, DISARMING, SeqCst, SeqCst)
            .is_err()
    {
        return;
    }
    set_timer(0);
    STATE.store(DISARMED, SeqCst);
    if INSIDE.load(SeqCst) > 0 {
        arm();
    }
}

#[cfg(test)]
mod tests;
