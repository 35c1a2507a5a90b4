//! What is done, in which order, and the configuration that reloads change.

use std::fmt;
use std::path::Path;

/// The app that is swapped.
pub(super) const APP: &str = "app";

/// The pool that is restarted and scaled.
pub(super) const POOL: &str = "default";

/// Workers at the start, and again after every reload.
pub(super) const WORKERS: u16 = 2;

/// Far above the clients of any run: nobody waits for a permit.
const CONCURRENCY: u32 = 1000;

/// The sizes that a pool is given in turn: up and down, by one and by more.
const SIZES: [u16; 4] = [4, 1, 3, 2];

/// What an operator does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Swap,
    Restart,
    Reload,
    Scale,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Swap, Self::Restart, Self::Reload, Self::Scale];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Swap => "deploy",
            Self::Restart => "restart",
            Self::Reload => "reload",
            Self::Scale => "scale",
        })
    }
}

/// So many of each, spread evenly, so that each kind follows each other kind.
pub(super) fn schedule(counts: [(Kind, u32); 4]) -> Vec<Kind> {
    let mut places: Vec<(f64, Kind)> = counts
        .iter()
        .flat_map(|(kind, count)| {
            (0..*count).map(|number| ((f64::from(number) + 0.5) / f64::from(*count), *kind))
        })
        .collect();
    places.sort_by(|(left, _), (right, _)| left.total_cmp(right));
    places.into_iter().map(|(_, kind)| kind).collect()
}

/// The size of the pool after so many scalings before it.
pub(super) fn size(scalings: usize) -> u16 {
    SIZES[scalings % SIZES.len()]
}

/// The configuration after so many reloads. Each changes one thing, in turn:
/// routes, a limit of the app, its environment, a setting of the pool.
pub(super) fn configuration(component: &Path, reloads: u32) -> String {
    let [routes, limit, env, pool] = [3, 2, 1, 0].map(|turn| (reloads + turn) / 4);
    let component = component.display().to_string();
    // One more route that nothing asks for; what is asked for stays.
    let further = if routes > 0 {
        format!(", \"/round-{routes}/*\"")
    } else {
        String::new()
    };
    let timeout = 30 + limit;
    let drain = 30 + pool;
    format!(
        "[server]\nstate_dir = \"state\"\nlog = {{ level = \"warn\" }}\n\n\
         [listener.web]\naddress = \"127.0.0.1:0\"\n\n\
         [pool.{POOL}]\nworkers = {WORKERS}\ndrain_timeout = \"{drain}s\"\n\n\
         [app.{APP}]\ncomponent = {component:?}\nroutes = [\"/*\"{further}]\n\
         concurrency = {CONCURRENCY}\ntimeout = \"{timeout}s\"\n\
         env = {{ ROUND = \"{env}\" }}\nrollout = {{ observe = \"0s\" }}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_spread() {
        let counts = [
            (Kind::Swap, 4),
            (Kind::Restart, 2),
            (Kind::Reload, 1),
            (Kind::Scale, 0),
        ];
        let [swap, restart, reload] = [Kind::Swap, Kind::Restart, Kind::Reload];
        assert_eq!(
            schedule(counts),
            [swap, restart, swap, reload, swap, restart, swap]
        );
    }

    #[test]
    fn the_pool_has_from_one_to_four_workers_and_never_the_same_twice() {
        let sizes: Vec<u16> = (0..8).map(size).collect();
        assert!(sizes.windows(2).all(|pair| pair[0] != pair[1]));
        assert_eq!(sizes.iter().max(), Some(&4));
        assert_eq!(sizes.iter().min(), Some(&1));
        assert_ne!(sizes[0], WORKERS);
    }

    #[test]
    fn every_reload_changes_one_line() {
        let text = |reloads| configuration(Path::new("/x.wasm"), reloads);
        let mut changed = Vec::new();
        for reloads in 0..8 {
            let (before, after) = (text(reloads), text(reloads + 1));
            let lines: Vec<_> = before.lines().zip(after.lines()).collect();
            let mut different = lines.iter().filter(|(before, after)| before != after);
            let (_, line) = different.next().unwrap();
            assert_eq!(different.next(), None);
            changed.push(line.split(' ').next().unwrap().to_owned());
        }
        let all = ["routes", "timeout", "env", "drain_timeout"];
        assert_eq!(changed, [all, all].concat());
    }
}
