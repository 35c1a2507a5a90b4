//! Tools that `skep build` and `skep dev` call. Serving needs none of them.

use std::path::Path;
use std::time::Duration;

use super::Finding;
use crate::project::tool::{self, ToolError};

/// Long enough for rustup on a cold disk.
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) async fn findings() -> Vec<Finding> {
    vec![
        rust(ask("rustup", &["target", "list", "--installed"]).await),
        javascript(ask("npm", &["--version"]).await),
        python(
            ask("componentize-py", &["--version"]).await,
            ask("pip", &["--version"]).await,
        ),
    ]
}

/// What a tool answers: its stdout, or nothing where it is missing, fails or
/// hangs.
async fn ask(program: &str, args: &[&str]) -> Option<String> {
    let mut command = tool::command(program, Path::new("."));
    command.args(args);
    let output: Result<_, ToolError> = tokio::time::timeout(PATIENCE, tool::output(command))
        .await
        .ok()?;
    let output = output.ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn rust(targets: Option<String>) -> Finding {
    const WHAT: &str = "rust guests";
    match targets {
        Some(targets) if targets.lines().any(|target| target == "wasm32-wasip2") => {
            Finding::ok(WHAT, "rustup with wasm32-wasip2")
        }
        Some(_) => Finding::lacking(
            WHAT,
            "rustup without wasm32-wasip2",
            "the first `skep build` of a Rust project adds the target, for which it needs a network",
        ),
        None => Finding::lacking(
            WHAT,
            "no working rustup",
            "Rust projects build only if this Rust has wasm32-wasip2 by other means",
        ),
    }
}

fn javascript(npm: Option<String>) -> Finding {
    const WHAT: &str = "javascript guests";
    npm.map_or_else(
        || Finding::lacking(WHAT, "no npm", "JavaScript projects cannot be built here"),
        |version| Finding::ok(WHAT, format!("npm {version}")),
    )
}

fn python(componentize: Option<String>, pip: Option<String>) -> Finding {
    const WHAT: &str = "python guests";
    match (componentize, pip) {
        (Some(version), _) => Finding::ok(WHAT, version),
        (None, Some(_)) => Finding::ok(WHAT, "pip, which can install componentize-py"),
        (None, None) => Finding::lacking(
            WHAT,
            "no componentize-py and no pip",
            "Python projects cannot be built here",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict::{Lacking, Ok};
    use super::*;

    #[test]
    fn a_missing_tool_lacks_and_never_more() {
        assert_eq!(
            rust(Some("wasm32-wasip2\nx86_64-unknown-linux-gnu".into())).verdict,
            Ok
        );
        assert_eq!(rust(Some("wasm32-wasip1".into())).verdict, Lacking);
        assert_eq!(rust(None).verdict, Lacking);
        assert_eq!(javascript(Some("11.0.0".into())).found, "npm 11.0.0");
        assert_eq!(javascript(None).verdict, Lacking);
        assert_eq!(
            python(Some("componentize-py 0.25".into()), None).verdict,
            Ok
        );
        assert_eq!(python(None, None).verdict, Lacking);
    }

    #[test]
    fn no_tool_is_no_answer() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let ask = |program: &'static str, args: &'static [&'static str]| {
            runtime.block_on(ask(program, args))
        };
        assert_eq!(ask("no-such-tool-anywhere", &[]), None);
        assert_eq!(ask("false", &[]), None);
        assert_eq!(ask("echo", &["a", "b"]), Some("a b".into()));
    }
}
