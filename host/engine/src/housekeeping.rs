//! What a worker does for its instances while nobody waits for it: it drops those
//! that have served, and makes some ahead for the calls that will come.
//!
//! ```text
//! a call has ended well ──▶ its store is spent ─┐                      ┌▶ what is spent is dropped
//!                                               ├▶ keeper, behind what ┤
//! a call took an instance ─▶ its stock is low ──┘  is ready: answers   └▶ one after the other is made, while
//!                                                  go out before it       the turn has time for it
//! ```
//!
//! Neither takes anything from those who need it. An instance is made ahead only on
//! seats that its tenant is owed anyway, and what a tenant's calls find no room for, it
//! gets back first from here (`TenantShare::give_back`). Both are at its expense. One task
//! does it, which exists once a first call was made.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use wasmtime::Store;

use crate::event_loop::{self, behind_the_next_calls, behind_what_is_ready};
use crate::guest::Guest;

/// Bytes of a store from which on it is dropped at once, in its call's own turn: to give
/// back more takes long.
const LARGE: usize = 4 << 20;

/// How long the task works between two looks at the sockets.
const ALLOWANCE: Duration = Duration::from_micros(50);

/// How often the task lets go first what is ready: an answer goes from its call to its
/// stream to its connection, and that is polled twice where others wait.
const BEHIND: u32 = 3;

/// The instances of one handler that are made ahead.
pub(crate) trait Stock: Send + Sync {
    /// Makes one, if it is wanted and there is room.
    fn make_one(&self, cx: &mut Context<'_>) -> Making;

    /// Drops all that were made ahead; says whether there were any.
    fn give_up(&self) -> bool;
}

/// What came of the wish for an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Making {
    /// Another one is wanted.
    More,
    /// None is wanted, or can be made.
    Enough,
    /// Other tenants are first.
    NotNow,
}

/// What is left to be done on one worker.
#[derive(Default)]
pub(crate) struct Housekeeping(Mutex<State>);

#[derive(Default)]
struct State {
    /// Stores that nobody needs any more.
    spent: VecDeque<Store<Guest>>,
    /// Stocks that want more.
    low: VecDeque<Weak<dyn Stock>>,
    keeper: Keeper,
}

impl State {
    fn is_done(&self) -> bool {
        self.spent.is_empty() && self.low.is_empty()
    }
}

/// The task.
#[derive(Default)]
enum Keeper {
    #[default]
    None,
    /// It has something to do.
    Roused,
    /// It waits for that.
    Waits(Waker),
}

impl Housekeeping {
    /// Drops these stores, but not before the answers of their calls are on their way.
    pub(crate) fn drop_later(self: &Arc<Self>, stores: impl IntoIterator<Item = Store<Guest>>) {
        for store in stores {
            let mut state = self.state();
            if store.data().ledger.used() < LARGE && self.rouse(&mut state) {
                state.spent.push_back(store);
            } else {
                drop(state);
                drop(store);
            }
        }
    }

    /// This stock wants more. It is asked until it does not.
    pub(crate) fn is_low(self: &Arc<Self>, stock: Weak<dyn Stock>) {
        let mut state = self.state();
        if self.rouse(&mut state) {
            state.low.push_back(stock);
        }
    }

    /// Drops at once what is spent of this tenant; says whether there was anything.
    pub(crate) fn drop_spent_of(&self, tenant: usize) -> bool {
        let spent: VecDeque<_> = {
            let mut state = self.state();
            let (of_it, of_others) = std::mem::take(&mut state.spent)
                .into_iter()
                .partition(|store| store.data().ledger.share().number() == tenant);
            state.spent = of_others;
            of_it
        };
        !spent.is_empty()
    }

    /// Sees to it that the task comes. There is none where no runtime is.
    fn rouse(self: &Arc<Self>, state: &mut State) -> bool {
        match std::mem::replace(&mut state.keeper, Keeper::Roused) {
            Keeper::Roused => {}
            Keeper::Waits(waker) => waker.wake(),
            Keeper::None => {
                let Ok(runtime) = tokio::runtime::Handle::try_current() else {
                    state.keeper = Keeper::None;
                    return false;
                };
                runtime.spawn(keep(Keeping(Arc::downgrade(self))));
            }
        }
        true
    }

    /// Drops what is spent and makes what is wanted, for as long as the turn has time for
    /// it. Says whether nothing is left.
    fn work(&self, cx: &mut Context<'_>) -> bool {
        let began = Instant::now();
        let mut now = began;
        while now - began < ALLOWANCE {
            let spent = self.state().spent.pop_front();
            if let Some(store) = spent {
                let share = Arc::clone(store.data().ledger.share());
                drop(store);
                let since = std::mem::replace(&mut now, Instant::now());
                share.charge(now, now - since, Duration::ZERO);
                continue;
            }
            if event_loop::is_busy() {
                break;
            }
            let Some(low) = self.state().low.pop_front() else {
                return true;
            };
            let making = low
                .upgrade()
                .map_or(Making::Enough, |stock| stock.make_one(cx));
            if making != Making::Enough {
                self.state().low.push_back(low);
            }
            if making == Making::NotNow {
                break;
            }
            now = Instant::now();
        }
        self.state().is_done()
    }

    fn poll_roused(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.is_done() {
            state.keeper = Keeper::Waits(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Whole at every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Housekeeping {
    fn drop(&mut self) {
        if let Keeper::Waits(waker) = std::mem::take(&mut self.state().keeper) {
            waker.wake();
        }
    }
}

/// The task's hold on what it does, which may end before it.
struct Keeping(Weak<Housekeeping>);

impl Drop for Keeping {
    fn drop(&mut self) {
        // Also where its runtime ends before it does: the next one gets a new task.
        let Some(housekeeping) = self.0.upgrade() else {
            return;
        };
        let spent = {
            let mut state = housekeeping.state();
            state.keeper = Keeper::None;
            std::mem::take(&mut state.spent)
        };
        // They hold what holds them.
        drop(spent);
    }
}

async fn keep(keeping: Keeping) {
    loop {
        // Nothing is held while it waits.
        let roused = std::future::poll_fn(|cx| match keeping.0.upgrade() {
            Some(housekeeping) => housekeeping.poll_roused(cx).map(|()| true),
            None => Poll::Ready(false),
        });
        if !roused.await {
            return;
        }
        for _ in 0..BEHIND {
            behind_what_is_ready().await;
        }
        let done = std::future::poll_fn(|cx| {
            let housekeeping = keeping.0.upgrade();
            Poll::Ready(housekeeping.is_none_or(|housekeeping| housekeeping.work(cx)))
        });
        if !done.await {
            behind_the_next_calls().await;
        }
    }
}
