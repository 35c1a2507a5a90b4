use clap::CommandFactory as _;

use super::values::{canary_share, listen_address};
use super::*;

fn typed(line: &str) -> Result<Args, Stopped> {
    parse(
        std::iter::once("skep")
            .chain(line.split_whitespace())
            .map(OsString::from),
        None,
    )
}

fn command(line: &str) -> Command {
    typed(line)
        .unwrap_or_else(|stop| panic!("{line}: {}", stop.0))
        .command
}

fn complaint(line: &str) -> String {
    let Stopped(error) = typed(line).unwrap_err();
    assert!(error.use_stderr());
    error.render().to_string()
}

#[test]
fn clap_finds_no_fault_with_the_definition() {
    LowArgs::command().debug_assert();
}

#[test]
fn serve_takes_a_file_or_a_component_or_neither() {
    let serve = |source, overrides| Command::Serve {
        source,
        overrides,
        leash: Leash::Off,
    };
    assert_eq!(
        command("serve"),
        serve(Source::DefaultFile, Overrides::default())
    );
    assert_eq!(
        command("serve -c other.toml"),
        serve(Source::File("other.toml".into()), Overrides::default())
    );
    assert_eq!(
        command("serve a.wasm --listen 127.0.0.1:0 --workers 4"),
        serve(
            Source::Component("a.wasm".into()),
            Overrides {
                listen: Some(ListenAddress::Tcp(([127, 0, 0, 1], 0).into())),
                workers: Some(4),
                built: None,
            }
        )
    );
    assert!(complaint("serve a.wasm -c b.toml").contains("cannot be used with"));
    assert!(complaint("serve a.wasm --workers 0").contains("0 is not in 1..=65535"));
    assert!(matches!(
        command("serve a.wasm --until-stdin-ends"),
        Command::Serve {
            leash: Leash::Stdin,
            ..
        }
    ));
}

#[test]
fn the_other_commands_resolve() {
    assert_eq!(command("build"), Command::Build { dir: ".".into() });
    assert_eq!(
        command("dev guests/hello --listen :9000"),
        Command::Dev {
            target: "guests/hello".into(),
            listen: Some(ListenAddress::Tcp(([127, 0, 0, 1], 9000).into())),
        }
    );
    assert_eq!(
        command("check --json"),
        Command::Check {
            source: Source::DefaultFile,
            format: Format::Json
        }
    );
    assert_eq!(
        command("status"),
        Command::Status {
            format: Format::Text
        }
    );
    assert_eq!(
        command("stop"),
        Command::Stop {
            strength: Strength::Drain
        }
    );
    assert_eq!(
        command("stop --now"),
        Command::Stop {
            strength: Strength::Now
        }
    );
    assert_eq!(
        command("doctor --json"),
        Command::Doctor {
            format: Format::Json
        }
    );
    assert_eq!(
        command("new hello --template rust-p3"),
        Command::New {
            path: "hello".into(),
            template: Template::RustP3
        }
    );
}

#[test]
fn what_operators_ask_for() {
    for (line, operation) in [
        (
            "promote hello",
            Operation::Promote {
                app: "hello".into(),
            },
        ),
        (
            "rollback hello",
            Operation::Rollback {
                app: "hello".into(),
                revision: None,
            },
        ),
        (
            "rollback hello 3",
            Operation::Rollback {
                app: "hello".into(),
                revision: Some(Revision(3)),
            },
        ),
        ("reload", Operation::Reload),
        ("restart", Operation::Restart { pool: None }),
        (
            "restart default",
            Operation::Restart {
                pool: Some("default".into()),
            },
        ),
        (
            "scale default 256",
            Operation::Scale {
                pool: "default".into(),
                workers: 256,
            },
        ),
        (
            "rotate 12",
            Operation::Rotate {
                worker: WorkerId(12),
            },
        ),
        (
            "reset default",
            Operation::Reset {
                target: "default".into(),
            },
        ),
        (
            "pause hello",
            Operation::Pause {
                app: "hello".into(),
            },
        ),
        (
            "resume hello",
            Operation::Resume {
                app: "hello".into(),
            },
        ),
    ] {
        assert_eq!(command(line), Command::Operate(operation), "{line}");
    }
    for (line, words) in [
        ("scale default 0", "0 is not in 1..=256"),
        ("scale default 257", "257 is not in 1..=256"),
        ("scale default", "<N>"),
        ("rotate one", "`skep status` shows them"),
        ("rollback hello 0", "`skep history APP` shows them"),
        ("rollback hello back", "`skep history APP` shows them"),
        ("promote", "<APP>"),
        ("reset", "<POOL|APP>"),
    ] {
        let said = complaint(line);
        assert!(said.contains(words), "{line}: {said}");
    }
}

#[test]
fn what_operators_look_at() {
    for (line, expected) in [
        (
            "events",
            Command::Events {
                follow: false,
                format: Format::Text,
            },
        ),
        (
            "events -f --json",
            Command::Events {
                follow: true,
                format: Format::Json,
            },
        ),
        (
            "describe hello",
            Command::Describe {
                what: "hello".into(),
                format: Format::Text,
            },
        ),
        (
            "history hello --json",
            Command::History {
                app: "hello".into(),
                format: Format::Json,
            },
        ),
    ] {
        assert_eq!(command(line), expected, "{line}");
    }
}

#[test]
fn deployments_take_their_terms() {
    let deploy = |terms| Command::Deploy {
        app: "hello".into(),
        source: "a.wasm".into(),
        terms,
    };
    assert_eq!(command("deploy hello a.wasm"), deploy(Terms::default()));
    assert_eq!(
        command("deploy hello a.wasm --strategy swap --canary 12.5% --force"),
        deploy(Terms {
            strategy: Some(Strategy::Swap),
            canary: Some(Portion(1250)),
            force: true,
            ..Terms::default()
        })
    );
    assert_eq!(
        command("deploy --detach --dry-run --strategy=restart hello a.wasm"),
        deploy(Terms {
            strategy: Some(Strategy::Restart),
            dry_run: true,
            detach: true,
            ..Terms::default()
        })
    );
    for (line, words) in [
        ("deploy hello", "<SOURCE>"),
        ("deploy hello a.wasm --strategy roll", "swap"),
        ("deploy hello a.wasm --canary all", "such as 10% or 12.5%"),
        ("deploy hello a.wasm --canry 10%", "'--canary'"),
    ] {
        let said = complaint(line);
        assert!(said.contains(words), "{line}: {said}");
    }
}

#[test]
fn shares_are_read_as_people_type_them() {
    for (text, hundredths) in [
        ("10%", 1000),
        ("10", 1000),
        ("12.5%", 1250),
        ("12.50", 1250),
        ("0.01%", 1),
        ("100%", 10_000),
        ("10 %", 1000),
    ] {
        assert_eq!(canary_share(text), Ok(Portion(hundredths)), "{text}");
    }
    for bad in [
        "",
        "%",
        "0",
        "0%",
        "0.001%",
        "100.01%",
        "101",
        "-1",
        "+1",
        "1e1",
        ".5",
        "5.",
        "ten",
        "10%%",
        "99999999999",
        "0.1.2",
    ] {
        assert!(canary_share(bad).is_err(), "{bad}");
    }
}

#[test]
fn global_options_stand_on_either_side() {
    for line in [
        "--control /x --color never status",
        "status --control /x --color never",
    ] {
        let args = typed(line).unwrap();
        assert_eq!(args.reach.control, Some("/x".into()));
        assert_eq!(args.color, ColorChoice::Never);
    }
}

#[test]
fn what_is_not_there_yet_is_recognised_whatever_follows() {
    for (line, name) in [
        ("logs -f --help", "logs"),
        ("top", "top"),
        ("debug 12 profile", "debug"),
        ("upgrade", "upgrade"),
    ] {
        assert_eq!(command(line), Command::NotYet(name));
    }
    let help = LowArgs::command().render_long_help().to_string();
    assert!(!help.contains("upgrade"), "{help}");
    assert!(help.contains("deploy"), "{help}");
}

#[test]
fn mistyped_words_get_a_suggestion() {
    assert!(complaint("serv").contains("'serve'"));
    assert!(complaint("statsu").contains("'status'"));
    assert!(complaint("rolback hello").contains("'rollback'"));
    assert!(complaint("scael default 2").contains("'scale'"));
    assert!(complaint("status --jsn").contains("'--json'"));
    assert!(complaint("new x --template rst").contains("rust"));
}

#[test]
fn help_is_an_answer_and_nothing_at_all_is_not() {
    assert!(!typed("--help").unwrap_err().0.use_stderr());
    assert!(!typed("--version").unwrap_err().0.use_stderr());
    assert!(typed("").unwrap_err().0.use_stderr());
}

#[test]
fn addresses_are_read_as_people_type_them() {
    let tcp = |text: &str| Ok(ListenAddress::Tcp(text.parse().unwrap()));
    assert_eq!(listen_address("0.0.0.0:80"), tcp("0.0.0.0:80"));
    assert_eq!(listen_address("[::]:8080"), tcp("[::]:8080"));
    assert_eq!(listen_address(":8080"), tcp("127.0.0.1:8080"));
    assert_eq!(listen_address("8080"), tcp("127.0.0.1:8080"));
    assert_eq!(listen_address("localhost:1"), tcp("127.0.0.1:1"));
    assert_eq!(
        listen_address("unix:/run/a"),
        Ok(ListenAddress::Unix("/run/a".into()))
    );
    for bad in [
        "",
        ":",
        "70000",
        "unix:",
        "127.0.0.1",
        "example.com:80",
        "::1",
        "1.2.3.4:99999",
    ] {
        assert!(listen_address(bad).is_err(), "{bad}");
    }
}

#[test]
fn every_command_that_asks_a_primary_takes_its_configuration() {
    for line in [
        "status",
        "describe a",
        "history a",
        "events",
        "deploy a b",
        "promote a",
        "rollback a",
        "reload",
        "restart",
        "scale a 1",
        "rotate 1",
        "reset a",
        "pause a",
        "resume a",
        "stop",
    ] {
        for option in ["-c", "--config"] {
            let args = typed(&format!("{line} {option} x.toml")).unwrap();
            assert_eq!(args.reach.config, Some("x.toml".into()), "{line}");
        }
    }
    for line in ["new a -c x", "build -c x", "doctor -c x"] {
        assert!(complaint(line).contains("'-c'"), "{line}");
    }
}

#[test]
fn an_empty_variable_is_none() {
    let variable = |value: &str| {
        let argv = ["skep", "status"].map(OsString::from);
        parse(argv, Some(value.into())).unwrap().reach.variable
    };
    assert_eq!(variable(""), None);
    assert_eq!(variable("/x"), Some("/x".into()));
}
