//! Who takes part in the comparison, and how each is started.
//!
//! Every server gets two workers (threads, for wasmtime; workerd has one) and answers
//! the same 14 bytes. What is absent takes no part and is named; nothing is guessed.

pub(crate) mod hyper;
mod nginx;
mod node;
pub(crate) mod skep;
mod wasmtime;
mod workerd;

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::{Serialize, Serializer};

use crate::build::{Guests, foreign_guest};
use crate::server::Launch;
use crate::tools::{self, Absent};

/// Workers of every server.
pub(crate) const WORKERS: u16 = 2;

/// What every server answers.
pub(crate) const BODY: &str = "Hello, world!\n";

/// A server that can be started.
pub(crate) trait Peer {
    /// The command to start it with. Files that it needs are put into
    /// `scratch`, which outlives the server and is nobody else's.
    fn launch(&self, scratch: &Path) -> Result<Launch>;

    /// The command to start it with so that it gives back what it is sent by `POST`, if it
    /// can.
    fn echo(&self, _scratch: &Path) -> Result<Option<Launch>> {
        Ok(None)
    }
}

macro_rules! contenders {
    ($($id:ident $name:literal $label:literal;)*) => {
        /// One line of the comparison.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub(crate) enum Id { $($id,)* }

        impl Id {
            /// All, in the order of the table.
            pub(crate) const ALL: &[Self] = &[$(Self::$id,)*];

            /// The name for `--only`.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$id => $name,)* }
            }

            /// The name for people.
            pub(crate) const fn label(self) -> &'static str {
                match self { $(Self::$id => $label,)* }
            }
        }
    };
}

contenders! {
    Hyper "hyper" "bare hyper";
    Nginx "nginx" "nginx `return 200`";
    Node "node" "Node cluster";
    Workerd "workerd" "workerd (JavaScript, one thread and one isolate)";
    WasmtimeP2 "wasmtime-p2" "wasmtime serve, 0.2, fresh (default)";
    WasmtimeP2Reused "wasmtime-p2-reused" "wasmtime serve, 0.2, reused 128";
    WasmtimeP3 "wasmtime-p3" "wasmtime serve, 0.3, reused 128 × 16 (default)";
    SkepP2 "skep-p2" "skep, 0.2, fresh";
    SkepP2Reused "skep-p2-reused" "skep, 0.2, reused 128";
    SkepP3 "skep-p3" "skep, 0.3, fresh";
    SkepP3Reused "skep-p3-reused" "skep, 0.3, reused 128 × 16";
    SkepP3Serial "skep-p3-serial" "skep, 0.3, reused 128 × 1";
    WasmtimeJs "wasmtime-js" "wasmtime serve, JavaScript, fresh";
    SkepJs "skep-js" "skep, JavaScript, fresh";
    WasmtimePython "wasmtime-python" "wasmtime serve, Python, fresh";
    SkepPython "skep-python" "skep, Python, fresh";
}

impl Id {
    /// Whether it is skep, which must be built first.
    pub(crate) const fn is_skep(self) -> bool {
        matches!(
            self,
            Self::SkepP2
                | Self::SkepP2Reused
                | Self::SkepP3
                | Self::SkepP3Reused
                | Self::SkepP3Serial
                | Self::SkepJs
                | Self::SkepPython
        )
    }

    const fn guest(self) -> Option<Guest> {
        Some(match self {
            Self::Hyper | Self::Nginx | Self::Node | Self::Workerd => return None,
            Self::WasmtimeP2 | Self::WasmtimeP2Reused | Self::SkepP2 | Self::SkepP2Reused => {
                Guest::Hello
            }
            Self::WasmtimeP3 | Self::SkepP3 | Self::SkepP3Reused | Self::SkepP3Serial => {
                Guest::HelloP3
            }
            Self::WasmtimeJs | Self::SkepJs => Guest::Js,
            Self::WasmtimePython | Self::SkepPython => Guest::Python,
        })
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

#[derive(Clone, Copy, Debug)]
enum Guest {
    Hello,
    HelloP3,
    Js,
    Python,
}

/// What was built for the comparison.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) guests: Guests,
    /// Only if it takes part.
    pub(crate) skep: Option<PathBuf>,
}

/// How to start a contender, or why that cannot be.
pub(crate) fn peer(id: Id, built: &Built) -> Result<Box<dyn Peer>, Absent> {
    let guest = || component(id, &built.guests);
    let wasmtime = |settings| -> Result<Box<dyn Peer>, Absent> {
        Ok(Box::new(wasmtime::Wasmtime {
            program: tools::wasmtime()?,
            component: guest()?,
            echo: echo(id, &built.guests),
            settings,
        }))
    };
    let skep = |instance| -> Result<Box<dyn Peer>, Absent> {
        let program = built
            .skep
            .clone()
            .ok_or_else(|| Absent("not built".to_owned()))?;
        Ok(Box::new(skep::Skep {
            program,
            component: guest()?,
            echo: echo(id, &built.guests),
            instance,
        }))
    };
    use skep::Instance;
    use wasmtime::Settings;
    match id {
        Id::Hyper => Ok(Box::new(hyper::Hyper)),
        Id::Nginx => Ok(Box::new(nginx::Nginx(tools::find("nginx")?))),
        Id::Node => Ok(Box::new(node::Node(tools::find("node")?))),
        Id::Workerd => Ok(Box::new(workerd::Workerd(tools::workerd()?))),
        Id::WasmtimeP2 | Id::WasmtimeP3 | Id::WasmtimeJs | Id::WasmtimePython => {
            wasmtime(Settings::Default)
        }
        Id::WasmtimeP2Reused => wasmtime(Settings::Reused(128)),
        Id::SkepP2 | Id::SkepP3 | Id::SkepJs | Id::SkepPython => skep(Instance::FRESH),
        Id::SkepP2Reused | Id::SkepP3Serial => skep(Instance {
            reuse: 128,
            concurrent: 1,
        }),
        Id::SkepP3Reused => skep(Instance {
            reuse: 128,
            concurrent: 16,
        }),
    }
}

fn component(id: Id, guests: &Guests) -> Result<PathBuf, Absent> {
    let foreign = |name: &str| {
        foreign_guest(name).ok_or_else(|| {
            Absent(format!(
                "no {name}; `guests/foreign/build.sh target/guests-foreign` makes it"
            ))
        })
    };
    match id.guest() {
        Some(Guest::Hello) => Ok(guests.hello.clone()),
        Some(Guest::HelloP3) => Ok(guests.hello_p3.clone()),
        Some(Guest::Js) => foreign("js-hello.wasm"),
        Some(Guest::Python) => foreign("python-hello.wasm"),
        None => Err(Absent("serves no guest".to_owned())),
    }
}

/// The same in the same language that gives back what it is sent.
fn echo(id: Id, guests: &Guests) -> Option<PathBuf> {
    match id.guest()? {
        Guest::Hello => Some(guests.echo.clone()),
        Guest::HelloP3 => Some(guests.echo_p3.clone()),
        Guest::Js | Guest::Python => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_tell_skep_from_the_others() {
        let names: BTreeSet<_> = Id::ALL.iter().map(|id| id.name()).collect();
        assert_eq!(names.len(), Id::ALL.len());
        for id in Id::ALL {
            assert_eq!(id.is_skep(), id.name().starts_with("skep"), "{id}");
            assert_eq!(id.is_skep(), id.label().starts_with("skep"), "{id}");
        }
    }
}
