//! A component served without a configuration file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use skep_core::{
    AppName, ConnectionLimits, FleetSpec, Generation, ListenAddress, ListenerSpec, Sandbox,
    ServerSpec, TenantSpec,
};

use crate::document::quotable;
use crate::elements::name;
use crate::elements::workers::MAX_WORKERS;
use crate::environment::{Environment, reason};
use crate::problem::{Problem, Problems};
use crate::sections::{app, listener, pool, server};

/// The name of an app whose file name has nothing to make a name of.
const NAMELESS: &str = "app";

/// The specification of one app that answers everything on one listener, with
/// every default; the app is named after its file.
///
/// # Errors
///
/// The component cannot be read, or there are too many or no workers.
pub fn for_component(
    component: &Path,
    listen: Option<ListenAddress>,
    workers: Option<u16>,
    state_dir: PathBuf,
    env: &dyn Environment,
) -> Result<FleetSpec, Problems> {
    let mut problems = Vec::new();
    if let Err(error) = env.readable(component) {
        let shown = quotable(&component.to_string_lossy());
        let message = format!("cannot read component `{shown}`: {}", reason(&error));
        problems.push(Problem::without_place(message, None));
    }
    let mut pool = pool::default(env.parallelism());
    if let Some(workers) = workers {
        if !(1..=MAX_WORKERS).contains(&workers) {
            let message =
                format!("the number of workers must be between 1 and {MAX_WORKERS}, not {workers}");
            problems.push(Problem::without_place(message, None));
        }
        pool.workers = workers;
    }
    if !problems.is_empty() {
        return Err(problems.into_iter().collect());
    }
    let listener = ListenerSpec {
        address: listen.unwrap_or_else(listener::default_address),
        pools: vec![name::default_pool()],
        limits: ConnectionLimits::default(),
    };
    let app = app::default(component.to_owned());
    Ok(FleetSpec {
        generation: Generation(1),
        server: ServerSpec {
            state_dir,
            log: server::default_log(),
            alert: None,
            sandbox: Sandbox::default(),
        },
        listeners: BTreeMap::from([(listener::default_name(), listener)]),
        pools: BTreeMap::from([(name::default_pool(), pool)]),
        tenants: BTreeMap::from([(app.tenant.clone(), TenantSpec::default())]),
        apps: BTreeMap::from([(app_name(component), app)]),
    })
}

fn app_name(component: &Path) -> AppName {
    let stem = component.file_stem().unwrap_or_default().to_string_lossy();
    AppName::new(&name::sanitize(&stem))
        .or_else(|_| AppName::new(NAMELESS))
        .expect("`app` is a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ProcessEnvironment;

    #[test]
    fn a_component_needs_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("Hello World.wasm");
        std::fs::write(&path, b"").unwrap();
        let spec =
            for_component(&path, None, Some(3), ".skep".into(), &ProcessEnvironment).unwrap();
        let (app_name, app) = spec.apps.first_key_value().unwrap();
        assert_eq!(app_name.as_str(), "hello-world");
        assert_eq!(app.component, path);
        assert_eq!(app.routes[0].as_str(), "/*");
        assert_eq!(spec.pools[&app.pool].workers, 3);
        let listener = spec.listeners.values().next().unwrap();
        assert_eq!(listener.address.to_string(), "127.0.0.1:8080");
        assert_eq!(listener.pools, std::slice::from_ref(&app.pool));
    }

    #[test]
    fn every_problem_of_the_command_line_is_reported() {
        let missing = Path::new("/nowhere/a.wasm");
        let problems =
            for_component(missing, None, Some(0), ".skep".into(), &ProcessEnvironment).unwrap_err();
        let messages: Vec<&str> = problems.iter().map(Problem::message).collect();
        assert_eq!(
            messages,
            [
                "cannot read component `/nowhere/a.wasm`: there is no such file",
                "the number of workers must be between 1 and 256, not 0",
            ]
        );
    }

    #[test]
    fn a_name_is_made_of_any_file_name() {
        assert_eq!(
            app_name(Path::new("x/My_App.v2.wasm")).as_str(),
            "my_app-v2"
        );
        assert_eq!(app_name(Path::new("….wasm")).as_str(), "app");
        assert_eq!(app_name(Path::new("/")).as_str(), "app");
    }
}
