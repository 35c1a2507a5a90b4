//! Tables and numbers for people.

use std::borrow::Cow;
use std::time::Duration;

use crate::print::one_line;

/// Stands in a cell that has nothing to say.
pub(crate) const NOTHING: &str = "-";

/// How a column is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// What is left of a column at least, while there are others that may go: the longest
/// reason of an exit, and some more.
const LEAST_CUT: usize = 18;

/// Between two columns.
const GAP: usize = 2;

/// A table under construction.
///
/// A table that is wider than there is room for loses, in this order: columns that may go
/// ([`Self::dropping`]) and have nothing to say; those that may go, one after the other;
/// the ends of cells in columns that may be cut ([`Self::cutting`]); the ends of any
/// words. A line is never longer than there is room.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    columns: [Column; N],
    dropping: Vec<&'static str>,
    rows: Vec<[String; N]>,
}

#[derive(Clone, Copy, Debug)]
struct Column {
    title: &'static str,
    align: Align,
    /// Whether its cells may be cut before columns go.
    is_cut: bool,
}

impl<const N: usize> Table<N> {
    /// A table with this head.
    pub(crate) fn new(head: [(&'static str, Align); N]) -> Self {
        Self {
            columns: head.map(|(title, align)| Column {
                title,
                align,
                is_cut: false,
            }),
            dropping: Vec::new(),
            rows: vec![head.map(|(title, _)| title.to_owned())],
        }
    }

    /// Columns that may be left out where there is no room, the first ones first.
    pub(crate) fn dropping(mut self, titles: &[&'static str]) -> Self {
        debug_assert!(titles.iter().all(|title| self.has(title)), "{titles:?}");
        self.dropping = titles.to_vec();
        self
    }

    /// Columns whose cells may be cut before a column is left out.
    pub(crate) fn cutting(mut self, titles: &[&'static str]) -> Self {
        debug_assert!(titles.iter().all(|title| self.has(title)), "{titles:?}");
        for column in &mut self.columns {
            column.is_cut |= titles.contains(&column.title);
        }
        self
    }

    fn has(&self, title: &str) -> bool {
        self.columns.iter().any(|column| column.title == title)
    }

    /// Adds a row. A cell is one line, whoever wrote what is in it.
    pub(crate) fn row(&mut self, cells: [String; N]) {
        self.rows
            .push(cells.map(|cell| one_line(&cell).into_owned()));
    }

    /// The table as lines of at most `room` characters, two spaces between columns and
    /// none at the ends.
    pub(crate) fn render(&self, room: usize) -> String {
        let widths = self.fit(room);
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for ((cell, column), width) in row.iter().zip(&self.columns).zip(widths) {
                let Some(width) = width else { continue };
                if !line.is_empty() {
                    line.push_str("  ");
                }
                let cell = cut(cell, width);
                match column.align {
                    Align::Left => line.push_str(&format!("{cell:<width$}")),
                    Align::Right => line.push_str(&format!("{cell:>width$}")),
                }
            }
            text.push_str(&cut(line.trim_end(), room));
            text.push('\n');
        }
        text
    }

    /// The width of each column that is shown.
    fn fit(&self, room: usize) -> [Option<usize>; N] {
        let mut widths: [Option<usize>; N] = std::array::from_fn(|index| {
            let cells = self.rows.iter().map(|row| row[index].chars().count());
            cells.max()
        });
        let least = |column: &Column, width: usize| {
            if column.is_cut {
                width.min(LEAST_CUT)
            } else {
                width
            }
        };
        let needed = |widths: &[Option<usize>; N]| {
            let shown = widths.iter().zip(&self.columns);
            total(shown.filter_map(|(width, column)| Some(least(column, (*width)?))))
        };
        let index_of = |title| self.columns.iter().position(|column| column.title == title);
        let may_go: Vec<_> = self.dropping.iter().copied().filter_map(index_of).collect();
        for &index in may_go.iter().filter(|index| self.is_silent(**index)) {
            if total(widths.iter().flatten().copied()) > room {
                widths[index] = None;
            }
        }
        for index in may_go {
            if needed(&widths) > room {
                widths[index] = None;
            }
        }
        // What may be cut goes first, then any words, the widest first.
        for (floor, cuts_all) in [(LEAST_CUT, false), (1, true)] {
            while total(widths.iter().flatten().copied()) > room {
                let may = widths.iter_mut().zip(&self.columns);
                let may = may.filter(|(_, column)| {
                    column.is_cut || (cuts_all && column.align == Align::Left)
                });
                let may = may.filter_map(|(width, _)| width.as_mut());
                let widest = may
                    .filter(|width| **width > floor)
                    .max_by_key(|width| **width);
                let Some(width) = widest else { break };
                *width -= 1;
            }
        }
        widths
    }

    /// Whether a column says nothing of any row.
    fn is_silent(&self, index: usize) -> bool {
        let mut cells = self.rows.iter().skip(1).map(|row| row[index].as_str());
        cells.all(|cell| cell == NOTHING || cell.is_empty())
    }
}

/// What columns of these widths take.
fn total(widths: impl Iterator<Item = usize>) -> usize {
    widths
        .map(|width| width + GAP)
        .sum::<usize>()
        .saturating_sub(GAP)
}

/// A text of at most `room` characters: cut, with `…` in the place of what is missing.
/// Of a path the end is kept, which tells more.
pub(crate) fn cut(text: &str, room: usize) -> Cow<'_, str> {
    let length = text.chars().count();
    if length <= room {
        return text.into();
    }
    let kept = room.saturating_sub(1);
    let is_path = text.starts_with('/') && !text.contains(' ');
    if is_path {
        let end: String = text.chars().skip(length - kept).collect();
        return format!("…{end}").into();
    }
    let start: String = text.chars().take(kept).collect();
    format!("{}…", start.trim_end()).into()
}

/// Parts of a line, `separator` between them, on as many lines as it takes; those after
/// the first begin with `indent` spaces. A part that is longer than a line is cut.
pub(crate) fn folded(parts: &[String], separator: &str, indent: usize, room: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    let mut line = String::new();
    for (index, part) in parts.iter().enumerate() {
        let is_last = index + 1 == parts.len();
        let part = one_line(part);
        let part = if is_last {
            part.into_owned()
        } else {
            format!("{part}{}", separator.trim_end())
        };
        let length = line.chars().count() + 1 + part.chars().count();
        if !line.is_empty() && length > room {
            lines.push(std::mem::take(&mut line));
        }
        if line.is_empty() {
            let before = if lines.is_empty() { 0 } else { indent };
            line = " ".repeat(before);
        } else {
            line.push(' ');
        }
        line.push_str(&part);
    }
    lines.push(line);
    let lines: Vec<_> = lines.iter().map(|line| cut(line, room)).collect();
    lines.join("\n")
}

/// The two largest units of a duration: `45s`, `3m 20s`, `2h 5m`, `4d 1h`.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = Duration::try_from_secs_f64(seconds.max(0.0))
        .unwrap_or_default()
        .as_secs();
    let (days, hours) = (whole / 86_400, whole / 3600 % 24);
    let (minutes, seconds) = (whole / 60 % 60, whole % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {seconds}s"),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

/// Bytes in the largest binary unit that leaves a number of at least one.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let power = ((count.ilog2() / 10) as usize).min(UNITS.len());
    // Tenths, in integers: exact, and no rounding up to 1024.0.
    let tenths = (u128::from(count) * 10) >> (10 * power);
    let unit = UNITS[power - 1];
    if tenths < 100 {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    } else {
        format!("{} {unit}", tenths / 10)
    }
}

/// Milliseconds with as many digits as matter.
pub(crate) fn milliseconds(ms: f64) -> String {
    if ms < 10.0 {
        format!("{ms:.1}ms")
    } else if ms < 10_000.0 {
        format!("{ms:.0}ms")
    } else {
        format!("{:.0}s", ms / 1000.0)
    }
}

/// Names in one cell.
pub(crate) fn joined(names: &[impl ToString]) -> String {
    let names: Vec<_> = names.iter().map(ToString::to_string).collect();
    names.join(", ")
}

/// `1 app`, `2 apps`.
pub(crate) fn count(number: usize, noun: &str) -> String {
    let plural = if number == 1 { "" } else { "s" };
    format!("{number} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new([
            ("NAME", Align::Left),
            ("N", Align::Right),
            ("X", Align::Left),
        ]);
        table.row(["a".into(), "12345".into(), "y".into()]);
        table.row(["längere".into(), "1".into(), String::new()]);
        assert_eq!(
            table.render(crate::print::USUAL_WIDTH),
            "NAME         N  X\n\
             a        12345  y\n\
             längere      1\n"
        );
    }

    fn wide() -> Table<5> {
        let mut table = Table::new([
            ("APP", Align::Left),
            ("ROLLING", Align::Left),
            ("PID", Align::Right),
            ("GEN", Align::Right),
            ("SOURCE", Align::Left),
        ])
        .dropping(&["GEN", "PID", "ROLLING"])
        .cutting(&["SOURCE"]);
        for (app, source) in [
            ("hello", "/srv/apps/hello/release/hello.wasm"),
            ("a", "b.wasm"),
        ] {
            let cells = [app, NOTHING, "12345", "2", source];
            table.row(cells.map(str::to_owned));
        }
        table
    }

    #[test]
    fn a_table_says_as_much_as_there_is_room_for() {
        for (room, expected) in [
            (
                80,
                "APP    ROLLING    PID  GEN  SOURCE\n\
                 hello  -        12345    2  /srv/apps/hello/release/hello.wasm\n\
                 a      -        12345    2  b.wasm\n",
            ),
            (
                50,
                "APP      PID  GEN  SOURCE\n\
                 hello  12345    2  …/apps/hello/release/hello.wasm\n\
                 a      12345    2  b.wasm\n",
            ),
            (
                35,
                "APP      PID  SOURCE\n\
                 hello  12345  …o/release/hello.wasm\n\
                 a      12345  b.wasm\n",
            ),
            (
                30,
                "APP    SOURCE\n\
                 hello  …llo/release/hello.wasm\n\
                 a      b.wasm\n",
            ),
            (
                20,
                "APP    SOURCE\n\
                 hello  …e/hello.wasm\n\
                 a      b.wasm\n",
            ),
            (
                12,
                "APP    SOUR…\n\
                 hello  ….wasm\n\
                 a      b.wa…\n",
            ),
        ] {
            let text = wide().render(room);
            let widest = text.lines().map(|line| line.chars().count()).max();
            assert!(widest <= Some(room), "{room}:\n{text}");
            if room > 12 {
                assert_eq!(text, expected, "{room}:\n{text}");
            }
        }
    }

    #[test]
    fn no_line_is_longer_than_there_is_room() {
        for room in 1..120 {
            for line in wide().render(room).lines() {
                assert!(line.chars().count() <= room, "{room}: {line}");
            }
        }
    }

    #[test]
    fn what_is_cut_says_so_and_keeps_the_end_of_a_path() {
        assert_eq!(cut("hello", 5), "hello");
        assert_eq!(cut("hello world", 7), "hello…");
        assert_eq!(cut("/srv/hello.wasm", 11), "…hello.wasm");
        assert_eq!(cut("ääää", 3), "ää…");
        assert_eq!(cut("x", 0), "…");
    }

    #[test]
    fn a_long_line_is_folded_between_its_parts() {
        let parts = ["  one two", "three", "four"].map(str::to_owned);
        assert_eq!(folded(&parts, ", ", 4, 80), "  one two, three, four");
        assert_eq!(folded(&parts, ", ", 4, 17), "  one two, three,\n    four");
        assert_eq!(
            folded(&parts, ", ", 4, 10),
            "  one two,\n    three,\n    four"
        );
    }

    #[test]
    fn numbers_are_short() {
        for (seconds, text) in [
            (0.4, "0s"),
            (59.9, "59s"),
            (61.0, "1m 1s"),
            (7260.0, "2h 1m"),
            (90_000.0, "1d 1h"),
            (-1.0, "0s"),
            (f64::NAN, "0s"),
        ] {
            assert_eq!(duration(seconds), text);
        }
        for (count, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1_048_575, "1023 KiB"),
            (13_000_000, "12 MiB"),
            (1_610_612_736, "1.5 GiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        for (ms, text) in [(0.128, "0.1ms"), (24.6, "25ms"), (30_000.0, "30s")] {
            assert_eq!(milliseconds(ms), text);
        }
        assert_eq!(count(1, "app"), "1 app");
        assert_eq!(count(0, "app"), "0 apps");
    }
}
