//! Sweeping the state directory after what may have left something there, and
//! when an operator asks for it.

use skep_core::LogLevel;
use skep_wire::{ControlReply, SweptFiles};

use super::Fleet;
use super::operation::FAILED;
use crate::control::Asker;
use crate::sweep::Extent;

impl Fleet {
    /// Has what nothing needs deleted, once what was decided is written down. What
    /// any operation works on is in use, and stays.
    pub(super) fn sweep(&self) {
        let swept = self.scribe.sweep_soon(&self.workshop, Extent::AFTER);
        let journal = self.journal.clone();
        // Nobody waits for it.
        tokio::spawn(async move {
            if let Some(swept) = swept.await {
                tell(&journal, &swept);
            }
        });
    }

    /// Sweeps for an operator, or says what would go.
    pub(super) fn gc(&self, dry_run: bool, asker: Asker) {
        let extent = Extent {
            aside: true,
            dry_run,
            ..Extent::AFTER
        };
        let swept = self.scribe.sweep(&self.workshop, extent);
        let journal = self.journal.clone();
        tokio::spawn(async move {
            let Some(swept) = swept.await else { return };
            if !dry_run {
                tell(&journal, &swept);
            }
            asker.answer(match swept {
                Ok(files) => ControlReply::Swept(files),
                Err(message) => ControlReply::Refused {
                    message,
                    code: FAILED,
                },
            });
        });
    }
}

/// Says what was swept, or why nothing was.
pub(crate) fn tell(journal: &crate::journal::Journal, swept: &Result<SweptFiles, String>) {
    let failed = match swept {
        Ok(files) if files.bytes > 0 => {
            journal.event(LogLevel::Info, "state.swept", |line| {
                line.number("files", files.count)
                    .number("bytes", files.bytes)
            });
            files.failed.first().cloned()
        }
        Ok(files) => files.failed.first().cloned(),
        Err(why) => Some(why.clone()),
    };
    if let Some(why) = failed {
        journal.event(LogLevel::Warn, "state.unswept", |line| {
            line.text("reason", &why)
        });
    }
}
