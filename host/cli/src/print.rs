//! The only place that prints. Data goes to stdout, everything else to
//! stderr, one `skep: ` line each. Colour never carries meaning.

use std::io::{self, IsTerminal as _, Write as _};

use crate::exit::{Failure, Words};

/// Where a bug should be reported.
const ISSUES: &str = concat!(env!("CARGO_PKG_REPOSITORY"), "/issues");

/// When to colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set.
    #[default]
    Auto,
    /// Always.
    Always,
    /// Never.
    Never,
}

impl ColorChoice {
    /// Decides for stderr, where all coloured text goes. `no_color` and `term`
    /// are the variables `NO_COLOR` and `TERM`.
    fn resolve(self, is_terminal: bool, no_color: Option<&str>, term: Option<&str>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => is_terminal && no_color.is_none_or(str::is_empty) && term != Some("dumb"),
        }
    }
}

/// Prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    color: bool,
}

impl Printer {
    /// A printer for this process's own terminal.
    pub(crate) fn new(choice: ColorChoice) -> Self {
        let no_color =
            std::env::var_os("NO_COLOR").map(|value| value.to_string_lossy().into_owned());
        let term = std::env::var("TERM").ok();
        Self {
            color: choice.resolve(
                io::stderr().is_terminal(),
                no_color.as_deref(),
                term.as_deref(),
            ),
        }
    }

    /// Whether to colour what is rendered elsewhere for stderr.
    pub(crate) const fn color(self) -> bool {
        self.color
    }

    /// Writes what was asked for to stdout. A reader that has gone away, such
    /// as `head`, is no failure.
    #[expect(
        clippy::unused_self,
        reason = "printing is what a printer is asked for"
    )]
    pub(crate) fn data(self, text: &str) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Failure::from(
                anyhow::Error::new(error).context("cannot write to stdout"),
            )),
            _ => Ok(()),
        }
    }

    /// A line about what goes on.
    pub(crate) fn note(self, text: &str) {
        self.stderr(&format!("skep: {text}\n"));
    }

    /// Why the command failed.
    pub(crate) fn failure(self, failure: &Failure) {
        self.stderr(&self.render(failure));
    }

    /// Text for stderr that is laid out already, such as clap's.
    #[expect(
        clippy::unused_self,
        reason = "printing is what a printer is asked for"
    )]
    pub(crate) fn stderr(self, text: &str) {
        // Nowhere is left to say that stderr is gone.
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    fn render(self, failure: &Failure) -> String {
        match failure.words() {
            Words::Message { message, hint } => {
                let label = self.paint("1;31", "error");
                let mut text = format!("skep: {label}: {message}\n");
                if let Some(hint) = hint {
                    let label = self.paint("1;36", "hint");
                    text.push_str(&format!("  {label}: {hint}\n"));
                }
                text
            }
            Words::Report(report) => {
                let mut text = report.trim_end().to_owned();
                text.push('\n');
                text
            }
            Words::Said => String::new(),
        }
    }

    fn paint(self, style: &str, text: &str) -> String {
        if self.color {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// What a panic says: it is our bug, and where to send it.
pub(crate) fn panicked(panic: &std::panic::PanicHookInfo<'_>) {
    let words = panic.payload_as_str().unwrap_or("no message");
    let place = panic
        .location()
        .map(|place| format!(" at {place}"))
        .unwrap_or_default();
    let text = format!(
        "skep: bug: {words}{place}\n  \
         this should not happen; please report it, with what you did, at {ISSUES}\n  \
         (skep {}, {} {})\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::OS,
        std::env::consts::ARCH,
    );
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exit::Exit;

    #[test]
    fn colour_follows_the_terminal_and_the_users_wish() {
        use ColorChoice::{Always, Auto, Never};
        assert!(Auto.resolve(true, None, Some("xterm")));
        assert!(Auto.resolve(true, Some(""), None));
        assert!(!Auto.resolve(true, Some("1"), None));
        assert!(!Auto.resolve(true, None, Some("dumb")));
        assert!(!Auto.resolve(false, None, None));
        assert!(Always.resolve(false, Some("1"), Some("dumb")));
        assert!(!Never.resolve(true, None, None));
    }

    #[test]
    fn failures_read_alike_with_and_without_colour() {
        let failure = Failure::new(Exit::NoPrimary, "no primary at '/x'").hint("start one");
        let plain = Printer { color: false }.render(&failure);
        assert_eq!(
            plain,
            "skep: error: no primary at '/x'\n  hint: start one\n"
        );
        let painted = Printer { color: true }.render(&failure);
        assert_eq!(
            painted,
            "skep: \x1b[1;31merror\x1b[0m: no primary at '/x'\n  \x1b[1;36mhint\x1b[0m: start one\n"
        );
        assert_eq!(
            Printer { color: false }.render(&Failure::report(Exit::Configuration, "a\n\n".into())),
            "a\n"
        );
        assert_eq!(
            Printer { color: false }.render(&Failure::said(Exit::Failed)),
            ""
        );
    }
}
