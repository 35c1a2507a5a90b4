//! skep itself, configured by a file as a user would.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use super::{Peer, WORKERS};
use crate::server::{Address, Launch};

/// What `skep serve` says once it serves.
const ANNOUNCEMENT: &str = "skep: serving http://";

/// Far above the 32 clients of any run here: nobody waits for a permit.
const CONCURRENCY: u32 = 1000;

/// One component, served.
#[derive(Debug)]
pub(crate) struct Skep {
    pub(crate) program: PathBuf,
    pub(crate) component: PathBuf,
    /// One that gives back what it is sent.
    pub(crate) echo: Option<PathBuf>,
    pub(crate) instance: Instance,
}

/// How it treats instances.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Instance {
    pub(crate) reuse: u32,
    pub(crate) concurrent: u32,
}

impl Instance {
    /// One for every request.
    pub(crate) const FRESH: Self = Self {
        reuse: 1,
        concurrent: 1,
    };
}

/// One app.
#[derive(Clone, Debug)]
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) component: PathBuf,
    /// The default, which is everything, if there is none.
    pub(crate) route: Option<String>,
    pub(crate) instance: Instance,
    pub(crate) concurrency: u32,
}

/// A configuration.
#[derive(Clone, Debug)]
pub(crate) struct Configuration {
    pub(crate) workers: u16,
    /// Further lines of the pool's table.
    pub(crate) pool: &'static str,
    pub(crate) apps: Vec<App>,
}

impl Configuration {
    /// As text. The state directory is beside the file.
    pub(crate) fn to_toml(&self) -> String {
        let Self { workers, pool, .. } = self;
        let mut toml = format!(
            "[server]\nstate_dir = \"state\"\nlog = {{ level = \"warn\" }}\n\n\
             [listener.web]\naddress = \"127.0.0.1:0\"\n\n\
             [pool.default]\nworkers = {workers}\n{pool}"
        );
        for app in &self.apps {
            let App {
                name,
                component,
                route,
                instance,
                concurrency,
            } = app;
            let Instance { reuse, concurrent } = instance;
            let component = component.display().to_string();
            write!(
                toml,
                "\n[app.{name}]\ncomponent = {component:?}\nconcurrency = {concurrency}\n\
                 instance = {{ reuse = {reuse}, concurrent = {concurrent} }}\n"
            )
            .expect("a string takes everything");
            if let Some(route) = route {
                writeln!(toml, "routes = [{route:?}]").expect("a string takes everything");
            }
        }
        toml
    }

    /// Writes the file into `scratch`; the command serves it.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub(crate) fn launch(&self, program: &Path, scratch: &Path) -> Result<Launch> {
        launch(program, &self.to_toml(), scratch)
    }

    /// Where the control socket of a server in `scratch` is.
    pub(crate) fn control(scratch: &Path) -> PathBuf {
        scratch.join("state/control.sock")
    }
}

/// Writes `skep.toml` into `scratch`, with `state` beside it for its state
/// directory; the command serves it.
///
/// # Errors
///
/// The file cannot be written.
pub(crate) fn launch(program: &Path, toml: &str, scratch: &Path) -> Result<Launch> {
    let file = scratch.join("skep.toml");
    fs::write(&file, toml).context("cannot write skep.toml")?;
    let mut command = Command::new(program);
    command.current_dir(scratch).args(["serve", "-c"]).arg(file);
    Ok(Launch {
        commands: vec![command],
        address: Address::Announced(ANNOUNCEMENT),
    })
}

impl Skep {
    fn serve(&self, component: &Path, scratch: &Path) -> Result<Launch> {
        let app = App {
            name: "hello".to_owned(),
            component: component.to_owned(),
            route: None,
            instance: self.instance,
            concurrency: CONCURRENCY,
        };
        let configuration = Configuration {
            workers: WORKERS,
            pool: "",
            apps: vec![app],
        };
        configuration.launch(&self.program, scratch)
    }
}

impl Peer for Skep {
    fn launch(&self, scratch: &Path) -> Result<Launch> {
        self.serve(&self.component, scratch)
    }

    fn echo(&self, scratch: &Path) -> Result<Option<Launch>> {
        let Some(echo) = &self.echo else {
            return Ok(None);
        };
        // Its state is that of another component.
        let scratch = scratch.join("echo");
        fs::create_dir_all(&scratch).context("cannot make a temporary directory")?;
        self.serve(echo, &scratch).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_is_what_the_specification_says() {
        let configuration = Configuration {
            workers: 4,
            pool: "min_uptime = \"1s\"\n",
            apps: vec![App {
                name: "a".to_owned(),
                component: "/x/hello.wasm".into(),
                route: Some("/a/*".to_owned()),
                instance: Instance {
                    reuse: 128,
                    concurrent: 16,
                },
                concurrency: 10,
            }],
        };
        assert_eq!(
            configuration.to_toml(),
            "[server]\nstate_dir = \"state\"\nlog = { level = \"warn\" }\n\n\
             [listener.web]\naddress = \"127.0.0.1:0\"\n\n\
             [pool.default]\nworkers = 4\nmin_uptime = \"1s\"\n\n\
             [app.a]\ncomponent = \"/x/hello.wasm\"\nconcurrency = 10\n\
             instance = { reuse = 128, concurrent = 16 }\nroutes = [\"/a/*\"]\n"
        );
    }
}
