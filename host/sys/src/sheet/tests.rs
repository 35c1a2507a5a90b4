use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use super::word::{KEY_BITS, MAX_COUNT, SINCE_BITS, pack, unpack};
use super::*;

/// So many in a window of a thousand, from the first on.
fn step(now: u64, limit: u32) -> impl Fn(Count) -> Result<Count, Full> {
    move |count| {
        if is_over(now)(count) {
            Ok(Count {
                since: now,
                count: 1,
            })
        } else if count.count < limit {
            Ok(Count {
                count: count.count + 1,
                ..count
            })
        } else {
            Err(Full)
        }
    }
}

fn is_over(now: u64) -> impl Fn(Count) -> bool {
    move |count| count.count == 0 || now.saturating_sub(count.since) >= 1000
}

fn other(sheet: &Sheet) -> Sheet {
    Sheet::open(sheet.as_fd().try_clone_to_owned().unwrap()).unwrap()
}

#[test]
fn words_hold_what_they_are_given() {
    for (key, since, count) in [
        (0, 0, 0),
        (1, 1, 1),
        ((1 << KEY_BITS) - 1, (1 << SINCE_BITS) - 1, MAX_COUNT),
        (0x00ab_cdef, 1 << 41, 1 << 29),
    ] {
        let count = Count { since, count };
        assert_eq!(unpack(pack(key, count)), (key, count));
    }
}

#[test]
fn what_one_mapping_counts_another_limits() {
    let sheet = Sheet::create().unwrap();
    let other = other(&sheet);
    for row in [0, 7, ROWS - 1] {
        for _ in 0..2 {
            assert_eq!(sheet.count(row, step(50, 3)), Counting::Done);
        }
        assert_eq!(other.count(row, step(1049, 3)), Counting::Done);
        assert_eq!(other.count(row, step(1049, 3)), Counting::Refused(Full));
        assert_eq!(other.count(row, step(1050, 3)), Counting::Done);
    }
    assert_eq!(sheet.count(ROWS, step(50, 3)), Counting::NoPlace);
    let keyed = sheet.count_key(ROWS, 1, is_over(0), step(0, 3));
    assert_eq!(keyed, Counting::NoPlace);
    assert_eq!(sheet.begin_call(ROWS, 0, 1, 1), Err(Full));
    assert_eq!(sheet.begin_call(0, CELLS, 1, 1), Err(Full));
}

#[test]
fn keys_are_counted_apart_and_those_that_are_over_make_room() {
    let sheet = Sheet::create().unwrap();
    let key = |n: u64| sheet.key_of([&n.to_ne_bytes()[..]]);
    assert_eq!(other(&sheet).key_of([&b"a"[..]]), sheet.key_of([&b"a"[..]]));
    assert_ne!(
        sheet.key_of([&b"ab"[..], b"c"]),
        sheet.key_of([&b"a"[..], b"bc"])
    );
    assert_ne!(
        Sheet::create().unwrap().key_of([&b"a"[..]]),
        sheet.key_of([&b"a"[..]])
    );

    let ask = |n, now| sheet.count_key(3, key(n), is_over(now), step(now, 2));
    for n in 0..40_000 {
        assert_eq!(ask(n, 10), Counting::Done, "{n}");
        assert_eq!(ask(n, 11), Counting::Done);
    }
    assert_eq!(sheet.crowded(3), 0);
    for n in 0..40_000 {
        assert_eq!(ask(n, 1009), Counting::Refused(Full), "{n}");
    }
    // Others in the place of those: as many again, and again.
    for turn in 1..4 {
        let now = 10 + turn * 1000;
        for n in 0..40_000 {
            assert_eq!(ask(turn * 100_000 + n, now), Counting::Done);
        }
    }
    assert_eq!(sheet.crowded(3), 0);
    // More than there is room for: some have no place, and those who have one
    // keep it.
    let crowded = (0..100_000)
        .filter(|n| ask(1_000_000 + n, 10_000) == Counting::NoPlace)
        .count();
    assert!((34_464..50_000).contains(&crowded), "{crowded}");
    assert_eq!(sheet.crowded(3), crowded as u64);
    assert_eq!(ask(1_000_000, 10_001), Counting::Done);
    assert_eq!(ask(1_000_000, 10_002), Counting::Refused(Full));
    // Another row has another table.
    assert_eq!(
        sheet.count_key(4, key(9), is_over(10_000), step(10_000, 2)),
        Counting::Done
    );
}

#[test]
fn threads_that_count_at_the_same_time_count_exactly() {
    const LIMIT: u32 = 1000;
    let sheet = Sheet::create().unwrap();
    let mappings: Vec<Sheet> = (0..4).map(|_| other(&sheet)).collect();
    for row in 0..3 {
        let accepted: Vec<usize> = thread::scope(|scope| {
            let threads: Vec<_> = mappings
                .iter()
                .map(|sheet| {
                    scope.spawn(move || {
                        (0..LIMIT)
                            .filter(|_| sheet.count(row, step(5, LIMIT)) == Counting::Done)
                            .count()
                    })
                })
                .collect();
            threads.into_iter().map(|one| one.join().unwrap()).collect()
        });
        assert_eq!(
            accepted.iter().sum::<usize>(),
            LIMIT as usize,
            "{accepted:?}"
        );
    }
}

/// Clocks of processes are read before words are: some ask as of a moment ago.
#[test]
fn no_key_gets_more_than_its_share_whoever_begins_it() {
    const LIMIT: u32 = 3;
    let sheet = Sheet::create().unwrap();
    // Few keys in few places, so that they drive each other out.
    let crowd: Vec<u64> = (0..60_u64).map(|n| (n % 3) | (n / 3) << 40).collect();
    for round in 0..200_u64 {
        let now = round * 500;
        let accepted: Vec<BTreeMap<u64, u32>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4_u64)
                .map(|thread| {
                    let (sheet, crowd) = (&sheet, &crowd);
                    scope.spawn(move || {
                        let mut accepted = BTreeMap::new();
                        for n in 0..crowd.len() * 2 {
                            let n = n + usize::try_from(thread).unwrap() * 7;
                            // Half of the keys only every other round.
                            let key = crowd[n % crowd.len()] ^ ((round % 2) << 50);
                            let now = now + thread % 2;
                            let keyed = sheet.count_key(1, key, is_over(now), step(now, LIMIT));
                            if keyed == Counting::Done {
                                *accepted.entry(key).or_default() += 1;
                            }
                        }
                        accepted
                    })
                })
                .collect();
            threads.into_iter().map(|one| one.join().unwrap()).collect()
        });
        let mut all = BTreeMap::<u64, u32>::new();
        for (key, count) in accepted.into_iter().flatten() {
            *all.entry(key).or_default() += count;
        }
        for (key, count) in all {
            assert!(count <= LIMIT, "{count} of {key:x} in round {round}");
        }
    }
}

#[test]
fn there_are_never_more_calls_than_the_limit_and_none_is_lost() {
    const LIMIT: u32 = 3;
    let sheet = Sheet::create().unwrap();
    sheet.use_up_to(4);
    let in_flight = AtomicU32::new(0);
    let most = AtomicU32::new(0);
    let begun: Vec<u32> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|cell| {
                let (sheet, in_flight, most) = (other(&sheet), &in_flight, &most);
                scope.spawn(move || {
                    let mut begun = 0;
                    for _ in 0..20_000 {
                        if sheet.begin_call(2, cell, LIMIT, LIMIT).is_ok() {
                            begun += 1;
                            let now = in_flight.fetch_add(1, SeqCst) + 1;
                            most.fetch_max(now, SeqCst);
                            in_flight.fetch_sub(1, SeqCst);
                            sheet.end_call(2, cell);
                        }
                    }
                    begun
                })
            })
            .collect();
        threads.into_iter().map(|one| one.join().unwrap()).collect()
    });
    assert!(most.load(SeqCst) <= LIMIT);
    assert!(begun.iter().all(|begun| *begun > 0), "{begun:?}");
    assert_eq!(sheet.calls(2), 0);
}

#[test]
fn a_worker_that_waits_with_less_than_its_share_comes_first() {
    let sheet = Sheet::create().unwrap();
    sheet.use_up_to(2);
    let begin = |cell| sheet.begin_call(0, cell, 4, 2);
    for _ in 0..4 {
        assert_eq!(begin(0), Ok(()));
    }
    assert_eq!(begin(1), Err(Full));
    sheet.set_waiting(0, 1, true);
    sheet.end_call(0, 0);
    assert_eq!(begin(0), Err(Full));
    assert_eq!(begin(1), Ok(()));
    sheet.end_call(0, 0);
    assert_eq!(begin(0), Err(Full));
    assert_eq!(begin(1), Ok(()));
    // Each has its share: who comes first.
    sheet.end_call(0, 1);
    sheet.set_waiting(0, 1, false);
    assert_eq!(begin(0), Ok(()));
    assert_eq!(sheet.calls(0), 4);
    // It dies.
    sheet.clear_cell(0);
    assert_eq!(sheet.calls(0), 1);
    sheet.end_call(0, 0);
    assert_eq!(sheet.calls(0), 1);
}

#[test]
fn a_row_is_given_to_somebody_else_only_clean() {
    let sheet = Sheet::create().unwrap();
    let other = other(&sheet);
    sheet.use_up_to(1);
    for row in [8, 9] {
        assert_eq!(other.count(row, step(1, 1)), Counting::Done);
        other.begin_call(row, 0, 1, 1).unwrap();
        assert_eq!(
            other.count_key(row, 77, is_over(1), step(1, 1)),
            Counting::Done
        );
    }
    sheet.clear_row(8).unwrap();
    assert_eq!(other.count(8, step(1, 1)), Counting::Done);
    assert_eq!(other.calls(8), 0);
    assert_eq!(
        other.count_key(8, 77, is_over(1), step(1, 1)),
        Counting::Done
    );
    assert_eq!(other.count(9, step(1, 1)), Counting::Refused(Full));
    assert_eq!(other.calls(9), 1);
    assert_eq!(
        other.count_key(9, 77, is_over(1), step(1, 1)),
        Counting::Refused(Full)
    );
}

#[test]
fn memory_is_spent_on_what_is_counted_only() {
    let sheet = Sheet::create().unwrap();
    let pages = || fstat(&sheet.memory).unwrap().st_blocks * 512 / 4096;
    sheet.use_up_to(CELLS);
    for row in 0..100 {
        assert_eq!(sheet.count(row, step(1, 1)), Counting::Done);
    }
    sheet.clear_cell(3);
    assert!(pages() <= 102, "{}", pages());
    for row in 0..100 {
        sheet.clear_row(row).unwrap();
    }
    assert!(pages() <= 2, "{}", pages());
}

#[test]
fn memory_that_is_no_sheet_is_refused() {
    let file = std::fs::File::open("/proc/self/exe").unwrap();
    assert!(Sheet::open(file.into()).is_err());

    let unsealed = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    ftruncate(&unsealed, i64::try_from(LENGTH).unwrap()).unwrap();
    assert!(Sheet::open(unsealed).is_err());

    let short = memfd_create(c"test", MFdFlags::MFD_ALLOW_SEALING).unwrap();
    ftruncate(&short, i64::try_from(LENGTH - 4096).unwrap()).unwrap();
    fcntl(&short, FcntlArg::F_ADD_SEALS(SEALS)).unwrap();
    assert!(Sheet::open(short).is_err());

    let sheet = Sheet::create().unwrap();
    assert!(ftruncate(sheet.as_fd(), 0).is_err());
}

/// The same as with threads, with the count in many windows: each is full when
/// the next begins, whoever begins it.
#[test]
fn windows_that_follow_each_other_are_exact() {
    const LIMIT: u32 = 50;
    let sheet = Sheet::create().unwrap();
    let clock = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    let passed: Vec<Vec<u64>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..3)
            .map(|_| {
                let (sheet, clock, done) = (other(&sheet), &clock, &done);
                scope.spawn(move || {
                    let mut passed = Vec::new();
                    while !done.load(Relaxed) {
                        let now = clock.fetch_add(1, SeqCst) / 4;
                        // Says into which window it came.
                        let window = AtomicU64::new(0);
                        let counted = sheet.count(0, |count| {
                            let next = step(now, LIMIT)(count)?;
                            window.store(next.since, Relaxed);
                            Ok::<_, Full>(next)
                        });
                        if counted == Counting::Done {
                            passed.push(window.into_inner());
                        }
                        if now > 40_000 {
                            done.store(true, Relaxed);
                        }
                    }
                    passed
                })
            })
            .collect();
        threads.into_iter().map(|one| one.join().unwrap()).collect()
    });
    let mut windows = BTreeMap::<u64, u32>::new();
    for since in passed.into_iter().flatten() {
        *windows.entry(since).or_default() += 1;
    }
    assert!(windows.len() >= 39, "{windows:?}");
    windows.pop_last();
    assert!(windows.values().all(|count| *count == LIMIT), "{windows:?}");
    let starts: Vec<u64> = windows.keys().copied().collect();
    assert!(starts.windows(2).all(|two| two[1] - two[0] >= 1000));
}
