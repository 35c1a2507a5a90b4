//! What workers count of handlers that are watched, for the rollouts that judge it.

use skep_core::WorkerId;
use skep_core::rollout::Input;
use skep_wire::HandlerTally;

use super::{Consequence, Fleet};

impl Fleet {
    /// What workers counted of handlers that are watched.
    pub(super) fn tally(&mut self, worker: WorkerId, tallies: &[HandlerTally]) {
        let mut judged = Vec::new();
        for name in &self.passing {
            let app = self.apps.get_mut(name);
            let Some(passage) = app.and_then(|app| app.passage.as_mut()) else {
                continue;
            };
            let new = passage.new.as_ref().map(|(handler, _)| *handler);
            let ours = tallies
                .iter()
                .filter(|tally| tally.handler == passage.old || Some(tally.handler) == new);
            let mut any = false;
            for tally in ours {
                passage.watch.note(worker, tally);
                any = true;
            }
            if let Some(new) = new.filter(|_| any) {
                let input = Input::Tallies {
                    old: passage.watch.with_past(passage.old),
                    new: passage.watch.all(new),
                };
                judged.push(Consequence::Feed(name.clone(), input));
            }
        }
        self.consequences.extend(judged);
    }
}
