//! How many instances a worker makes ahead of the calls that will want them.
//!
//! The rule: as many as calls found missing, fewer by what nobody took. A call that
//! finds none raises what is wanted by one; every [look](Stock::look) lowers it by
//! as many as lay there all the time since the last one. Where calls have stopped,
//! nothing is left after two looks; where they are rare, nothing is made.

/// Most instances that one handler has made ahead on one worker: more than begin in one
/// turn of its event loop while it has time to make any.
pub const MOST: u32 = 8;

/// Most looks for which nothing more is wanted after one could not be made: half a
/// minute's. It is one after the first time, and doubles until one is made.
const LONGEST_PAUSE: u32 = 64;

/// The instances of one handler that were made ahead, as numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stock {
    wanted: u32,
    here: u32,
    /// Fewest that were here since the last look.
    low: u32,
    /// Calls since the last look.
    calls: u32,
    /// Looks until more may be wanted.
    pause: u32,
    /// The last pause, if none was made since.
    last_pause: u32,
}

impl Stock {
    /// A call wants one. Says whether one is here for it, which it takes.
    pub fn take(&mut self) -> bool {
        self.calls = self.calls.saturating_add(1);
        if self.here > 0 {
            self.here -= 1;
            self.low = self.low.min(self.here);
            return true;
        }
        self.low = 0;
        // The first call after a rest is most often the only one.
        if self.calls > 1 && self.pause == 0 {
            self.wanted = (self.wanted + 1).min(MOST);
        }
        false
    }

    /// Whether another one should be made.
    #[must_use]
    pub const fn wants(&self) -> bool {
        self.here < self.wanted
    }

    /// One was made.
    pub fn put(&mut self) {
        self.here += 1;
        self.last_pause = 0;
    }

    /// One could not be made: what is here must do for some looks.
    pub fn fail(&mut self) {
        self.wanted = self.here;
        self.last_pause = (self.last_pause * 2).clamp(1, LONGEST_PAUSE);
        self.pause = self.last_pause;
    }

    /// All that are here are given up, and as many are wanted as calls find missing
    /// from now on.
    pub fn clear(&mut self) {
        self.wanted = 0;
        self.here = 0;
        self.low = 0;
    }

    /// Lowers what is wanted by what nobody took, and says how many of those that are
    /// here that is: they are to be dropped. To be called about every half second.
    pub fn look(&mut self) -> u32 {
        let surplus = self.low.min(self.here);
        self.here -= surplus;
        self.wanted = self.wanted.saturating_sub(surplus);
        if self.calls == 0 {
            self.wanted = 0;
        }
        self.low = self.here;
        self.calls = 0;
        self.pause = self.pause.saturating_sub(1);
        surplus
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fill(stock: &mut Stock) {
        while stock.wants() {
            stock.put();
        }
    }

    #[test]
    fn rare_calls_find_none_and_nothing_is_made_for_them() {
        let mut stock = Stock::default();
        for _ in 0..5 {
            assert!(!stock.take());
            assert!(!stock.wants());
            assert_eq!(stock.look(), 0);
        }
    }

    #[test]
    fn calls_that_come_one_after_the_other_find_one_from_the_third_on() {
        let mut stock = Stock::default();
        let found = |stock: &mut Stock| {
            let found = stock.take();
            fill(stock);
            found
        };
        assert_eq!(
            [(); 4].map(|()| found(&mut stock)),
            [false, false, true, true]
        );
        assert_eq!(stock.here, 1);
    }

    #[test]
    fn a_burst_is_met_by_the_next_one_and_forgotten_after_two_looks() {
        let mut stock = Stock::default();
        for _ in 0..20 {
            stock.take();
        }
        fill(&mut stock);
        assert_eq!(stock.here, MOST);
        assert!((0..MOST).all(|_| stock.take()));
        fill(&mut stock);
        assert_eq!((stock.look(), stock.look(), stock.here), (0, MOST, 0));
        assert!(!stock.wants());
    }

    #[test]
    fn what_could_not_be_made_is_tried_again_after_a_pause() {
        let mut stock = Stock::default();
        let wants = |stock: &mut Stock| {
            stock.take();
            stock.take();
            stock.wants()
        };
        for pause in [1, 2, 4, 8, 16, 32, 64, 64] {
            assert!(wants(&mut stock));
            stock.fail();
            for _ in 0..pause {
                assert!(!wants(&mut stock));
                stock.look();
            }
        }
        assert!(wants(&mut stock));
        stock.put();
        stock.fail();
        stock.look();
        stock.look();
        assert!(wants(&mut stock), "it began anew");
        stock.clear();
        assert!(!stock.wants() && wants(&mut stock));
    }

    proptest! {
        /// Whatever happens, there are few, and none after two looks without a call.
        #[test]
        fn there_are_never_many(steps in prop::collection::vec(0_u8..8, 0..200)) {
            let mut stock = Stock::default();
            for step in steps {
                match step {
                    0 | 1 => {
                        stock.take();
                    }
                    2 if stock.wants() => stock.put(),
                    2 => {}
                    3 => stock.fail(),
                    4 => stock.clear(),
                    _ => {
                        let before = stock.here;
                        prop_assert!(stock.look() <= before);
                    }
                }
                prop_assert!(stock.here <= MOST && stock.low <= stock.here);
            }
            stock.look();
            stock.look();
            prop_assert_eq!((stock.here, stock.wants()), (0, false));
        }
    }
}
