use skep_core::AppName;

use super::*;

fn read(source: &Source) -> Result<Loaded, Unusable> {
    Loaded::read(source, Overrides::default())
}

fn problem(source: &Source) -> Problem {
    match read(source).unwrap_err() {
        Unusable::Problems(problems) => problems.iter().next().unwrap().clone(),
        Unusable::Failure(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_missing_component_is_sought_nearby() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    assert_eq!(similar(&at("hello.wasm")), None);
    std::fs::write(at("helo.wasm"), "").unwrap();
    assert_eq!(similar(&at("other.wasm")), Some(at("helo.wasm")));
    std::fs::write(at("echo.wasm"), "").unwrap();
    assert_eq!(similar(&at("hello.wasm")), Some(at("helo.wasm")));
    assert_eq!(similar(&at("zzz.txt")), None);

    let problem = problem(&Source::Component(at("hello.wasm")));
    assert!(problem.hint().unwrap().starts_with("did you mean"));
}

#[test]
fn a_directory_is_for_dev() {
    let dir = tempfile::tempdir().unwrap();
    let problem = problem(&Source::Component(dir.path().to_owned()));
    assert!(
        problem
            .message()
            .ends_with("is a directory, not a component")
    );
    assert!(problem.hint().unwrap().contains("skep dev"));
}

#[test]
fn a_configuration_is_no_component() {
    let dir = tempfile::tempdir().unwrap();
    let problem = problem(&Source::Component(dir.path().join("skep.toml")));
    assert!(
        problem
            .message()
            .ends_with("is a configuration, not a component")
    );
    assert!(problem.hint().unwrap().contains("skep serve -c "));
}

#[test]
fn the_path_of_the_control_socket_is_short_enough() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("skep.toml");
    std::fs::write(dir.path().join("a.wasm"), "").unwrap();
    let control = |state_dir: usize, named| {
        // What is written is the whole path.
        let state_dir = format!("/{}", "d".repeat(state_dir - 1));
        let text =
            format!("[server]\nstate_dir = \"{state_dir}\"\n[app.a]\ncomponent = \"a.wasm\"\n");
        std::fs::write(&file, text).unwrap();
        read(&Source::File(file.clone())).unwrap().control(named)
    };
    let longest = MAX_SOCKET_PATH - "/control.sock".len();
    assert!(control(longest, None).is_ok());
    let Err(Unusable::Problems(problems)) = control(longest + 1, None) else {
        panic!("it is too long");
    };
    let problem = problems.iter().next().unwrap();
    assert!(
        problem.message().contains("108 bytes"),
        "{}",
        problem.message()
    );
    assert!(problem.hint().unwrap().contains("state_dir"));
    let elsewhere = control(longest + 1, Some("/run/skep.sock".into()));
    assert_eq!(elsewhere.unwrap(), Path::new("/run/skep.sock"));
}

#[test]
fn options_change_the_only_listener_and_pool() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("skep.toml");
    std::fs::write(dir.path().join("a.wasm"), "").unwrap();
    let text = "[pool.default]\nworkers = 1\n[app.a]\ncomponent = \"a.wasm\"\n";
    std::fs::write(&file, text).unwrap();
    let overrides = Overrides {
        listen: Some(skep_core::ListenAddress::Unix("/x".into())),
        workers: Some(3),
        ..Overrides::default()
    };
    let source = Source::File(file.clone());
    let loaded = Loaded::read(&source, overrides.clone()).unwrap();
    let listener = loaded.spec().listeners.values().next().unwrap();
    assert_eq!(listener.address.to_string(), "unix:/x");
    assert_eq!(loaded.spec().pools.values().next().unwrap().workers, 3);

    let two = "[listener.a]\naddress = \"127.0.0.1:1\"\n[listener.b]\naddress = \"127.0.0.1:2\"\n";
    std::fs::write(&file, format!("{text}{two}")).unwrap();
    let Err(Unusable::Failure(failure)) = Loaded::read(&source, overrides) else {
        panic!("which listener is meant?");
    };
    assert_eq!(failure.exit(), Exit::Usage, "{failure}");
}

#[test]
fn what_was_built_is_the_component_of_the_app_that_names_it_or_is_alone() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let source = Source::File(at("skep.toml"));
    let read = |text: &str| {
        std::fs::write(at("skep.toml"), text).unwrap();
        let overrides = Overrides {
            built: Some(at("built.wasm")),
            ..Overrides::default()
        };
        Loaded::read(&source, overrides)
    };
    let message = |unusable| match unusable {
        Unusable::Problems(problems) => problems.render(false),
        Unusable::Failure(failure) => panic!("{failure}"),
    };
    // It need not be there yet.
    let one = read("[app.a]\ncomponent = \"elsewhere.wasm\"\n").unwrap();
    let app = |loaded: &Loaded, name: &str| {
        loaded.spec().apps[&AppName::new(name).unwrap()]
            .component
            .clone()
    };
    assert_eq!(app(&one, "a"), at("built.wasm"));
    std::fs::write(at("other.wasm"), "").unwrap();
    let two = |component: &str| {
        format!(
            "[app.a]\ncomponent = \"other.wasm\"\n\
             [app.b]\ncomponent = \"{component}\"\nroutes = [\"/b\"]\n"
        )
    };
    let loaded = read(&two("built.wasm")).unwrap();
    assert_eq!(app(&loaded, "a"), at("other.wasm"));
    assert_eq!(app(&loaded, "b"), at("built.wasm"));
    let said = message(read(&two("other.wasm")).unwrap_err());
    assert!(said.contains("names no app"), "{said}");
    std::fs::remove_file(at("other.wasm")).unwrap();
    let said = message(read(&two("built.wasm")).unwrap_err());
    assert!(said.contains("app a: there is no component"), "{said}");
}

#[test]
fn problems_stand_where_the_component_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("skep.toml");
    let component = dir.path().join("a.wasm");
    std::fs::write(&component, "").unwrap();
    std::fs::write(&file, "[app.a]\ncomponent = \"a.wasm\"\n").unwrap();
    let app = AppName::new("a").unwrap();
    let refusal = || Refusal {
        problem: "it is empty".into(),
        hint: Some("build it".into()),
    };
    let loaded = read(&Source::File(file)).unwrap();
    let problem = loaded.component_problem(&app, refusal());
    assert_eq!(problem.position().map(|(line, _)| line), Some(2));
    assert_eq!(problem.message(), "app a: it is empty");

    let loaded = read(&Source::Component(component)).unwrap();
    let problem = loaded.component_problem(&app, refusal());
    assert!(problem.message().ends_with("a.wasm`: it is empty"));
    assert_eq!(problem.hint(), Some("build it"));
}
