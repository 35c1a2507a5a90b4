//! Guests in other languages, built by their own tools and served as they are.

use skep_tests::{Skep, foreign_guest};

/// In CI what is missing is a failure: nobody reads "skipped" there.
#[expect(clippy::print_stdout, reason = "skipping must not go unseen")]
fn built(name: &str) -> Option<std::path::PathBuf> {
    match foreign_guest(name) {
        Ok(path) => Some(path),
        Err(skipped) => {
            assert!(
                std::env::var_os("CI").is_none_or(|value| value.is_empty() || value == "false"),
                "CI has all tools: {skipped}"
            );
            println!("{skipped}");
            None
        }
    }
}

fn answers(name: &str, hello: &str) {
    let Some(component) = built(name) else { return };
    let skep = Skep::component(&component, 1);
    let mut client = skep.client();
    for _ in 0..3 {
        let response = client.get("/").unwrap();
        assert_eq!((response.status(), response.text().as_str()), (200, hello));
    }
    let body = "Grüße ".repeat(2000);
    assert_eq!(client.post("/echo", body.as_bytes()).unwrap().text(), body);
    assert_eq!(skep.pool("default").restarts, 0);
}

#[test]
fn javascript_on_starlingmonkey() {
    answers("js-hello", "Hello from JavaScript!\n");
}

#[test]
fn javascript_on_quickjs() {
    answers("js-quickjs-hello", "Hello from JavaScript!\n");
}

#[test]
fn python() {
    answers("python-hello", "Hello from Python!\n");
}
