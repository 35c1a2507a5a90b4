use std::time::Instant;

use super::*;

static TICKS: AtomicU64 = AtomicU64::new(0);

fn tick() {
    TICKS.fetch_add(1, SeqCst);
    // A handler that leaks its errno would break what it interrupts.
    Errno::set_raw(libc::EXDEV);
}

/// Runs, as a guest would, until a condition holds or a deadline passes.
fn spin_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "never {what}");
        std::hint::spin_loop();
    }
}

fn ticks() -> u64 {
    TICKS.load(SeqCst)
}

// One test, because there is one ticker per process.
#[test]
fn ticks_come_while_somebody_is_inside() {
    // SAFETY: `tick` uses an atomic and errno.
    let ticker = unsafe { start(Duration::from_millis(1), tick) }.unwrap();
    // SAFETY: as above.
    let second = unsafe { start(Duration::from_millis(1), tick) }.unwrap_err();
    assert_eq!(second.kind(), io::ErrorKind::AlreadyExists);
    assert!(!ticker.is_armed());

    for _ in 0..3 {
        let inside = ticker.inside();
        assert!(ticker.is_armed());
        let before = ticks();
        Errno::set_raw(libc::EDOM);
        spin_until("ticking", || ticks() >= before + 200);
        assert_eq!(Errno::last_raw(), libc::EDOM);
        drop(inside);

        let left = ticks();
        spin_until("resting", || !ticker.is_armed());
        let rested = ticks();
        assert!(rested - left <= u64::from(QUIET_TICKS) + 2);
        let start = Instant::now();
        spin_until("20 ms later", || {
            start.elapsed() > Duration::from_millis(20)
        });
        // One signal may have been on its way.
        assert!(ticks() <= rested + 1, "{} after {rested}", ticks());
    }

    the_period_changes_while_it_ticks(&ticker);
    rapid_entries_lose_no_ticks(&ticker);
    entries_that_race_with_resting_are_armed(&ticker);

    drop(ticker);
    let end = ticks();
    let start = Instant::now();
    spin_until("5 ms later", || start.elapsed() > Duration::from_millis(5));
    assert!(ticks() <= end + 1);
}

fn the_period_changes_while_it_ticks(ticker: &Ticker) {
    let ticks_per = |what: &str, time: Duration| {
        let (before, start) = (ticks(), Instant::now());
        spin_until(what, || start.elapsed() > time);
        ticks() - before
    };
    let inside = ticker.inside();
    // Signals that are still pending when the next one comes are one: a busy
    // machine has fewer, never more.
    let slow = ticks_per("50 ms of 10 ms each", {
        set_period(Duration::from_millis(10));
        Duration::from_millis(50)
    });
    assert!(slow <= 7, "{slow}");
    set_period(Duration::ZERO);
    set_period(Duration::from_micros(250));
    let before = ticks();
    spin_until("ticking faster", || ticks() >= before + 100);
    drop(inside);
    spin_until("resting", || !ticker.is_armed());
    // Takes effect when it is armed again, and does not arm it.
    set_period(Duration::from_millis(1));
    assert!(!ticker.is_armed());
}

fn rapid_entries_lose_no_ticks(ticker: &Ticker) {
    let before = ticks();
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(300) {
        drop(ticker.inside());
        assert!(ticker.is_armed());
    }
    // A busy machine delays ticks and merges them; it must not stop them.
    assert!(ticks() - before > 30, "{} ticks", ticks() - before);
}

/// Enters again just when the handler disarms, from this thread, which it
/// interrupts, and from another one.
fn entries_that_race_with_resting_are_armed(ticker: &Ticker) {
    for round in 0..30 {
        drop(ticker.inside());
        let quiet = QUIET_TICKS - 2 + round % 3;
        spin_until("quiet", || {
            QUIET.load(SeqCst) >= quiet || !ticker.is_armed()
        });
        let enter = || {
            for _ in 0..2000 {
                drop(ticker.inside());
            }
            let inside = ticker.inside();
            let before = ticks();
            spin_until("ticking after a race", || ticks() > before + 1);
            drop(inside);
        };
        std::thread::scope(|scope| {
            scope.spawn(enter);
            enter();
        });
    }
}
