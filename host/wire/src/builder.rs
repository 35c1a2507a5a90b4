//! Between the primary (or `skep check`) and a builder.

use serde::{Deserialize, Serialize};

use crate::Message;

/// Most bytes of one component. The largest real ones, a Python or JavaScript
/// interpreter with its standard library, are 20 to 40 MiB; compiling takes
/// some ten times a component's size in memory.
pub const MAX_COMPONENT: u64 = 256 << 20;

/// Which of a worker's two engines an artifact is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Flavor {
    /// `wasi:http/incoming-handler@0.2`, on the engine without component-model
    /// concurrency.
    P2,
    /// `wasi:http/handler@0.3`, on the engine with it.
    P3,
}

/// What a builder is asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToBuilder {
    /// Say what artifacts of this builder depend on besides the component.
    Fingerprint,
    /// Compile and check one component. Carries the component, open for
    /// reading, and an empty file, open for writing, for the artifact.
    Compile,
}

/// What a builder answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FromBuilder {
    /// Compiler settings, wasmtime version and CPU features, as one opaque
    /// text that is safe in a file name.
    Fingerprint {
        /// The text: lower-case hexadecimal.
        fingerprint: String,
    },
    /// The artifact was written whole.
    Built {
        /// The engine it is for.
        flavor: Flavor,
        /// The interfaces that the component imports.
        imports: Vec<String>,
        /// SHA-256 of the artifact, lower-case hexadecimal.
        digest: String,
        /// Bytes of the artifact.
        size: u64,
    },
    /// The component cannot be served.
    Refused(Refusal),
}

/// Why a component cannot be served, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong: a lower-case fragment.
    #[serde(with = "crate::text")]
    pub problem: String,
    /// What to do, where we know.
    #[serde(with = "crate::text::optional", default)]
    pub hint: Option<String>,
}

impl Message for ToBuilder {
    const MOST: usize = 1 << 10;

    fn name(&self) -> &'static str {
        match self {
            Self::Fingerprint => "fingerprint",
            Self::Compile => "compile",
        }
    }

    fn fds(&self) -> usize {
        match self {
            Self::Fingerprint => 0,
            Self::Compile => 2,
        }
    }
}

impl Message for FromBuilder {
    // The imports of a component.
    const MOST: usize = 256 << 10;

    fn name(&self) -> &'static str {
        match self {
            Self::Fingerprint { .. } => "fingerprint",
            Self::Built { .. } => "built",
            Self::Refused(_) => "refused",
        }
    }

    fn fds(&self) -> usize {
        0
    }
}
