//! Tables in Markdown that are also legible as text.

use std::fmt;

/// A table: the first column is text, the others are figures.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with these column heads.
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned).to_vec()],
        }
    }

    /// Adds a row; cells that are left out are empty.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &[String], column: usize| -> String {
            row.get(column)
                .map(|cell| cell.replace('|', "\\|"))
                .unwrap_or_default()
        };
        let width = |column: usize| {
            let cells = self
                .rows
                .iter()
                .map(|row| cell(row, column).chars().count());
            cells.max().unwrap_or(0).max(2)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        for (index, row) in self.rows.iter().enumerate() {
            for (column, width) in widths.iter().copied().enumerate() {
                let cell = cell(row, column);
                match column {
                    0 => write!(f, "| {cell:<width$} ")?,
                    _ => write!(f, "| {cell:>width$} ")?,
                }
            }
            writeln!(f, "|")?;
            if index == 0 {
                for (column, width) in widths.iter().copied().enumerate() {
                    match column {
                        0 => write!(f, "|{:-<1$}", "", width + 2)?,
                        _ => write!(f, "|{:->1$}:", "", width + 1)?,
                    }
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// A count with its thousands apart: `12,345`.
pub(crate) fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A time in microseconds, in the unit that fits.
pub(crate) fn time(microseconds: f64) -> String {
    match microseconds {
        us if us < 1_000.0 => format!("{us:.0} µs"),
        us if us < 1_000_000.0 => format!("{:.2} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

/// Memory in KiB, as MiB.
pub(crate) fn mebibytes(kib: f64) -> String {
    format!("{:.1} MiB", kib / 1024.0)
}

/// What stands for a figure that was not measured.
pub(crate) const NOT_MEASURED: &str = "–";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_bars_are_escaped() {
        let mut table = Table::new(["server", "requests/s"]);
        table.row(["a|b".to_owned(), count(1_234_567.4)]);
        table.row(["short".to_owned()]);
        assert_eq!(
            table.to_string(),
            "| server | requests/s |\n\
             |--------|-----------:|\n\
             | a\\|b   |  1,234,567 |\n\
             | short  |            |\n"
        );
    }

    #[test]
    fn figures_have_units() {
        assert_eq!(count(999.0), "999");
        assert_eq!(count(100_000.0), "100,000");
        assert_eq!(time(412.3), "412 µs");
        assert_eq!(time(1_500.0), "1.50 ms");
        assert_eq!(time(2_000_000.0), "2.00 s");
        assert_eq!(mebibytes(1536.0), "1.5 MiB");
    }
}
