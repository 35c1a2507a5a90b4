//! Which worker gets a connection, and whose connections are served one
//! request at a time. Decisions only: numbers and times are arguments.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use skep_core::Dispatch;

/// Most peers that are remembered for mixing hosts of several pools. Those are
/// reverse proxies, of which a server has a few.
const MAX_MIXERS: usize = 4096;

/// How long one is remembered after it was last there.
const MIXER_AGE: Duration = Duration::from_secs(600);

/// Which of the workers gets the next connection. `loads` are their open
/// connections, `None` for one that cannot take any; `turn` is where the next
/// search begins.
#[must_use]
pub fn choose(dispatch: Dispatch, loads: &[Option<u32>], turn: &mut usize) -> Option<usize> {
    let count = loads.len();
    let order = (0..count).map(|step| (*turn + step) % count.max(1));
    let ready = order.filter_map(|index| loads[index].map(|load| (index, load)));
    let (index, _) = match dispatch {
        Dispatch::RoundRobin => ready.into_iter().next(),
        // Of several with as few, the next in turn.
        Dispatch::LeastConnections | Dispatch::Balanced => ready.min_by_key(|(_, load)| *load),
    }?;
    *turn = index + 1;
    Some(index)
}

/// Peers whose connections carried requests for hosts of several pools. `None`
/// stands for all that come through a socket file.
#[derive(Debug, Default)]
pub struct Mixers {
    seen: HashMap<Option<IpAddr>, Instant>,
}

impl Mixers {
    /// This one mixes.
    pub fn note(&mut self, peer: Option<IpAddr>, now: Instant) {
        if self.seen.len() >= MAX_MIXERS && !self.seen.contains_key(&peer) {
            let oldest = self.seen.iter().min_by_key(|(_, seen)| **seen);
            if let Some(oldest) = oldest.map(|(peer, _)| *peer) {
                self.seen.remove(&oldest);
            }
        }
        self.seen.insert(peer, now);
    }

    /// Whether a peer that is there now has mixed.
    pub fn mixes(&mut self, peer: Option<IpAddr>, now: Instant) -> bool {
        match self.seen.get_mut(&peer) {
            Some(seen) if now.saturating_duration_since(*seen) < MIXER_AGE => {
                *seen = now;
                true
            }
            Some(_) => {
                self.seen.remove(&peer);
                false
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn round_robin_goes_around_those_that_are_ready() {
        let mut turn = 0;
        let loads = [Some(9), None, Some(0), Some(5)];
        let got: Vec<_> = (0..6)
            .map(|_| choose(Dispatch::RoundRobin, &loads, &mut turn).unwrap())
            .collect();
        assert_eq!(got, [0, 2, 3, 0, 2, 3]);
        assert_eq!(choose(Dispatch::RoundRobin, &[None, None], &mut turn), None);
        assert_eq!(choose(Dispatch::LeastConnections, &[], &mut turn), None);
        // Fewer workers than there were.
        let mut turn = 7;
        assert_eq!(choose(Dispatch::RoundRobin, &[Some(1)], &mut turn), Some(0));
    }

    proptest! {
        #[test]
        fn the_least_loaded_gets_it_and_ties_go_around(
            start in prop::collection::vec(prop::option::of(0_u32..50), 1..12),
            turn in 0_usize..20,
        ) {
            let (mut loads, mut turn) = (start.clone(), turn);
            for _ in 0..200 {
                let least = loads.iter().flatten().min().copied();
                let index = choose(Dispatch::LeastConnections, &loads, &mut turn);
                prop_assert_eq!(index.and_then(|index| loads[index]), least);
                let Some(index) = index else { break };
                loads[index] = loads[index].map(|load| load + 1);
            }
            let loads: Vec<_> = loads.into_iter().flatten().filter(|load| *load >= 50).collect();
            let most = loads.iter().max().copied().unwrap_or(0);
            prop_assert!(loads.iter().all(|load| most - load <= 1));
        }
    }

    #[test]
    fn mixers_are_forgotten_when_they_stay_away_or_are_too_many() {
        let now = Instant::now();
        let peer = |n: u32| Some(IpAddr::V4(Ipv4Addr::from(n)));
        let mut mixers = Mixers::default();
        assert!(!mixers.mixes(None, now));
        mixers.note(None, now);
        mixers.note(peer(0), now);
        let later = now + MIXER_AGE / 2;
        assert!(mixers.mixes(None, later));
        let late = now + MIXER_AGE;
        assert!(mixers.mixes(None, late));
        assert!(!mixers.mixes(peer(0), late));
        for n in 1..=MAX_MIXERS {
            mixers.note(
                peer(u32::try_from(n).unwrap()),
                late + Duration::from_secs(1),
            );
        }
        assert!(!mixers.mixes(None, late));
        assert_eq!(mixers.seen.len(), MAX_MIXERS);
    }
}
