//! The counts by key of one row: a table of a fixed size, in which each key has
//! a choice of few places.
//!
//! A count that is over is as good as none, so nothing needs to be removed, and
//! a process that dies leaves nothing behind that does not end by itself.
//!
//! Where all places of a key are taken by counts that are not over, one of them
//! makes room, so that nobody can lock others out by making up keys:
//!
//! - A client that has fewer keys in these places than another takes the place
//!   of one of the other's, and its count begins like any. So one client's keys
//!   can fill a table and are in nobody's way.
//! - Otherwise the lowest count makes room, one of the client's own if it has
//!   any. The new one goes on where it was, less one: so keys that were made up
//!   for one request each drive out each other, and whoever drives out a key of
//!   his own to begin it anew gains one request for each that he makes for that.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::SeqCst;

use portable_atomic::AtomicU128;

use super::Counting;
use super::word::{Count, KEY_BITS, Whose, pack, unpack, update};

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
        key: Key,
        now: u64,
        is_over: &impl Fn(Count) -> bool,
        step: &impl Fn(Count) -> Result<Count, E>,
    ) -> Counting<E> {
        let places = Places::of(self, key);
        loop {
            let look = places.look(now, is_over);
            let (place, seen, count) = match look {
                Look::Live(live) => match places.step(live, step) {
                    Ok(true) => return Counting::Done,
                    // It ended, and somebody took its place.
                    Ok(false) => continue,
                    Err(refused) => return Counting::Refused(refused),
                },
                Look::Begin { place, seen, count } => (place, seen, count),
            };
            let next = match step(count) {
                Ok(next) => pack(places.whose, next),
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
            let Look::Live(live) = places.look(now, is_over) else {
                return Counting::Done;
            };
            return match places.step(live & !(1 << place), step) {
                Ok(_) => Counting::Done,
                Err(refused) => Counting::Refused(refused),
            };
        }
    }
}

/// What stands for a key in one sheet, and for the client that brings it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key {
    pub(super) bits: u64,
    pub(super) client: u16,
}

/// What stands for these bytes, brought by this client.
#[expect(
    clippy::cast_possible_truncation,
    reason = "all bits of a hash are as good as each other"
)]
pub(super) fn key<'a>(
    secret: &[AtomicU64; 2],
    client: &[u8],
    parts: impl IntoIterator<Item = &'a [u8]>,
) -> Key {
    Key {
        bits: hash(secret, parts),
        client: hash(secret, [client]) as u16,
    }
}

/// SipHash with a secret key.
fn hash<'a>(secret: &[AtomicU64; 2], parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
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
    whose: Whose,
    buckets: [&'a [AtomicU128; PLACES]; 2],
}

/// What is in them.
enum Look {
    /// Counts of this key that are not over: one bit for each place. More than
    /// one only where two processes have begun at the same time.
    Live(u32),
    /// A count can begin here: the word that is there, and where it begins.
    Begin {
        place: usize,
        seen: u128,
        count: Count,
    },
}

impl<'a> Places<'a> {
    fn of(entries: &'a Entries, key: Key) -> Self {
        let bits = BUCKETS.trailing_zeros();
        let mask = BUCKETS as u64 - 1;
        let bucket = |bits: u64| {
            let index = usize::try_from(bits & mask).expect("a bucket's number is small");
            &entries.0[index]
        };
        let first = bucket(key.bits);
        // Another one, whatever the bits are.
        let second = bucket(key.bits ^ ((key.bits >> bits) | 1));
        let whose = Whose {
            // The buckets' bits need not be told apart again. The lowest bit is
            // set, so that no key is that of an empty place.
            key: (key.bits >> (u64::BITS - KEY_BITS)) | 1,
            client: key.client,
        };
        Self {
            whose,
            buckets: [first, second],
        }
    }

    fn at(&self, place: usize) -> &'a AtomicU128 {
        &self.buckets[place / PLACES][place % PLACES]
    }

    fn look(&self, now: u64, is_over: &impl Fn(Count) -> bool) -> Look {
        let mut live = 0;
        let mut own = None;
        let mut vacant = [(0, None); 2];
        let words: [u128; 2 * PLACES] = std::array::from_fn(|place| self.at(place).load(SeqCst));
        for (place, seen) in words.into_iter().enumerate() {
            let (whose, count) = unpack(seen);
            let over = is_over(count);
            if whose.key == self.whose.key && !over {
                live |= 1 << place;
            } else if whose.key == self.whose.key {
                own = Some((place, count));
            } else if over {
                let (room, at) = &mut vacant[place / PLACES];
                *room += 1;
                *at = Some((place, Count::default()));
            }
        }
        if live != 0 {
            return Look::Live(live);
        }
        let [first, second] = vacant;
        let (_, emptier) = if second.0 > first.0 { second } else { first };
        let (place, count) = own
            .or(emptier)
            .unwrap_or_else(|| make_room(&words, self.whose.client, now));
        Look::Begin {
            place,
            seen: words[place],
            count,
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
            counted |= update(self.at(place), self.whose.key, step)?;
        }
        Ok(counted)
    }
}

/// Which of these counts, none of which is over, makes room for a key that this
/// client brings, and where the new count begins.
fn make_room(words: &[u128; 2 * PLACES], client: u16, now: u64) -> (usize, Count) {
    let clients = words.map(|word| unpack(word).0.client);
    let places_of = |client| clients.iter().filter(|one| **one == client).count();
    let own = places_of(client);
    let most = clients.into_iter().max_by_key(|client| places_of(*client));
    let most = most.expect("there are places");
    let fewer = own + 1 < places_of(most);
    // Of equal counts the newest, so that whoever makes up keys replaces those.
    let lowest = |whose: Option<u16>| {
        let of = words.iter().enumerate();
        let of = of.filter(|(place, _)| whose.is_none_or(|whose| clients[*place] == whose));
        let of = of.map(|(place, word)| (place, unpack(*word).1));
        of.min_by_key(|(_, Count { since, count })| (*count, std::cmp::Reverse(*since)))
            .expect("this client has places")
    };
    if fewer {
        return (lowest(Some(most)).0, Count::default());
    }
    let (place, lowest) = lowest((own > 0).then_some(client));
    let count = match lowest.count.saturating_sub(1) {
        0 => Count::default(),
        count => Count { since: now, count },
    };
    (place, count)
}
