use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use super::word::{KEY_BITS, MAX_COUNT, SINCE_BITS, Whose, pack, unpack};
use super::*;

/// Keys of which the places are known: all of the same two buckets.
fn neighbour(n: u64, client: u16) -> Key {
    Key {
        bits: n << 40,
        client,
    }
}

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
    for (key, client, since, count) in [
        (0, 0, 0, 0),
        (1, 1, 1, 1),
        (
            (1 << KEY_BITS) - 1,
            u16::MAX,
            (1 << SINCE_BITS) - 1,
            MAX_COUNT,
        ),
        (0x00ab_cdef, 1 << 15, 1 << 41, 1 << 29),
    ] {
        let (whose, count) = (Whose { key, client }, Count { since, count });
        assert_eq!(unpack(pack(whose, count)), (whose, count));
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
    let keyed = sheet.count_key(ROWS, neighbour(1, 1), 0, is_over(0), step(0, 3));
    assert_eq!(keyed, Counting::NoPlace);
    assert_eq!(sheet.begin_call(ROWS, 0, 1, 1), Err(Full));
    assert_eq!(sheet.begin_call(0, CELLS, 1, 1), Err(Full));
}

#[test]
fn keys_are_counted_apart_and_those_that_are_over_make_room() {
    let sheet = Sheet::create().unwrap();
    let key = |n: u64| sheet.key_of(b"one", [&n.to_ne_bytes()[..]]);
    let of = |sheet: &Sheet, parts: &[&'static [u8]]| sheet.key_of(b"one", parts.iter().copied());
    assert_eq!(of(&other(&sheet), &[b"a"]), of(&sheet, &[b"a"]));
    assert_ne!(of(&sheet, &[b"ab", b"c"]), of(&sheet, &[b"a", b"bc"]));
    assert_ne!(of(&Sheet::create().unwrap(), &[b"a"]), of(&sheet, &[b"a"]));

    let ask = |n, now| sheet.count_key(3, key(n), now, is_over(now), step(now, 2));
    for n in 0..40_000 {
        assert_eq!(ask(n, 10), Counting::Done, "{n}");
        assert_eq!(ask(n, 11), Counting::Done);
    }
    // None had to make room.
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
    // Another row has another table.
    assert_eq!(
        sheet.count_key(4, key(9), 10_000, is_over(10_000), step(10_000, 2)),
        Counting::Done
    );
}

/// A client of the sheet's and its keys.
struct Asks<'a> {
    sheet: &'a Sheet,
    limit: u32,
}

impl Asks<'_> {
    /// Whether a client is let in with a key.
    fn ask(&self, client: u32, key: u64, now: u64) -> bool {
        let key = self
            .sheet
            .key_of(&client.to_ne_bytes(), [&key.to_ne_bytes()[..]]);
        let counted = self
            .sheet
            .count_key(0, key, now, is_over(now), step(now, self.limit));
        counted == Counting::Done
    }
}

/// Whatever a client makes up in whatever numbers, one request for each or all
/// that the rate allows: customers are served as if it were not there, those
/// that came before and those that come while it goes on.
#[test]
fn keys_that_a_client_makes_up_lock_nobody_out() {
    const LIMIT: u32 = 5;
    for each in [1, LIMIT] {
        let sheet = Sheet::create().unwrap();
        let asks = Asks {
            sheet: &sheet,
            limit: LIMIT,
        };
        for customer in 1..500 {
            assert!(asks.ask(customer, customer.into(), 1));
            assert!(asks.ask(customer, customer.into(), 1));
        }
        let mut made_up = (1 << 32)..;
        let mut make_up = |count: usize| {
            for key in made_up.by_ref().take(count) {
                for _ in 0..each {
                    asks.ask(0, key, 2);
                }
            }
        };
        make_up(75_000);
        for customer in 1..500 {
            let rest = (0..10).filter(|_| asks.ask(customer, customer.into(), 3));
            assert_eq!(rest.count(), LIMIT as usize - 2, "{customer}");
        }
        for customer in 500..700 {
            let all = (0..10).filter(|_| {
                make_up(20);
                asks.ask(customer, customer.into(), 3)
            });
            assert_eq!(all.count(), LIMIT as usize, "{customer}");
        }
    }
}

/// The same where each key comes from a client of its own.
#[test]
fn keys_that_many_clients_make_up_lock_nobody_out() {
    const LIMIT: u32 = 5;
    let sheet = Sheet::create().unwrap();
    let asks = Asks {
        sheet: &sheet,
        limit: LIMIT,
    };
    let mut made_up = 1_000_000..;
    let mut make_up = |count: usize| {
        for key in made_up.by_ref().take(count) {
            assert!(asks.ask(key, key.into(), 2));
        }
    };
    make_up(100_000);
    let (mut most, mut sum) = (0, 0);
    for customer in 0..500 {
        let all = (0..20).filter(|_| {
            make_up(20);
            asks.ask(customer, customer.into(), 3)
        });
        let all = u32::try_from(all.count()).unwrap();
        assert!(all >= LIMIT, "{customer}: {all}");
        (most, sum) = (most.max(all), sum + all);
    }
    // Each time that it had to make room it got one more.
    assert!(most <= LIMIT + 3, "{most}");
    assert!(sum < 500 * LIMIT + 500 / 4, "{sum}");
}

/// Who knows which keys have the same places, and fills all of them, gets one
/// request more for each that he makes for it.
#[test]
fn whoever_drives_out_a_key_to_begin_it_anew_gains_nothing() {
    const LIMIT: u32 = 10;
    for (filled, clients) in [(1, 1), (4, 1), (10, 1), (1, 100), (5, 100), (10, 100)] {
        let sheet = Sheet::create().unwrap();
        let ask = |n: u64| {
            let client = u16::try_from(n % clients).unwrap();
            let key = neighbour(n, client);
            sheet.count_key(0, key, 5, is_over(5), step(5, LIMIT)) == Counting::Done
        };
        for n in 1..40 {
            for _ in 0..filled {
                ask(n);
            }
        }
        let (mut let_in, mut others) = (0, 0);
        for n in 100..400 {
            let_in += (0..LIMIT).filter(|_| ask(0)).count();
            others += usize::from(ask(n));
        }
        assert!(let_in <= LIMIT as usize + others, "{let_in} by {others}");
    }
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
    // Few keys in few places, which are enough for them.
    let crowd: Vec<u64> = (0..9_u64).map(|n| (n % 3) | (n / 3) << 40).collect();
    for round in 0..200_u64 {
        let now = round * 500;
        let accepted: Vec<BTreeMap<u64, u32>> = thread::scope(|scope| {
            let threads: Vec<_> = (0..4_u64)
                .map(|thread| {
                    let (sheet, crowd) = (&sheet, &crowd);
                    scope.spawn(move || {
                        let mut accepted = BTreeMap::new();
                        for n in 0..crowd.len() * 12 {
                            let n = n + usize::try_from(thread).unwrap() * 7;
                            // Half of the keys only every other round.
                            let key = crowd[n % crowd.len()] ^ ((round % 2) << 50);
                            let now = now + thread % 2;
                            let keyed = Key {
                                bits: key,
                                client: 0,
                            };
                            let keyed =
                                sheet.count_key(1, keyed, now, is_over(now), step(now, LIMIT));
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
            other.count_key(row, neighbour(7, 7), 1, is_over(1), step(1, 1)),
            Counting::Done
        );
    }
    sheet.clear_row(8).unwrap();
    assert_eq!(other.count(8, step(1, 1)), Counting::Done);
    assert_eq!(other.calls(8), 0);
    assert_eq!(
        other.count_key(8, neighbour(7, 7), 1, is_over(1), step(1, 1)),
        Counting::Done
    );
    assert_eq!(other.count(9, step(1, 1)), Counting::Refused(Full));
    assert_eq!(other.calls(9), 1);
    assert_eq!(
        other.count_key(9, neighbour(7, 7), 1, is_over(1), step(1, 1)),
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
