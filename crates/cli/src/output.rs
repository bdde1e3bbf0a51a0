//! What commands print: one JSON document, or a few aligned lines for people.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use proto::wire::Timestamp;
use serde::Serialize;

/// Micro-USD in a dollar.
const MICRO_USD: u64 = 1_000_000;

/// How to answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
}

impl Output {
    /// Prints what the API answered: as its JSON, or as `human` says it.
    pub(crate) fn show<M: Serialize>(
        self,
        message: &M,
        human: impl FnOnce(&M) -> String,
    ) -> anyhow::Result<()> {
        let text = if self.json { serde_json::to_string(message)? } else { human(message) };
        Ok(print(&text)?)
    }

    /// Prints something besides the answer: where the answer is JSON, to standard error.
    pub(crate) fn note(self, text: &str) -> io::Result<()> {
        if self.json { writeln!(io::stderr().lock(), "{text}") } else { print(text) }
    }
}

/// Prints a line, or several, to standard output.
pub(crate) fn print(text: &str) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{}", text.trim_end())?;
    stdout.flush()
}

/// Names and values, one pair a line; pairs without a value are left out.
pub(crate) fn fields<const N: usize>(pairs: [(&str, String); N]) -> String {
    let pairs = pairs.into_iter().filter(|(_, value)| !value.is_empty());
    let rows = pairs.map(|(name, value)| vec![name.to_owned(), value]);
    table(rows)
}

/// A page of a list: a header, its rows, and how to read on.
pub(crate) fn page<const N: usize>(
    header: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
    next: &str,
) -> String {
    let rows = rows.into_iter().map(|row| row.to_vec());
    let header = header.iter().map(|name| (*name).to_uppercase()).collect();
    let mut text = table(std::iter::once(header).chain(rows));
    if !next.is_empty() {
        let _infallible = writeln!(text, "more: {next}");
    }
    text
}

/// Rows with aligned columns, two spaces apart.
fn table(rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let rows: Vec<_> = rows.into_iter().collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Micro-USD as dollars.
pub(crate) fn usd(micro: i64) -> String {
    let (sign, amount) = (if micro < 0 { "-" } else { "" }, micro.unsigned_abs());
    format!("{sign}${}.{:06}", amount / MICRO_USD, amount % MICRO_USD)
}

/// A time, or a dash.
pub(crate) fn when(time: Option<Timestamp>) -> String {
    time.map_or_else(|| "-".to_owned(), |time| time.to_string())
}

/// `yes` or `no`.
pub(crate) fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

/// JSON text, indented; text that is none is left as it is.
pub(crate) fn pretty(text: &str) -> String {
    let value: Result<serde_json::Value, _> = serde_json::from_str(text);
    let indented = value.and_then(|value| serde_json::to_string_pretty(&value));
    indented.unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_aligned_and_empty_ones_left_out() {
        let text = fields([("a", "1".into()), ("bb", String::new()), ("longer", "2".into())]);
        assert_eq!(text, "a       1\nlonger  2\n");
        let text = page(["id", "state"], [["x".to_owned(), "y".to_owned()]], "--page-token t");
        assert_eq!(text, "ID  STATE\nx   y\nmore: --page-token t\n");
    }

    #[test]
    fn money() {
        for (micro, text) in [
            (0, "$0.000000"),
            (1, "$0.000001"),
            (1_500_000, "$1.500000"),
            (-20, "-$0.000020"),
            (i64::MIN, "-$9223372036854.775808"),
        ] {
            assert_eq!(usd(micro), text);
        }
    }
}
