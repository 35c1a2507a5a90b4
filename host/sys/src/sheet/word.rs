//! One word of a sheet: a count, since when it is counted, and whose it is.

use std::sync::atomic::Ordering::SeqCst;

use portable_atomic::AtomicU128;

/// The largest count that a word holds.
pub(super) const MAX_COUNT: u32 = (1 << COUNT_BITS) - 1;

/// Bits of a word, from the lowest: the count; milliseconds since the machine's
/// start, of which these are enough for 139 years; who brought the key, and the
/// key whose count it is.
const COUNT_BITS: u32 = 30;
pub(super) const SINCE_BITS: u32 = 42;
const CLIENT_BITS: u32 = 16;
pub(super) const KEY_BITS: u32 = 128 - COUNT_BITS - SINCE_BITS - CLIENT_BITS;

/// So many since then. What it means is the caller's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Milliseconds of a clock that all processes share; below 2^42.
    pub since: u64,
    /// How many; below 2^30.
    pub count: u32,
}

/// Whose count a word is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Whose {
    /// Below 2^40.
    pub(super) key: u64,
    /// What stands for the client that brought it first.
    pub(super) client: u16,
}

/// One word: whose it is, since when, how many.
pub(super) const fn pack(whose: Whose, count: Count) -> u128 {
    debug_assert!(count.count <= MAX_COUNT, "counts have 30 bits");
    debug_assert!(count.since < 1 << SINCE_BITS, "times have 42 bits");
    debug_assert!(whose.key < 1 << KEY_BITS, "keys have 40 bits");
    ((whose.key as u128) << CLIENT_BITS | whose.client as u128) << (COUNT_BITS + SINCE_BITS)
        | ((count.since as u128) & ((1 << SINCE_BITS) - 1)) << COUNT_BITS
        | (count.count & MAX_COUNT) as u128
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the parts were cut to size"
)]
pub(super) const fn unpack(word: u128) -> (Whose, Count) {
    let count = Count {
        since: ((word >> COUNT_BITS) & ((1 << SINCE_BITS) - 1)) as u64,
        count: (word as u32) & MAX_COUNT,
    };
    let whose = Whose {
        key: (word >> (COUNT_BITS + SINCE_BITS + CLIENT_BITS)) as u64,
        client: (word >> (COUNT_BITS + SINCE_BITS)) as u16,
    };
    (whose, count)
}

/// Changes a word as `step` says, for as long as it is this key's. Whether it
/// was. It changes at once or not at all.
pub(super) fn update<E>(
    word: &AtomicU128,
    key: u64,
    step: impl Fn(Count) -> Result<Count, E>,
) -> Result<bool, E> {
    let mut seen = word.load(SeqCst);
    loop {
        let (whose, count) = unpack(seen);
        if whose.key != key {
            return Ok(false);
        }
        let next = pack(whose, step(count)?);
        match word.compare_exchange_weak(seen, next, SeqCst, SeqCst) {
            Ok(_) => return Ok(true),
            Err(newer) => seen = newer,
        }
    }
}
