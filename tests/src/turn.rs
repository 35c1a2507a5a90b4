//! Which tests have the machine for themselves.
//!
//! Most tests run beside each other. Those that measure latency or the spread
//! of load would measure the others too: they run alone. A test's turn lasts
//! as long as its thread.

use std::cell::RefCell;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

static MACHINE: RwLock<()> = RwLock::new(());

enum Turn {
    Shared {
        _guard: RwLockReadGuard<'static, ()>,
    },
    Alone {
        _guard: RwLockWriteGuard<'static, ()>,
    },
}

thread_local! {
    static TURN: RefCell<Option<Turn>> = const { RefCell::new(None) };
}

/// Runs this test beside others, unless it has the machine for itself already.
/// Everything that starts a process calls this.
pub fn shared() {
    TURN.with_borrow_mut(|turn| {
        if turn.is_none() {
            let guard = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
            *turn = Some(Turn::Shared { _guard: guard });
        }
    });
}

/// Waits until no other test runs, and keeps them waiting. To be called first.
pub fn alone() {
    TURN.with_borrow_mut(|turn| {
        if matches!(turn, Some(Turn::Alone { .. })) {
            return;
        }
        // Not both at once: two tests would wait for each other.
        *turn = None;
        let guard = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        *turn = Some(Turn::Alone { _guard: guard });
    });
}
