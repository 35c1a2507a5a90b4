//! Commands and their options.

use std::collections::BTreeMap;

use super::{Names, between, compare, lowered, markdown, source};
use crate::Offences;

const MANUAL: &str = "docs/cli.md";

/// Where commands are shown as one types them.
const DOCUMENTS: [&str; 6] = [
    "CHANGELOG.md",
    "README.md",
    MANUAL,
    "docs/configuration.md",
    "docs/guests.md",
    "docs/operations.md",
];

/// Options that clap gives to every command.
const CLAPS: [&str; 4] = ["--help", "-h", "--version", "-V"];

/// What one command takes.
#[derive(Debug, Default, PartialEq)]
struct Command {
    /// Whether help does not show it.
    hidden: bool,
    /// Options that help shows, long and short.
    options: Names,
    /// Those that it does not show.
    secret: Names,
    /// Short options with the long ones that are the same.
    twins: BTreeMap<String, String>,
    /// Types whose options are its own, too.
    flattened: Vec<String>,
}

impl Command {
    /// The options that its line of usage has to name where that names `listed`.
    fn usage(&self, listed: &Names) -> Names {
        let mut usage = self.options.clone();
        for (short, long) in &self.twins {
            if listed.contains(short) {
                usage.remove(long);
            } else if self.flattened.iter().any(|of| of == "LowReach") && short == "-c" {
                // Which primary is asked is said once, for every command.
                usage.remove(short);
                usage.remove(long);
            }
        }
        usage
    }
}

/// The commands, and the options of all of them.
struct Line {
    commands: BTreeMap<String, Command>,
    global: Names,
}

impl Line {
    fn read() -> Self {
        let code = source("host/cli/src/args/low.rs");
        let body = |of: &str| between(&code, of, "\n}\n").expect("clap has its types");
        let mut commands = variants(body("enum LowCommand {"));
        for command in commands.values_mut() {
            for of in &command.flattened {
                let more = members(body(&format!("struct {of} {{")));
                command.options.extend(more.options);
                command.twins.extend(more.twins);
            }
        }
        let global = members(body("struct LowArgs {")).options;
        assert!(commands.len() >= 24, "these are too few: {commands:?}");
        assert!(global.len() >= 2, "these are too few: {global:?}");
        let options: usize = commands.values().map(|it| it.options.len()).sum();
        assert!(options >= 50, "{options} options are too few");
        Self { commands, global }
    }

    fn shown(&self) -> impl Iterator<Item = (&String, &Command)> {
        self.commands.iter().filter(|(_, command)| !command.hidden)
    }
}

/// The commands in the body of an enum.
fn variants(body: &str) -> BTreeMap<String, Command> {
    let mut commands = BTreeMap::new();
    let mut attributes = String::new();
    let mut lines = body.lines();
    while let Some(line) = lines.next() {
        let text = line.trim();
        if text.starts_with("#[") {
            attributes += text;
        } else if text.starts_with(|char: char| char.is_ascii_uppercase()) {
            let end = text.find(|char: char| !char.is_alphanumeric());
            let name = lowered(&text[..end.unwrap_or(text.len())], "-");
            let mut inner = String::new();
            if text.ends_with('{') {
                for line in lines.by_ref().take_while(|line| *line != "    },") {
                    inner = inner + line + "\n";
                }
            }
            let mut command = members(&inner);
            command.hidden = attributes.contains("hide = true");
            commands.insert(name, command);
            attributes.clear();
        }
    }
    commands
}

/// The options in the body of a type.
fn members(body: &str) -> Command {
    let mut command = Command::default();
    let mut attributes = String::new();
    let mut open = false;
    for line in body.lines() {
        let text = line.trim();
        if text.starts_with("//") {
            continue;
        }
        if open || text.starts_with("#[") {
            attributes += text;
            // An attribute may go over several lines.
            open = !text.ends_with(']');
            continue;
        }
        let Some((name, of)) = text.trim_end_matches(',').split_once(": ") else {
            continue;
        };
        let has = |word: &str| {
            let inner = between(&attributes, "#[arg(", ")]").unwrap_or_default();
            inner.split(',').any(|part| part.trim() == word)
        };
        let options = if has("hide = true") {
            &mut command.secret
        } else {
            &mut command.options
        };
        let (short, long) = (
            format!("-{}", &name[..1]),
            format!("--{}", name.replace('_', "-")),
        );
        if has("long") {
            options.insert(long.clone());
        }
        if has("short") {
            options.insert(short.clone());
        }
        if has("long") && has("short") {
            command.twins.insert(short, long);
        }
        if attributes.contains("#[command(flatten)]") {
            command.flattened.push(of.to_owned());
        }
        attributes.clear();
    }
    command
}

/// The options in a text: words that begin with a sign.
fn options(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', '[', ']', '(', ')', '|', '=', '`'])
        .filter(|word| {
            let name = word.trim_start_matches('-');
            let signs = word.len() - name.len();
            name.starts_with(|char: char| char.is_ascii_alphabetic())
                && (signs == 2 || (signs == 1 && name.len() == 1))
        })
}

/// What is typed behind `skep`, up to a pipe, a comment or another command.
fn typed(text: &str) -> Option<&str> {
    let text = text.trim_start();
    let text = text.strip_prefix("$ ").unwrap_or(text);
    let rest = text.strip_prefix("skep ")?;
    ["  ", " | ", " #", ";", " && "]
        .iter()
        .try_fold(rest, |text, end| text.split(end).next())
}

#[test]
fn every_command_and_option_is_in_the_manual() {
    let line = Line::read();
    let manual = markdown::read(MANUAL);
    let mut offences = Offences::default();
    let shown: Names = line.shown().map(|(name, _)| name.clone()).collect();

    let rows = markdown::rows(&manual);
    let table = rows.iter().filter(|row| row.head == "command");
    let listed: Names = table
        .flat_map(|row| markdown::spans(row.cells[0]))
        .filter_map(|span| span.split(' ').next())
        .map(str::to_owned)
        .collect();
    compare(&mut offences, "the table of commands", &shown, &listed);

    let mut explained = Names::new();
    for heading in markdown::headings(&manual).filter(|heading| heading.starts_with('`')) {
        let section = markdown::section(&manual, &format!("## {heading}"));
        for name in markdown::spans(heading) {
            explained.insert(name.to_owned());
            let Some(command) = line.commands.get(name) else {
                continue;
            };
            let place = format!("the section on {name}");
            let usage = markdown::code(section)
                .filter_map(|line| line.strip_prefix("skep ")?.strip_prefix(name))
                .find(|rest| rest.is_empty() || rest.starts_with(' '));
            let Some(usage) = usage else {
                offences.note(&format!("{place} has no line `skep {name}`"));
                continue;
            };
            let listed: Names = options(usage).map(str::to_owned).collect();
            compare(&mut offences, &place, &command.usage(&listed), &listed);
        }
    }
    compare(&mut offences, "the list of headings", &shown, &explained);

    let every: Names = line
        .shown()
        .flat_map(|(_, command)| &command.options)
        .chain(&line.global)
        .cloned()
        .collect();
    let said: Names = markdown::spans(&manual)
        .chain(markdown::code(&manual).filter(|line| line.starts_with("skep ")))
        .flat_map(options)
        .map(str::to_owned)
        .collect();
    for option in every.difference(&said) {
        offences.note(&format!("{MANUAL} does not explain `{option}`"));
    }
    for name in line.commands.keys().filter(|name| !shown.contains(*name)) {
        if !markdown::spans(&manual).any(|span| span == name) {
            offences.note(&format!("{MANUAL} does not say that there is no `{name}`"));
        }
    }
    offences.none("a command or an option that is only in the code, or only in the manual");
}

#[test]
fn what_documents_type_can_be_typed() {
    let line = Line::read();
    let mut offences = Offences::default();
    let mut found = 0;
    for document in DOCUMENTS {
        let text = markdown::read(document);
        for typed in markdown::spans(&text)
            .chain(markdown::code(&text))
            .filter_map(typed)
        {
            let end = typed.find(|char: char| !char.is_ascii_alphanumeric() && char != '-');
            let name = &typed[..end.unwrap_or(typed.len())];
            if !name.starts_with(|char: char| char.is_ascii_lowercase()) {
                continue;
            }
            found += 1;
            let Some(command) = line.commands.get(name) else {
                offences.note(&format!("{document}: there is no `skep {name}`"));
                continue;
            };
            for option in options(typed) {
                let exists = [&command.options, &command.secret, &line.global]
                    .iter()
                    .any(|options| options.contains(option));
                if !exists && !CLAPS.contains(&option) {
                    offences.note(&format!("{document}: `skep {name}` has no `{option}`"));
                }
            }
        }
        // An option by itself is of some command, but where guests are built with
        // other tools.
        let alone = markdown::spans(&text)
            .filter(|span| span.starts_with('-') && document != "docs/guests.md");
        for option in alone.flat_map(options) {
            let mut commands = line.commands.values();
            let exists = line.global.contains(option)
                || CLAPS.contains(&option)
                || commands.any(|command| command.options.contains(option));
            if !exists {
                offences.note(&format!("{document}: there is no `{option}`"));
            }
        }
    }
    assert!(found >= 80, "{found} commands are too few");
    offences.none("a document that types what skep does not understand");
}

#[test]
fn commands_are_read() {
    let body = "
    /// Text, with: a colon
    Gc {
        #[command(flatten)]
        reach: LowReach,
        #[arg(
            long,
            value_name = \"A,B\"
        )]
        dry_run: bool,
        #[arg(short, long)]
        follow: bool,
        #[arg(long, hide = true)]
        secret: bool,
        pool: String,
    },
    #[command(hide = true)]
    Logs(Ignored),
";
    let commands = variants(body);
    let gc = &commands["gc"];
    assert_eq!(Vec::from_iter(&gc.options), ["--dry-run", "--follow", "-f"]);
    assert_eq!(Vec::from_iter(&gc.secret), ["--secret"]);
    assert_eq!(gc.flattened, ["LowReach"]);
    assert_eq!(gc.twins["-f"], "--follow");
    let listed = Names::from(["-f".to_owned()]);
    assert_eq!(Vec::from_iter(gc.usage(&listed)), ["--dry-run", "-f"]);
    assert!(!gc.hidden && commands["logs"].hidden);
    let typed = |text| typed(text).map(|typed| options(typed).collect::<Vec<_>>());
    assert_eq!(
        typed("$ skep events [-f] [--a-b|--c] N | jq --d"),
        Some(vec!["-f", "--a-b", "--c"])
    );
    assert_eq!(typed("skep: error --no"), None);
}
