//! From a component's bytes to an artifact. Runs in a builder: the bytes are
//! untrusted, and parsing and compiling them is the largest attack surface
//! that skep has.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write as _;
use std::hash::{Hash as _, Hasher as _};

use sha2::{Digest as _, Sha256};
use wasmparser::{Encoding, Parser, Payload};
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::fault::chain;
use crate::link::Linked;
use crate::settings::{self, Flavor};
use crate::{Refusal, runtime};

/// What became of a component.
#[derive(Debug)]
pub struct Compiled {
    /// The engine that the artifact is for.
    pub flavor: Flavor,
    /// The interfaces that the component imports, in its own order.
    pub imports: Vec<String>,
    /// Native code for [`crate::Handler::load`].
    pub artifact: Vec<u8>,
}

/// What artifacts depend on besides the component: wasmtime's version, every
/// compiler setting and the CPU's features. Lower-case hexadecimal.
///
/// # Errors
///
/// An engine that this machine cannot have.
pub fn fingerprint() -> Result<String, Refusal> {
    let mut hash = Sha256::new();
    for flavor in [Flavor::P2, Flavor::P3] {
        let engine = compiler(flavor)?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        hash.update(hasher.finish().to_le_bytes());
    }
    // The hash above leaves the version to the artifact's own header.
    hash.update(env!("CARGO_PKG_VERSION"));
    hash.update(wasmtime_version());
    let digest = hash.finalize();
    Ok(digest[..16].iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// The version that the workspace pins.
const fn wasmtime_version() -> &'static str {
    "48.0.8"
}

/// Checks that a component can be served, and compiles it.
///
/// # Errors
///
/// Why it cannot be served, for its author.
pub fn compile(component: &[u8]) -> Result<Compiled, Refusal> {
    let shape = Shape::read(component)?;
    let flavor = shape.flavor()?;
    shape.check_imports()?;
    let engine = compiler(flavor)?;
    let compiled = Component::new(&engine, component).map_err(|error| {
        Refusal::new(format!("the component does not compile: {}", chain(&error)))
    })?;
    // The same linking that a worker will do, so that what passes here loads
    // there.
    Linked::new(&engine, flavor, &compiled).map_err(|error| {
        Refusal::new(format!("the component does not link: {}", chain(&error)))
            .hint("it asks for more than skep offers: see docs/guests.md for the interfaces")
    })?;
    let artifact = compiled.serialize().map_err(|error| {
        Refusal::new(format!("the artifact cannot be written: {}", chain(&error)))
    })?;
    Ok(Compiled {
        flavor,
        imports: shape.imports,
        artifact,
    })
}

fn compiler(flavor: Flavor) -> Result<Engine, Refusal> {
    // One builder compiles one component with one thread: several of them run
    // at a time, and their confinement knows no threads.
    let mut config = settings::config(flavor);
    runtime::without_pool(&mut config);
    Engine::new(&config)
        .map_err(|error| Refusal::new(format!("no compiler for this machine: {}", chain(&error))))
}

/// The outermost imports and exports of a component.
#[derive(Debug, Default)]
struct Shape {
    imports: Vec<String>,
    exports: Vec<String>,
}

const HOW_TO_COMPONENT: &str = "turn it into a component: `wasm-tools component new MODULE -o COMPONENT`, or build for the \
     target wasm32-wasip2";

impl Shape {
    fn read(bytes: &[u8]) -> Result<Self, Refusal> {
        if bytes.is_empty() {
            return Err(Refusal::new("the file is empty"));
        }
        if bytes.starts_with(b"\x7fELF") {
            return Err(Refusal::new("this is native code, not a component")
                .hint("give the .wasm file that it was made from"));
        }
        if !bytes.starts_with(b"\0asm") {
            let problem = "this is not a WebAssembly component";
            let text = bytes.trim_ascii_start();
            return Err(
                if text.starts_with(b"(component") || text.starts_with(b"(module") {
                    Refusal::new(format!("{problem} but its text format"))
                        .hint("`wasm-tools parse FILE -o COMPONENT` makes the binary")
                } else {
                    Refusal::new(problem).hint("name the .wasm file that your toolchain made")
                },
            );
        }
        let malformed = |error: &dyn std::fmt::Display| {
            Refusal::new(format!("the component is damaged: {error}"))
                .hint("it may be cut short or not have been copied whole: build it again")
        };
        let mut shape = Self::default();
        let mut depth = 0_u32;
        for payload in Parser::new(0).parse_all(bytes) {
            match payload.map_err(|error| malformed(&error))? {
                Payload::Version {
                    encoding: Encoding::Module,
                    ..
                } if depth == 0 => {
                    return Err(Refusal::new("this is a core module, not a component")
                        .hint(HOW_TO_COMPONENT));
                }
                Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
                Payload::End(_) => depth = depth.saturating_sub(1),
                Payload::ComponentImportSection(section) if depth == 0 => {
                    for import in section {
                        let import = import.map_err(|error| malformed(&error))?;
                        shape.imports.push(import.name.name.to_owned());
                    }
                }
                Payload::ComponentExportSection(section) if depth == 0 => {
                    for export in section {
                        let export = export.map_err(|error| malformed(&error))?;
                        shape.exports.push(export.name.name.to_owned());
                    }
                }
                _ => {}
            }
        }
        Ok(shape)
    }

    /// 0.3 wins where a component exports both.
    fn flavor(&self) -> Result<Flavor, Refusal> {
        let exports = |prefix: &str| self.exports.iter().any(|name| name.starts_with(prefix));
        if exports("wasi:http/handler@0.3.") {
            return Ok(Flavor::P3);
        }
        if exports("wasi:http/incoming-handler@0.2.") {
            return Ok(Flavor::P2);
        }
        let hint = if exports("wasi:cli/run@") {
            "this is a command: it runs once and ends; a handler exports \
             wasi:http/incoming-handler@0.2 or wasi:http/handler@0.3 (`skep new` makes one)"
        } else {
            "build it for the world wasi:http/proxy (0.2) or wasi:http/service (0.3); `skep new` \
             makes such a project"
        };
        let found = match self.exports.as_slice() {
            [] => "nothing".to_owned(),
            names => names.join(", "),
        };
        Err(Refusal::new(format!(
            "the component exports no HTTP handler (it exports {found})"
        ))
        .hint(hint))
    }

    fn check_imports(&self) -> Result<(), Refusal> {
        let missing: Vec<_> = self
            .imports
            .iter()
            .filter(|name| !offered(name))
            .map(String::as_str)
            .collect();
        let Some(first) = missing.first() else {
            return Ok(());
        };
        let hint = match first.split_once('/').map_or(*first, |(package, _)| package) {
            "wasi:keyvalue" => {
                "the grant for it is `keyvalue` of the app, which this version of skep does not \
                 have yet"
            }
            "wasi:blobstore" | "wasi:messaging" | "wasi:sql" => {
                "skep does not offer this interface; reach such a service over HTTP instead"
            }
            _ => {
                "skep offers WASI 0.2 and 0.3 (cli, clocks, random, io, http, filesystem, \
                 sockets), wasi:config and wasi:logging; compose the component with one that \
                 exports what is missing (`wac plug`)"
            }
        };
        let noun = if missing.len() == 1 {
            "import"
        } else {
            "imports"
        };
        Err(Refusal::new(format!("missing {noun}: {}", missing.join(", "))).hint(hint))
    }
}

/// Whether some version of this interface is in our linkers. Types and
/// versions are the linker's business; this is for a message that names the
/// culprit.
fn offered(import: &str) -> bool {
    const PACKAGES: [&str; 9] = [
        "wasi:cli/",
        "wasi:clocks/",
        "wasi:random/",
        "wasi:io/",
        "wasi:http/",
        "wasi:filesystem/",
        "wasi:sockets/",
        "wasi:config/",
        "wasi:logging/",
    ];
    PACKAGES.iter().any(|package| import.starts_with(package))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_component_is_refused_with_a_hint() {
        for (bytes, problem) in [
            (&b""[..], "the file is empty"),
            (b"\0asm\x01\0\0\0", "this is a core module, not a component"),
            (b"hello", "this is not a WebAssembly component"),
            (
                b"(component)",
                "this is not a WebAssembly component but its text format",
            ),
            (b"\x7fELF\x02", "this is native code, not a component"),
        ] {
            assert_eq!(compile(bytes).unwrap_err().problem, problem);
        }
        let empty = compile(b"\0asm\x0d\0\x01\0").unwrap_err();
        assert!(
            empty
                .problem
                .starts_with("the component exports no HTTP handler")
        );
        let torn = compile(b"\0asm\x0d\0\x01\0\x0b\xff").unwrap_err();
        assert!(
            torn.problem.starts_with("the component is damaged"),
            "{torn}"
        );
    }

    #[test]
    fn missing_imports_are_all_named() {
        let shape = Shape {
            imports: vec![
                "wasi:io/poll@0.2.0".into(),
                "acme:a/b@1.0.0".into(),
                "wasi:keyvalue/store@0.2.0".into(),
            ],
            exports: vec![],
        };
        assert_eq!(
            shape.check_imports().unwrap_err().problem,
            "missing imports: acme:a/b@1.0.0, wasi:keyvalue/store@0.2.0"
        );
    }
}
