//! Reading the fields of types that are printed as JSON from their sources.

use std::collections::BTreeMap;

use super::{between, lowered, source};

/// Types that are one value in JSON.
const PLAIN: [&str; 12] = [
    "String",
    "AppName",
    "Generation",
    "ListenerName",
    "PoolName",
    "Revision",
    "SlotIndex",
    "TenantName",
    "WorkerId",
    "Vec",
    "Option",
    "BTreeMap",
];

/// Types by their names.
pub(super) struct Types(BTreeMap<String, Type>);

#[derive(Debug, Default, PartialEq)]
struct Type {
    fields: Vec<Field>,
    /// What the values of an enum are in JSON.
    values: Vec<String>,
    /// The member with the value, of an enum whose variants have fields.
    tag: Option<String>,
}

#[derive(Debug, PartialEq)]
struct Field {
    /// Its name in JSON.
    name: String,
    /// Its type as it is written.
    of: String,
    flat: bool,
}

/// What a document may have.
#[derive(Default)]
pub(super) struct Members {
    /// Paths of fields, as `pools.last_exit.pid`; those of an array are those of its
    /// elements.
    pub(super) paths: Vec<String>,
    /// Paths with a value of the enum that stands there.
    pub(super) values: Vec<(String, String)>,
}

impl Types {
    /// Reads the types of some files; of two with one name the last one counts.
    pub(super) fn of(paths: &[&str]) -> Self {
        let mut types = BTreeMap::new();
        for path in paths {
            let before = types.len();
            read(&source(path), &mut types);
            assert!(types.len() > before, "there is no type in {path}");
        }
        Self(types)
    }

    /// What a document of this type may have. Types that are named in `elsewhere` are
    /// not followed.
    pub(super) fn members(&self, root: &str, elsewhere: &[&str]) -> Members {
        let mut members = Members::default();
        self.follow(root, "", elsewhere, &mut members);
        assert!(!members.paths.is_empty(), "{root} has no fields");
        members
    }

    fn follow(&self, name: &str, path: &str, elsewhere: &[&str], into: &mut Members) {
        let Some(of) = self.0.get(name) else {
            panic!("{name} at `{path}` is not known: name the file that it is in");
        };
        let below = |name: &str| match path {
            "" => name.to_owned(),
            path => format!("{path}.{name}"),
        };
        let place = of.tag.as_deref().map_or_else(|| path.to_owned(), below);
        into.paths.extend(of.tag.as_deref().map(below));
        for value in &of.values {
            into.values.push((place.clone(), value.clone()));
        }
        for field in &of.fields {
            let path = if field.flat {
                path.to_owned()
            } else {
                into.paths.push(below(&field.name));
                below(&field.name)
            };
            let names = field.of.split(|char: char| !char.is_alphanumeric());
            for name in names.filter(|name| name.starts_with(|char: char| char.is_uppercase())) {
                if !PLAIN.contains(&name) && !elsewhere.contains(&name) {
                    self.follow(name, &path, elsewhere, into);
                }
            }
        }
    }
}

/// Reads the types of a source that serde serializes.
fn read(code: &str, types: &mut BTreeMap<String, Type>) {
    let mut attributes = String::new();
    let mut open: Option<(String, Type, String)> = None;
    for line in code.lines() {
        let text = line.trim();
        if text.starts_with("//") {
            continue;
        }
        if text.starts_with("#[") {
            attributes += text;
            continue;
        }
        if let Some((name, of, case)) = &mut open {
            if line == "}" {
                types.insert(std::mem::take(name), std::mem::take(of));
                open = None;
            } else if let Some((name, kind)) = field(text) {
                of.fields.push(Field {
                    name: renamed(&attributes).unwrap_or(name).to_owned(),
                    of: kind.to_owned(),
                    flat: attributes.contains("flatten"),
                });
            } else if text.starts_with(|char: char| char.is_ascii_uppercase()) {
                let end = text.find(|char: char| !char.is_alphanumeric());
                let variant = &text[..end.unwrap_or(text.len())];
                let between = if case == "kebab-case" { "-" } else { "" };
                of.values.push(lowered(variant, between));
            }
        } else if attributes.contains("Serialize") && text.ends_with('{') {
            let words: Vec<_> = text.split([' ', '<', '(']).collect();
            let at = words
                .iter()
                .position(|word| ["struct", "enum"].contains(word));
            if let Some(name) = at.and_then(|at| words.get(at + 1)) {
                let case = between(&attributes, "rename_all = \"", "\"").unwrap_or_default();
                let of = Type {
                    tag: between(&attributes, "tag = \"", "\"").map(str::to_owned),
                    ..Type::default()
                };
                open = Some(((*name).to_owned(), of, case.to_owned()));
            }
        }
        attributes.clear();
    }
}

/// A line `pub NAME: TYPE,`.
fn field(text: &str) -> Option<(&str, &str)> {
    let text = text.strip_prefix("pub ").unwrap_or(text);
    let (name, of) = text.strip_suffix(',')?.split_once(": ")?;
    super::is_name(name).then_some((name, of))
}

fn renamed(attributes: &str) -> Option<&str> {
    between(attributes, "rename = \"", "\"")
}

#[test]
fn types_are_read() {
    let code = "\
#[derive(Serialize)]
pub struct A<'a> {
    /// b: C,
    #[serde(default)]
    pub one: Option<&'a B>,
    #[serde(rename = \"deux\")]
    two: Vec<u8>,
    #[serde(flatten)]
    pub three: C,
}
#[derive(Debug, Serialize)]
#[serde(rename_all = \"kebab-case\", tag = \"kind\")]
pub enum B {
    OutOfMemory,
    Crash {
        code: i32,
    },
}
#[derive(Serialize)]
struct C {
    four: String,
}
#[derive(Debug)]
struct Other {
    none: u8,
}
";
    let mut types = BTreeMap::new();
    read(code, &mut types);
    assert_eq!(types.len(), 3);
    let members = Types(types).members("A", &[]);
    assert_eq!(
        members.paths,
        ["one", "one.kind", "one.code", "deux", "four"]
    );
    let kinds = ["out-of-memory", "crash"].map(|value| ("one.kind".to_owned(), value.to_owned()));
    assert_eq!(members.values, kinds);
}
