//! How a command ends: the exit codes of SPEC §1 and the one error type of
//! this binary. What it is not: printing, which is `print`'s.

use std::fmt::{self, Display};
use std::process::ExitCode;

/// Exit codes. Scripts rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// It was done.
    Done = 0,
    /// It was tried and failed: a build, a worker, this machine.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The configuration, or a component that it names, has problems.
    Configuration = 3,
    /// Nobody listens at the control socket.
    NoPrimary = 4,
    /// The primary said no, or this version cannot do it.
    Refused = 5,
    /// An address is in use, or something else is missing (`EX_UNAVAILABLE`).
    Unavailable = 69,
    /// A bug of skep's own (`EX_SOFTWARE`).
    Bug = 70,
}

impl Exit {
    /// All codes, for the way back from a number.
    const ALL: [Self; 8] = [
        Self::Done,
        Self::Failed,
        Self::Usage,
        Self::Configuration,
        Self::NoPrimary,
        Self::Refused,
        Self::Unavailable,
        Self::Bug,
    ];

    /// The number that the process exits with.
    pub(crate) const fn code(self) -> u8 {
        self as u8
    }

    /// The meaning of a number that another skep process exited with, or that
    /// the primary sent; what is not ours counts as failed.
    pub(crate) fn from_code(code: i32) -> Self {
        Self::ALL
            .into_iter()
            .find(|exit| i32::from(exit.code()) == code)
            .unwrap_or(Self::Failed)
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    exit: Exit,
    words: Words,
}

/// What the user is told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Words {
    /// A sentence without a full stop, and what to do about it.
    Message {
        /// What happened.
        message: String,
        /// What to do.
        hint: Option<String>,
    },
    /// Problems with snippets, already laid out.
    Report(String),
    /// Another process has said it already.
    Said,
}

impl Failure {
    /// A failure told in one sentence.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self {
            exit,
            words: Words::Message {
                message: message.into(),
                hint: None,
            },
        }
    }

    /// A failure laid out elsewhere, such as all problems of a configuration.
    pub(crate) const fn report(exit: Exit, report: String) -> Self {
        Self {
            exit,
            words: Words::Report(report),
        }
    }

    /// A failure that the user has read about already.
    pub(crate) const fn said(exit: Exit) -> Self {
        Self {
            exit,
            words: Words::Said,
        }
    }

    /// Adds what the user can do.
    #[must_use]
    pub(crate) fn hint(mut self, what: impl Into<String>) -> Self {
        if let Words::Message { hint, .. } = &mut self.words {
            *hint = Some(what.into());
        }
        self
    }

    /// Says what we were doing, before the message.
    #[must_use]
    pub(crate) fn while_doing(mut self, what: &str) -> Self {
        if let Words::Message { message, .. } = &mut self.words {
            *message = format!("{what}: {message}");
        }
        self
    }

    /// The code to exit with.
    pub(crate) const fn exit(&self) -> Exit {
        self.exit
    }

    /// What to tell the user.
    pub(crate) const fn words(&self) -> &Words {
        &self.words
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.words {
            Words::Message { message, .. } => f.write_str(message),
            Words::Report(report) => f.write_str(report.trim_end()),
            Words::Said => f.write_str("failed"),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, format!("{error:#}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_specification() {
        let codes = Exit::ALL.map(Exit::code);
        assert_eq!(codes, [0, 1, 2, 3, 4, 5, 69, 70]);
        for exit in Exit::ALL {
            assert_eq!(Exit::from_code(i32::from(exit.code())), exit);
        }
        assert_eq!(Exit::from_code(101), Exit::Failed);
        assert_eq!(Exit::from_code(-9), Exit::Failed);
    }

    #[test]
    fn a_chain_of_causes_becomes_one_line() {
        let error = anyhow::anyhow!("permission denied").context("cannot read 'a.wasm'");
        let failure = Failure::from(error);
        assert_eq!(failure.exit(), Exit::Failed);
        assert_eq!(
            failure.to_string(),
            "cannot read 'a.wasm': permission denied"
        );
    }

    #[test]
    fn hints_and_circumstances_are_added_to_sentences_only() {
        let failure = Failure::new(Exit::Usage, "no")
            .hint("yes")
            .while_doing("asked");
        assert_eq!(
            failure.words(),
            &Words::Message {
                message: "asked: no".into(),
                hint: Some("yes".into())
            }
        );
        let report = Failure::report(Exit::Configuration, "a\n".into())
            .hint("b")
            .while_doing("c");
        assert_eq!(report.words(), &Words::Report("a\n".into()));
    }
}
