//! What a benchmark found, as tables and as JSON.

use std::fmt;

use serde::Serialize;

/// What one benchmark found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    name: &'static str,
    machine: Machine,
    tables: Vec<Table>,
    aims: Vec<Aim>,
    notes: Vec<String>,
}

/// Where it was found.
#[derive(Debug, Serialize)]
struct Machine {
    cores: usize,
    /// Runnable threads over the last minute, when the run began: well above zero means that
    /// others were at work.
    load_before: String,
}

/// Figures side by side.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    title: String,
    columns: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

/// One field of a table.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Cell {
    Text(String),
    Count(u64),
    Figure(f64),
}

/// A figure that was aimed at.
#[derive(Debug, Serialize)]
struct Aim {
    what: &'static str,
    reached: f64,
    aim: f64,
    at_most: bool,
    ok: bool,
}

impl Report {
    /// Begins a report; the machine is looked at now.
    pub(crate) fn new(name: &'static str) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load_before = load.split(' ').next().unwrap_or("unknown").to_owned();
        let machine = Machine { cores, load_before };
        Self { name, machine, tables: Vec::new(), aims: Vec::new(), notes: Vec::new() }
    }

    pub(crate) fn table(&mut self, table: Table) {
        self.tables.push(table);
    }

    /// What a reader must know to read the figures.
    pub(crate) fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// A figure that should be `aim` or less.
    pub(crate) fn at_most(&mut self, what: &'static str, reached: f64, aim: f64) {
        self.aims.push(Aim { what, reached, aim, at_most: true, ok: reached <= aim });
    }

    /// A figure that should be `aim` or more.
    pub(crate) fn at_least(&mut self, what: &'static str, reached: f64, aim: f64) {
        self.aims.push(Aim { what, reached, aim, at_most: false, ok: reached >= aim });
    }
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self { title: title.into(), columns: columns.to_vec(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The widest text of each column.
    fn widths(&self) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|name| name.chars().count()).collect();
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = (*width).max(cell.to_string().chars().count());
            }
        }
        widths
    }
}

impl From<&str> for Cell {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<u64> for Cell {
    fn from(count: u64) -> Self {
        Self::Count(count)
    }
}

impl From<f64> for Cell {
    fn from(figure: f64) -> Self {
        Self::Figure(figure)
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Count(count) => write!(f, "{count}"),
            Self::Figure(figure) => f.write_str(&rounded(*figure)),
        }
    }
}

/// About three digits: more are noise.
fn rounded(figure: f64) -> String {
    match figure.abs() {
        size if size >= 100.0 => format!("{figure:.0}"),
        size if size >= 10.0 => format!("{figure:.1}"),
        size if size >= 1.0 => format!("{figure:.2}"),
        _ => format!("{figure:.3}"),
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        let widths = self.widths();
        let header = self.columns.iter().map(ToString::to_string).collect();
        let rows = self.rows.iter().map(|row| row.iter().map(ToString::to_string).collect());
        for line in std::iter::once(header).chain(rows) {
            let line: Vec<String> = line;
            for (at, (width, text)) in widths.iter().zip(line).enumerate() {
                // The first column names the row; the others are figures.
                match at {
                    0 => write!(f, "  {text:<width$}")?,
                    _ => write!(f, "  {text:>width$}")?,
                }
            }
            writeln!(f)?;
        }
        writeln!(f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { cores, load_before } = &self.machine;
        writeln!(f, "{}: {cores} cores, load before the run {load_before}\n", self.name)?;
        for table in &self.tables {
            write!(f, "{table}")?;
        }
        if !self.aims.is_empty() {
            let mut table = Table::new("aims", &["", "reached", "aim", ""]);
            for aim in &self.aims {
                let sign = if aim.at_most { "<=" } else { ">=" };
                let bound = format!("{sign} {}", rounded(aim.aim));
                let verdict = if aim.ok { "ok" } else { "missed" };
                table.row([aim.what.into(), aim.reached.into(), bound.into(), verdict.into()]);
            }
            write!(f, "{table}")?;
        }
        for note in &self.notes {
            writeln!(f, "- {note}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_aim_is_met_on_its_bound_and_missed_beyond_it() {
        let mut report = Report::new("x");
        report.at_most("low", 2.0, 2.0);
        report.at_most("high", 2.1, 2.0);
        report.at_least("enough", 2.0, 2.0);
        report.at_least("short", 1.9, 2.0);
        let ok: Vec<bool> = report.aims.iter().map(|aim| aim.ok).collect();
        assert_eq!(ok, [true, false, true, false]);
        assert_eq!(report.to_string().matches("missed").count(), 2);
    }

    #[test]
    fn columns_line_up() {
        let mut table = Table::new("t", &["", "µs"]);
        table.row(["a".into(), 1234.5.into()]);
        table.row(["long".into(), 0.1234.into()]);
        assert_eq!(table.to_string(), "t\n           µs\n  a      1234\n  long  0.123\n\n");
    }
}
