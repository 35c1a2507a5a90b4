//! How a connection comes to its end, and when.

use std::time::{Duration, Instant};

use super::{Answer, Connection, Exchange, LINGER, Late, Leaving, Phase, Reader};

impl Connection {
    /// The client has sent its last byte. What came before is answered.
    pub fn eof(&mut self) {
        self.ended = true;
        if let Phase::Linger { .. } = self.phase {
            self.phase = Phase::Closed;
        }
    }

    /// Whether it is over.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// A connection that is idle counts as idle from now on.
    pub fn postpone(&mut self, now: Instant) {
        if let Phase::Idle { since, .. } = &mut self.phase {
            *since = now;
        }
    }

    /// The connection is to end: with the next answer, or when it was silent for
    /// `linger`.
    pub fn leave(&mut self, linger: Duration, now: Instant) {
        self.leaving = Leaving::After(linger, now);
    }

    /// Whether it is to end.
    #[must_use]
    pub fn is_leaving(&self) -> bool {
        self.leaving != Leaving::No
    }

    /// When [`late`](Self::late) is to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Idle { since, .. } => {
                let silent = *since + self.settings.header_timeout;
                Some(match self.leaving {
                    Leaving::No => silent,
                    Leaving::After(linger, from) => silent.min(from.max(*since) + linger),
                })
            }
            Phase::Head(since, _) => Some(*since + self.settings.header_timeout),
            Phase::Exchange(Exchange {
                answer: Answer::Whole,
                reader: Reader::Nobody { begun, since, .. },
                ..
            }) => Some((*since + self.settings.body_timeout).min(*begun + LINGER)),
            Phase::Exchange(_) | Phase::Closed => None,
            Phase::Linger { quiet, .. } => Some(*quiet),
        }
    }

    /// What is to be done at `now`, if it is late.
    pub fn late(&mut self, now: Instant) -> Late {
        if self.deadline().is_none_or(|deadline| now < deadline) {
            return Late::No;
        }
        if let Phase::Head(..) = self.phase {
            self.refuse(now);
            return Late::Refuse;
        }
        self.phase = Phase::Closed;
        Late::Close
    }
}
