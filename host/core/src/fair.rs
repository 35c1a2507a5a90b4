//! A fair share of one worker's CPU for each of its tenants.
//!
//! Responsible for one question: who may run next? Weighted fair queueing:
//! every tenant has a *virtual time*, which advances by the CPU time that it is
//! charged, divided by its weight, and the one that is least far goes first.
//! Not responsible for guests, queues of tasks or clocks: `engine` asks before
//! it polls a guest, and charges after.
//!
//! A worker is one thread, so this is about whose slice of it is next:
//!
//! ```text
//!                    begin: the turn is not over; and it is alone, or not ahead
//!                           of anybody who is busy and within its allowance
//!   something to do ──────────────────────────────────────────────────▶ runs ──▶ charge
//!        │  otherwise                                                    ▲  │
//!        ▼                                          next: least virtual  │  │ meets a tick
//!     in line ───────────────────────────────────────────────────────────┘  │
//!        ▲                                                                  │
//!        └──────────────────────────────────────────────────────────────────┘
//! ```
//!
//! Three things make it fair to short calls as well, of which nothing can be
//! seen between one and the next:
//! - A guest that waits in line is held back for [`ANTICIPATION`] while a tenant
//!   that has had less was active a moment ago: its next request is on its way.
//!   That time is charged to whom it is spent for, so that nobody is held back
//!   for more than their half; and it is tried less often with a tenant for
//!   which it was in vain.
//! - Nobody hoards: who comes back after a pause is set to where the others
//!   are, less [`CREDIT`].
//! - Within one turn of the event loop, in which no socket is looked at, a tenant
//!   that has rivals runs for [`ALLOWANCE`], and all together for [`TURN`], before
//!   further guests get in line.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::moment::Moment;

/// CPU time that a tenant may use in one turn of the event loop without
/// getting in line, where it has rivals. A turn is what others wait for at
/// least, so it is short; ten requests of a plain handler fit into it.
pub const ALLOWANCE: Duration = Duration::from_micros(250);

/// CPU time that all guests together use in one turn of the event loop before
/// the next ones get in line and the sockets are looked at: the slice of one that
/// computes. Nobody can know before that look whether a tenant is alone.
pub const TURN: Duration = Duration::from_millis(1);

/// How long a guest in line is held back for a tenant that has had less and was
/// just active. A client on the same machine comes back within 100 µs.
pub const ANTICIPATION: Duration = Duration::from_micros(200);

/// How far behind the others a tenant is set that comes back after a pause:
/// enough that one which is active now and then goes first, and no burst.
pub const CREDIT: Duration = Duration::from_millis(1);

/// How long after its last activity a tenant counts as a rival.
pub const RIVALRY: Duration = Duration::from_millis(100);

/// The weight of a tenant like any other.
pub const EVEN: NonZeroU32 = NonZeroU32::new(64).expect("64 is not 0");

/// How often rivals are looked through for those that are none any more.
const SWEEP: Duration = Duration::from_millis(10);

/// Opportunities that are passed over at most after holding back was in vain:
/// 2 to the power of this.
const MAX_MISSES: u32 = 6;

/// One tenant of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(usize);

/// Who goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nobody is in line.
    Nobody,
    /// One of this tenant's, which has left the line by this.
    Go(Member),
    /// Somebody waits, and is held back for a moment: look at the sockets and
    /// ask again.
    HoldBack,
}

/// The shares of one worker's tenants.
#[derive(Clone, Debug, Default)]
pub struct Fair {
    members: Vec<State>,
    /// Places in `members` of tenants that have left.
    vacant: Vec<usize>,
    /// Those that are in line or were active within [`RIVALRY`].
    active: Vec<usize>,
    /// Virtual time below which nobody starts; never goes back.
    floor: u64,
    /// The greatest virtual time of all.
    highest: u64,
    turn: u64,
    /// CPU time of all in this turn.
    spent: Duration,
    held_back: Option<HeldBack>,
    swept: Moment,
    /// When somebody was in line last.
    in_line: Moment,
}

/// One tenant.
#[derive(Clone, Debug)]
struct State {
    weight: NonZeroU32,
    virtual_time: u64,
    waiting: u32,
    is_active: bool,
    seen: Moment,
    /// The turn that `spent` is of.
    turn: u64,
    spent: Duration,
    /// Times in a row that others were held back for it in vain.
    misses: u32,
    /// Opportunities to pass over before that is tried again.
    pass_over: u32,
}

/// For whom, and since when.
#[derive(Clone, Copy, Debug)]
struct HeldBack {
    member: usize,
    since: Moment,
}

impl Fair {
    /// Another tenant, of this weight.
    pub fn join(&mut self, weight: NonZeroU32) -> Member {
        let state = State {
            weight,
            virtual_time: self.highest,
            waiting: 0,
            is_active: false,
            seen: Moment::ORIGIN,
            turn: 0,
            spent: Duration::ZERO,
            misses: 0,
            pass_over: 0,
        };
        if let Some(at) = self.vacant.pop() {
            self.members[at] = state;
            return Member(at);
        }
        self.members.push(state);
        Member(self.members.len() - 1)
    }

    /// This tenant is no more. Its number may be another's from now on.
    pub fn leave(&mut self, member: Member) {
        self.members[member.0].waiting = 0;
        self.active.retain(|&at| at != member.0);
        if self
            .held_back
            .is_some_and(|held_back| held_back.member == member.0)
        {
            self.held_back = None;
        }
        self.vacant.push(member.0);
    }

    /// Whether a guest of this tenant may run at once. If not, it gets
    /// [in line](Self::queue).
    pub fn begin(&mut self, member: Member, now: Moment) -> bool {
        self.arrive(member.0, now);
        if self.spent >= TURN {
            return false;
        }
        if !self.is_contended() {
            return true;
        }
        let turn = self.turn;
        let me = &self.members[member.0];
        if me.turn == turn && me.spent >= ALLOWANCE {
            return false;
        }
        // Not only behind those in line: short calls of others are never there.
        let slack = virtual_of(ALLOWANCE, EVEN);
        let mine = me.virtual_time;
        !self
            .others(member.0)
            .any(|other| other.virtual_time.saturating_add(slack) < mine && is_busy(other, now))
    }

    /// A guest of this tenant is in line.
    pub fn queue(&mut self, member: Member, now: Moment) {
        self.arrive(member.0, now);
        self.members[member.0].waiting += 1;
        self.in_line = now;
    }

    /// A guest of this tenant has left the line without having been let go on.
    pub fn unqueue(&mut self, member: Member) {
        let waiting = &mut self.members[member.0].waiting;
        *waiting = waiting.saturating_sub(1);
    }

    /// A guest of this tenant has run for so long.
    pub fn charge(&mut self, member: Member, now: Moment, spent: Duration) {
        self.arrive(member.0, now);
        let turn = self.turn;
        let me = &mut self.members[member.0];
        if me.turn != turn {
            me.turn = turn;
            me.spent = Duration::ZERO;
        }
        me.spent += spent;
        me.seen = now;
        self.spent += spent;
        self.advance(member.0, spent);
    }

    /// Another turn of the event loop: the sockets have been looked at.
    pub fn turn(&mut self) {
        self.turn += 1;
        self.spent = Duration::ZERO;
    }

    /// Whether so much has run in this turn that the sockets should be looked
    /// at before more does.
    #[must_use]
    pub fn is_turn_over(&self) -> bool {
        let allowance = if self.is_contended() { ALLOWANCE } else { TURN };
        self.spent >= allowance
    }

    /// Whether anything has run in this turn.
    #[must_use]
    pub fn is_turn_used(&self) -> bool {
        !self.spent.is_zero()
    }

    /// Whether tenants share the worker just now. Where one is alone there is
    /// nothing to be fair about.
    #[must_use]
    pub fn is_contended(&self) -> bool {
        self.active.len() > 1
    }

    /// Whether slices should be short: tenants share the worker, and there are
    /// guests that do not end by themselves soon.
    #[must_use]
    pub fn wants_short_slices(&self, now: Moment) -> bool {
        self.is_contended() && now.since(self.in_line) <= RIVALRY
    }

    /// Who goes next of those in line.
    pub fn next(&mut self, now: Moment) -> Next {
        self.sweep(now);
        let waiting = self
            .active
            .iter()
            .filter(|&&at| self.members[at].waiting > 0);
        let Some(&best) = waiting.min_by_key(|&&at| self.members[at].virtual_time) else {
            self.held_back = None;
            return Next::Nobody;
        };
        self.in_line = now;
        self.raise_floor(best, now, true);
        if self.holds_back(best, now) {
            return Next::HoldBack;
        }
        self.members[best].waiting -= 1;
        // Active from this moment on, even if its guest does not run after all.
        self.members[best].seen = now;
        Next::Go(Member(best))
    }

    /// How far this tenant is, for tests and diagnosis: CPU time at the weight
    /// of [`EVEN`].
    #[must_use]
    pub fn virtual_time(&self, member: Member) -> Duration {
        Duration::from_nanos(self.members[member.0].virtual_time)
    }

    fn others(&self, me: usize) -> impl Iterator<Item = &State> {
        let others = self.active.iter().filter(move |&&at| at != me);
        others.map(|&at| &self.members[at])
    }

    fn advance(&mut self, at: usize, spent: Duration) {
        let me = &mut self.members[at];
        me.virtual_time = me.virtual_time.saturating_add(virtual_of(spent, me.weight));
        self.highest = self.highest.max(me.virtual_time);
    }

    /// A tenant shows up, for the first time after a pause perhaps.
    fn arrive(&mut self, at: usize, now: Moment) {
        self.sweep(now);
        if let Some(held_back) = self.held_back
            && held_back.member == at
        {
            // It was worth it.
            self.held_back = None;
            self.members[at].misses = 0;
            self.advance(at, now.since(held_back.since));
        }
        if !is_busy(&self.members[at], now) {
            self.raise_floor(at, now, false);
            let least = self.floor.saturating_sub(virtual_of(CREDIT, EVEN));
            let me = &mut self.members[at];
            me.virtual_time = me.virtual_time.max(least);
        }
        let me = &mut self.members[at];
        me.seen = me.seen.max(now);
        if !me.is_active {
            me.is_active = true;
            self.active.push(at);
        }
    }

    /// Nobody starts below those that are busy, other than `me` unless
    /// `with_me`. Where nobody is, all begin anew from the same point.
    fn raise_floor(&mut self, me: usize, now: Moment, with_me: bool) {
        let busy = self
            .active
            .iter()
            .filter(|&&at| (with_me || at != me) && is_busy(&self.members[at], now));
        let least = busy.map(|&at| self.members[at].virtual_time).min();
        self.floor = self.floor.max(least.unwrap_or(self.highest));
    }

    /// Whether the `best` in line is held back for somebody who has had less.
    fn holds_back(&mut self, best: usize, now: Moment) -> bool {
        if let Some(held_back) = self.held_back {
            let HeldBack { member, since } = held_back;
            if now.since(self.members[member].seen) < ANTICIPATION {
                return true;
            }
            self.held_back = None;
            let me = &mut self.members[member];
            me.misses = (me.misses + 1).min(MAX_MISSES);
            me.pass_over = (1 << me.misses) - 1;
            self.advance(member, now.since(since));
            return false;
        }
        let mine = self.members[best].virtual_time;
        let behind = self.active.iter().copied().filter(|&at| {
            let other = &self.members[at];
            other.waiting == 0 && other.virtual_time < mine && now.since(other.seen) < ANTICIPATION
        });
        let Some(member) = behind.min_by_key(|&at| self.members[at].virtual_time) else {
            return false;
        };
        let pass_over = &mut self.members[member].pass_over;
        if *pass_over > 0 {
            *pass_over -= 1;
            return false;
        }
        self.held_back = Some(HeldBack { member, since: now });
        true
    }

    /// Forgets, now and then, rivals that have not been seen for long.
    fn sweep(&mut self, now: Moment) {
        if now.since(self.swept) < SWEEP {
            return;
        }
        self.swept = now;
        let members = &mut self.members;
        self.active.retain(|&at| {
            let member = &mut members[at];
            member.is_active = member.waiting > 0 || now.since(member.seen) <= RIVALRY;
            member.is_active
        });
    }
}

/// In line, or active a moment ago.
fn is_busy(member: &State, now: Moment) -> bool {
    member.is_active && (member.waiting > 0 || now.since(member.seen) <= ANTICIPATION)
}

/// Nanoseconds of virtual time.
fn virtual_of(spent: Duration, weight: NonZeroU32) -> u64 {
    let nanos = u64::try_from(spent.as_nanos()).unwrap_or(u64::MAX);
    nanos.saturating_mul(u64::from(EVEN.get())) / u64::from(weight.get())
}

#[cfg(test)]
mod tests;
