//! The only place that prints. Data goes to stdout, everything else to
//! stderr, one `skep: ` line each. Colour never carries meaning, and what
//! others said (a guest, through the primary) controls no terminal.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _, Write as _};
use std::ops::ControlFlow;
use std::os::fd::AsFd as _;

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
    /// Decides for one stream. `no_color` and `term` are the variables
    /// `NO_COLOR` and `TERM`.
    fn resolve(self, is_terminal: bool, no_color: Option<&str>, term: Option<&str>) -> bool {
        match self {
            Self::Always => true,
            Self::Never => false,
            Self::Auto => is_terminal && no_color.is_none_or(str::is_empty) && term != Some("dumb"),
        }
    }
}

/// Columns of text where nobody says how many there are.
pub(crate) const USUAL_WIDTH: usize = 80;

/// The columns of a line: those of `COLUMNS`, if that is set, or of the terminal, or as
/// many as a terminal usually has.
fn columns(variable: Option<&str>, terminal: Option<u16>) -> usize {
    let wanted = variable.and_then(|text| text.trim().parse().ok());
    let columns = wanted.filter(|columns| *columns > 0);
    columns
        .or_else(|| terminal.map(usize::from))
        .unwrap_or(USUAL_WIDTH)
}

/// Prints.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    /// Whether to colour stderr.
    color: bool,
    /// Whether to colour stdout, and whether people read it.
    data: DataStyle,
    /// Columns of stdout.
    columns: usize,
    /// Whether somebody watches stderr.
    is_watched: bool,
}

/// Who reads stdout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DataStyle {
    /// A program, or a file.
    Raw,
    /// Somebody at a terminal.
    Plain,
    /// The same, in colour.
    Colored,
}

impl Printer {
    /// A printer for this process's own terminal.
    pub(crate) fn new(choice: ColorChoice) -> Self {
        let no_color =
            std::env::var_os("NO_COLOR").map(|value| value.to_string_lossy().into_owned());
        let term = std::env::var("TERM").ok();
        let resolve =
            |is_terminal| choice.resolve(is_terminal, no_color.as_deref(), term.as_deref());
        Self {
            color: resolve(io::stderr().is_terminal()),
            data: match io::stdout().is_terminal() {
                false => DataStyle::Raw,
                true if resolve(true) => DataStyle::Colored,
                true => DataStyle::Plain,
            },
            columns: columns(
                std::env::var("COLUMNS").ok().as_deref(),
                skep_sys::columns_of(io::stdout().as_fd()),
            ),
            is_watched: io::stderr().is_terminal() && term.as_deref() != Some("dumb"),
        }
    }

    /// How many columns a line of data may have.
    pub(crate) const fn columns(self) -> usize {
        self.columns
    }

    /// Whether stderr is a terminal on which a line can be written over.
    pub(crate) const fn is_watched(self) -> bool {
        self.is_watched
    }

    /// Who reads stdout.
    pub(crate) const fn data_style(self) -> DataStyle {
        self.data
    }

    /// Whether to colour what is rendered elsewhere for stderr.
    pub(crate) const fn color(self) -> bool {
        self.color
    }

    /// Writes what was asked for to stdout. A reader that has gone away, such
    /// as `head`, is no failure.
    pub(crate) fn data(self, text: &str) -> Result<(), Failure> {
        self.stream(text).map(drop)
    }

    /// The same for text that goes on; breaks when the reader has gone away.
    #[expect(
        clippy::unused_self,
        reason = "printing is what a printer is asked for"
    )]
    pub(crate) fn stream(self, text: &str) -> Result<ControlFlow<()>, Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(ControlFlow::Continue(())),
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
            Err(error) => Err(Failure::from(
                anyhow::Error::new(error).context("cannot write to stdout"),
            )),
        }
    }

    /// A line about what goes on.
    pub(crate) fn note(self, text: &str) {
        self.stderr(&format!("skep: {}\n", harmless(text.trim_end())));
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
                let mut text = format!("skep: {label}: {}\n", harmless(message.trim_end()));
                if let Some(hint) = hint {
                    let label = self.paint("1;36", "hint");
                    text.push_str(&format!("  {label}: {}\n", harmless(hint)));
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

/// Text of any origin without what a terminal would obey. Ends of lines stay.
fn harmless(text: &str) -> Cow<'_, str> {
    escape(text, |c| c.is_control() && c != '\n')
}

/// Text of any origin on one line, without what a terminal would obey.
pub(crate) fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, char::is_control)
}

fn escape(text: &str, obeyed: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&obeyed) {
        return text.into();
    }
    let mut escaped = String::new();
    for c in text.chars() {
        if obeyed(c) {
            escaped.extend(c.escape_default());
        } else {
            escaped.push(c);
        }
    }
    escaped.into()
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

    const PLAIN: Printer = Printer {
        color: false,
        data: DataStyle::Raw,
        columns: USUAL_WIDTH,
        is_watched: false,
    };
    const PAINTED: Printer = Printer {
        color: true,
        data: DataStyle::Raw,
        columns: USUAL_WIDTH,
        is_watched: false,
    };

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
    fn the_variable_says_how_wide_a_line_may_be_then_the_terminal() {
        assert_eq!(columns(Some("120"), Some(100)), 120);
        assert_eq!(columns(None, Some(100)), 100);
        for no_number in ["", "0", "wide", "-1"] {
            assert_eq!(columns(Some(no_number), Some(100)), 100);
        }
        assert_eq!(columns(None, None), 80);
    }

    #[test]
    fn failures_read_alike_with_and_without_colour() {
        let failure = Failure::new(Exit::NoPrimary, "no primary at '/x'").hint("start one");
        let plain = PLAIN.render(&failure);
        assert_eq!(
            plain,
            "skep: error: no primary at '/x'\n  hint: start one\n"
        );
        let painted = PAINTED.render(&failure);
        assert_eq!(
            painted,
            "skep: \x1b[1;31merror\x1b[0m: no primary at '/x'\n  \x1b[1;36mhint\x1b[0m: start one\n"
        );
        assert_eq!(
            PLAIN.render(&Failure::report(Exit::Configuration, "a\n\n".into())),
            "a\n"
        );
        assert_eq!(PLAIN.render(&Failure::said(Exit::Failed)), "");
    }

    #[test]
    fn words_of_others_control_no_terminal() {
        let failure = Failure::new(Exit::Failed, "rejected: \x1b]0;title\x07\n  at line 1\n");
        assert_eq!(
            PLAIN.render(&failure),
            "skep: error: rejected: \\u{1b}]0;title\\u{7}\n  at line 1\n"
        );
        assert_eq!(one_line("a\nb\u{9b}m"), "a\\nb\\u{9b}m");
        assert_eq!(one_line("ä b"), "ä b");
    }
}
