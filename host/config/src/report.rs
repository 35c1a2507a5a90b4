//! Where problems are collected while a file is read.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use crate::problem::{Mark, Place, Problem, Problems, Source, Span};

/// Problems kept of one file. Nobody reads more, and a file of garbage could
/// have a million.
const MAX_KEPT: usize = 1000;

/// The problems found so far in one file.
pub(crate) struct Report {
    source: Arc<Source>,
    kept: RefCell<Vec<Problem>>,
    omitted: Cell<usize>,
}

/// Proof that a problem was reported: whoever holds it has nothing to add.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Reported(());

impl Report {
    pub(crate) fn new(source: Arc<Source>) -> Self {
        Self {
            source,
            kept: RefCell::default(),
            omitted: Cell::default(),
        }
    }

    /// Begins a problem at a place of the file.
    pub(crate) fn at(&self, span: &Span, message: impl Into<String>) -> Draft<'_> {
        let mark = Mark {
            span: span.clone(),
            label: String::new(),
        };
        self.draft(Some(mark), message.into())
    }

    /// Begins a problem of the file as a whole.
    pub(crate) fn whole(&self, message: impl Into<String>) -> Draft<'_> {
        self.draft(None, message.into())
    }

    fn draft(&self, mark: Option<Mark>, message: String) -> Draft<'_> {
        let place = Place {
            source: Arc::clone(&self.source),
            mark,
            others: Vec::new(),
        };
        Draft {
            report: self,
            problem: Problem {
                message,
                hint: None,
                place: Some(place),
            },
        }
    }

    /// Whether further problems are only counted: hints need not be sought.
    pub(crate) fn is_full(&self) -> bool {
        self.kept.borrow().len() >= MAX_KEPT
    }

    /// What was found, or `None` if nothing is wrong.
    pub(crate) fn into_problems(self) -> Option<Problems> {
        let kept = self.kept.into_inner();
        (!kept.is_empty()).then(|| Problems::new(kept, self.omitted.get()))
    }
}

/// A problem that is being written.
#[must_use = "a problem counts once it is `report`ed"]
pub(crate) struct Draft<'a> {
    report: &'a Report,
    problem: Problem,
}

impl Draft<'_> {
    /// Says what to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.problem.hint = Some(hint.into());
        self
    }

    /// Writes a label beside the caret.
    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        if let Some(mark) = self
            .problem
            .place
            .as_mut()
            .and_then(|place| place.mark.as_mut())
        {
            mark.label = label.into();
        }
        self
    }

    /// Shows another place that explains it.
    pub(crate) fn also(mut self, span: &Span, label: impl Into<String>) -> Self {
        if let Some(place) = &mut self.problem.place {
            place.others.push(Mark {
                span: span.clone(),
                label: label.into(),
            });
        }
        self
    }

    pub(crate) fn report(self) -> Reported {
        if self.report.is_full() {
            self.report.omitted.set(self.report.omitted.get() + 1);
        } else {
            self.report.kept.borrow_mut().push(self.problem);
        }
        Reported(())
    }
}
