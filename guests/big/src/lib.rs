//! A component of about two megabytes, most of it code that is in use: what it
//! costs to compile and to deploy a handler as large as real ones are. It
//! renders Markdown and checks what is in it.
//!
//! | request | answer |
//! |---|---|
//! | `GET /` | a page made of a small example |
//! | `POST /` | a page made of the body |
//!
//! Below the page stand the addresses in it, and what became of its code blocks
//! marked `sql` and `json` when they were parsed.

use std::fmt::Write as _;
use std::io::Read as _;

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd, html};
use regex::Regex;
use serde_json::{Value, json};
use skep_guest::{Request, Response};
use sqlparser::dialect::GenericDialect;

skep_guest::handler!(handle);

/// What is made into a page where the request has nothing to offer.
const EXAMPLE: &str = "# Bees\n\nSee [skep](https://example.com/skep) and mail bee@hive.example.\n\n\
    ```sql\nSELECT hive, sum(honey) FROM yields WHERE year > 1984 GROUP BY hive\n```\n\n\
    ```json\n{ \"hives\": [1, 2, 3] }\n```\n";

/// More than this of a body is not read.
const MAX_BODY: u64 = 1 << 20;

fn handle(request: Request) -> Response {
    let mut text = String::new();
    if request.method() == "POST" {
        if let Err(error) = request.into_body().take(MAX_BODY).read_to_string(&mut text) {
            return Response::new(400).with_body(error.to_string());
        }
    } else {
        EXAMPLE.clone_into(&mut text);
    }
    let page = page(&text);
    Response::new(200)
        .with_header("content-type", "text/html; charset=utf-8")
        .with_body(page)
}

/// The page, and below it what was found.
fn page(text: &str) -> String {
    let mut page = String::new();
    html::push_html(&mut page, Parser::new_ext(text, Options::all()));
    let found = json!({ "addresses": addresses(text), "code": code(text) });
    let _ = write!(page, "<pre>{found:#}</pre>");
    page
}

/// Addresses of mail and of pages.
fn addresses(text: &str) -> Vec<String> {
    let address =
        Regex::new(r"(?i)\b(?:https?://[\w./-]+|[\w.+-]+@[\w-]+(?:\.\p{Alphabetic}+)+)\b")
            .expect("the expression is well-formed");
    address
        .find_iter(text)
        .map(|found| found.as_str().to_owned())
        .collect()
}

/// What the code blocks say, as far as their language is known.
fn code(text: &str) -> Vec<Value> {
    let mut found = Vec::new();
    let mut open: Option<(String, String)> = None;
    for event in Parser::new(text) {
        match event {
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(language))) => {
                open = Some((language.to_string(), String::new()));
            }
            Event::Text(line) => {
                if let Some((_, block)) = &mut open {
                    block.push_str(&line);
                }
            }
            Event::End(TagEnd::CodeBlock) => {
                if let Some((language, block)) = open.take() {
                    found.push(checked(&language, &block));
                }
            }
            _ => {}
        }
    }
    found
}

fn checked(language: &str, block: &str) -> Value {
    match language {
        "sql" => match sqlparser::parser::Parser::parse_sql(&GenericDialect {}, block) {
            Ok(statements) => json!({
                "sql": statements.iter().map(ToString::to_string).collect::<Vec<_>>(),
            }),
            Err(error) => json!({ "error": error.to_string() }),
        },
        "json" => match serde_json::from_str::<Value>(block) {
            Ok(value) => json!({ "json": value }),
            Err(error) => json!({ "error": error.to_string() }),
        },
        other => json!({ "unknown": other }),
    }
}
