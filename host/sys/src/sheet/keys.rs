//! The counts by key of one row: a table of a fixed size, in which each key has
//! a choice of few places.
//!
//! A count that is over is as good as none, so nothing needs to be removed, and
//! a process that dies leaves nothing behind that does not end by itself.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use portable_atomic::AtomicU128;

use super::Counting;
use super::word::{Count, KEY_BITS, pack, unpack, update};

/// Buckets of a row. With those of eight, 65,536 clients at a time in a
/// megabyte; nothing is spent before they come.
const BUCKETS: usize = 1 << 13;

/// Places in a bucket: two cache lines. Each key has two buckets and takes a
/// place in the emptier one, so that nine in ten places are used before a key
/// finds none.
const PLACES: usize = 8;

/// The counts of one row's keys.
#[repr(C, align(4096))]
pub(super) struct Entries([[AtomicU128; PLACES]; BUCKETS]);

impl Entries {
    /// See [`Sheet::count_key`](super::Sheet::count_key).
    pub(super) fn count<E>(
        &self,
        key: u64,
        is_over: &impl Fn(Count) -> bool,
        step: &impl Fn(Count) -> Result<Count, E>,
    ) -> Counting<E> {
        let places = Places::of(self, key);
        loop {
            let look = places.look(is_over);
            let (place, seen, count) = match look {
                Look::Live(live) => match places.step(live, step) {
                    Ok(true) => return Counting::Done,
                    // It ended, and somebody took its place.
                    Ok(false) => continue,
                    Err(refused) => return Counting::Refused(refused),
                },
                Look::Begin { place, seen, count } => (place, seen, count),
                Look::Full => return Counting::NoPlace,
            };
            let next = match step(count) {
                Ok(next) => pack(places.key, next),
                Err(refused) => return Counting::Refused(refused),
            };
            let taken = places
                .at(place)
                .compare_exchange(seen, next, SeqCst, SeqCst);
            if taken.is_err() {
                continue;
            }
            // Somebody else may have begun a count of this key at the same
            // time in another place. Whoever of us was first is seen by all the
            // others here, so that one count has them all.
            let Look::Live(live) = places.look(is_over) else {
                return Counting::Done;
            };
            return match places.step(live & !(1 << place), step) {
                Ok(_) => Counting::Done,
                Err(refused) => Counting::Refused(refused),
            };
        }
    }
}

/// What stands for these bytes: SipHash with a secret key.
pub(super) fn hash<'a>(secret: &[AtomicU64; 2], parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    use std::hash::Hasher as _;
    #[expect(
        deprecated,
        reason = "for maps, whose keys are to be random; here several processes have to have the same"
    )]
    let mut hasher =
        std::hash::SipHasher::new_with_keys(secret[0].load(SeqCst), secret[1].load(SeqCst));
    for part in parts {
        // Where one ends and the next begins makes a difference.
        hasher.write_usize(part.len());
        hasher.write(part);
    }
    hasher.finish()
}

/// The two buckets of one key.
struct Places<'a> {
    /// As it is in words.
    key: u64,
    buckets: [&'a [AtomicU128; PLACES]; 2],
}

/// What is in them.
enum Look {
    /// Counts of this key that are not over: one bit for each place. More than
    /// one only where two processes have begun at the same time.
    Live(u32),
    /// A count can begin here: the word that is there, and what it says of this
    /// key.
    Begin {
        place: usize,
        seen: u128,
        count: Count,
    },
    /// All are taken.
    Full,
}

impl<'a> Places<'a> {
    fn of(entries: &'a Entries, key: u64) -> Self {
        let bits = BUCKETS.trailing_zeros();
        let mask = BUCKETS as u64 - 1;
        let bucket = |bits: u64| {
            let index = usize::try_from(bits & mask).expect("a bucket's number is small");
            &entries.0[index]
        };
        let first = bucket(key);
        // Another one, whatever the bits are.
        let second = bucket(key ^ ((key >> bits) | 1));
        // The first bucket's bits need not be told apart again. The lowest bit
        // is set, so that no key is that of an empty place.
        let key = (key >> (u64::BITS - KEY_BITS)) | 1;
        Self {
            key,
            buckets: [first, second],
        }
    }

    fn at(&self, place: usize) -> &'a AtomicU128 {
        &self.buckets[place / PLACES][place % PLACES]
    }

    fn look(&self, is_over: &impl Fn(Count) -> bool) -> Look {
        let mut live = 0;
        let mut own = None;
        let mut vacant = [(0, None); 2];
        for place in 0..2 * PLACES {
            let seen = self.at(place).load(SeqCst);
            let (key, count) = unpack(seen);
            let over = is_over(count);
            if key == self.key && !over {
                live |= 1 << place;
            } else if key == self.key {
                own = Some((place, seen, count));
            } else if over {
                let (room, at) = &mut vacant[place / PLACES];
                *room += 1;
                *at = Some((place, seen, Count::default()));
            }
        }
        if live != 0 {
            return Look::Live(live);
        }
        let [first, second] = vacant;
        let (_, emptier) = if second.0 > first.0 { second } else { first };
        match own.or(emptier) {
            Some((place, seen, count)) => Look::Begin { place, seen, count },
            None => Look::Full,
        }
    }

    /// Counts in all of these places. Whether any of them was still this key's.
    fn step<E>(
        &self,
        mut places: u32,
        step: &impl Fn(Count) -> Result<Count, E>,
    ) -> Result<bool, E> {
        let mut counted = false;
        while places != 0 {
            let place = places.trailing_zeros() as usize;
            places &= places - 1;
            counted |= update(self.at(place), self.key, step)?;
        }
        Ok(counted)
    }
}
