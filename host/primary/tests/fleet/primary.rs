//! The primary under test: a specification from the command line, and [`run`].

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use skep_core::route::RoutePattern;
use skep_core::{
    AppLimits, AppName, AppSpec, ConnectionLimits, Dispatch, FleetSpec, Generation, InstancePolicy,
    ListenAddress, ListenerName, ListenerSpec, LogFormat, LogLevel, LogSpec, PoolName, PoolSpec,
    RolloutSpec, Sandbox, ServerSpec, SupervisionSettings, TenantName,
};
use skep_primary::{Options, StartError, run};

/// `primary DIR MODE MAX_CRASHES LISTEN... -- COMPONENT...`
pub(crate) fn play() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(2).collect();
    let [dir, mode, max_crashes, rest @ ..] = arguments.as_slice() else {
        panic!("too few arguments");
    };
    let mut halves = rest.split(|argument| argument == "--");
    let (listeners, components) = (halves.next().unwrap(), halves.next().unwrap());
    let dir = Path::new(dir);
    let spec = specification(
        dir,
        mode,
        max_crashes.parse().unwrap(),
        listeners,
        components,
    );
    let options = Options {
        reread: Arc::new({
            let spec = spec.clone();
            move |_| Ok(spec.clone())
        }),
        spec,
        control: dir.join("control.sock"),
        config: None,
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(69)
        }
    }
}

/// `primary-of DIR`: of the specification in `DIR/spec.json`, which is read
/// again at each reload.
pub(crate) fn play_file() -> ExitCode {
    let dir = PathBuf::from(std::env::args().nth(2).unwrap());
    let file = dir.join("spec.json");
    let read = move || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        serde_json::from_str::<FleetSpec>(&text).map_err(|error| error.to_string())
    };
    let options = Options {
        spec: read().unwrap(),
        reread: Arc::new(move |_| read()),
        control: dir.join("control.sock"),
        config: None,
    };
    match run(options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(69)
        }
    }
}

fn report(error: &StartError) {
    eprintln!("error: {error}");
    match error {
        StartError::Components(refused) => {
            for (app, refusal) in refused {
                eprintln!("{app}: {}", refusal.problem);
            }
        }
        StartError::Listeners(failures) => {
            for failure in failures {
                eprintln!("{failure}: {}", failure.source);
            }
        }
        _ => {}
    }
}

pub(crate) fn specification(
    dir: &Path,
    mode: &str,
    max_crashes: u32,
    listeners: &[String],
    components: &[String],
) -> FleetSpec {
    let pool = PoolName::new("default").unwrap();
    let listeners = listeners.iter().enumerate().map(|(index, address)| {
        let address = match address.strip_prefix("unix:") {
            Some(path) => ListenAddress::Unix(path.into()),
            None => ListenAddress::Tcp(address.parse().unwrap()),
        };
        let listener = ListenerSpec {
            address,
            pools: vec![pool.clone()],
            limits: ConnectionLimits::default(),
        };
        (ListenerName::new(&format!("l{index}")).unwrap(), listener)
    });
    let apps = components.iter().enumerate().map(|(index, component)| {
        let app = AppSpec {
            component: dir.join(component),
            tenant: TenantName::new("default").unwrap(),
            pool: pool.clone(),
            routes: vec![format!("/{index}/*").parse::<RoutePattern>().unwrap()],
            strip_prefix: false,
            limits: AppLimits::default(),
            instance: InstancePolicy::default(),
            env: vec![("MODE".to_owned(), mode.to_owned())],
            require: Vec::new(),
            config: BTreeMap::new(),
            validate: None,
            rollout: RolloutSpec {
                observe: Duration::ZERO,
                ..RolloutSpec::default()
            },
            outbound: Vec::new(),
        };
        (AppName::new(&format!("app-{index}")).unwrap(), app)
    });
    let supervision = SupervisionSettings {
        // A worker counts as stable at once, and none waits long for another.
        min_uptime: Duration::from_millis(1),
        max_crashes,
        backoff: Duration::from_millis(10),
        backoff_max: Duration::from_millis(50),
        kill_timeout: Duration::from_millis(300),
        ..SupervisionSettings::default()
    };
    FleetSpec {
        generation: Generation(1),
        server: ServerSpec {
            state_dir: dir.join("state"),
            log: LogSpec {
                format: LogFormat::Text,
                level: LogLevel::Info,
            },
            alert: None,
            sandbox: Sandbox::default(),
        },
        listeners: listeners.collect(),
        tenants: BTreeMap::new(),
        apps: apps.collect(),
        pools: BTreeMap::from([(
            pool,
            PoolSpec {
                workers: 2,
                dispatch: Dispatch::Balanced,
                supervision,
                user: None,
            },
        )]),
    }
}
