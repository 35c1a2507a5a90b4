//! Why a component cannot be served.

/// What is wrong with a component and what its author can do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct Refusal {
    /// What is wrong: a lower-case fragment.
    pub problem: String,
    /// What to do, where we know.
    pub hint: Option<String>,
}

impl Refusal {
    pub(crate) fn new(problem: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            hint: None,
        }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
