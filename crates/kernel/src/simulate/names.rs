//! Names that may have been meant.

use crate::limits;

/// The known names nearest to `unknown`, the nearest first: as many letters may be other, missing
/// or too many as a third of it has.
pub(super) fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let most = unknown.chars().count() / 3 + 1;
    let mut near: Vec<(usize, &str)> = known
        .map(|name| (distance(unknown, name), name))
        .filter(|(distance, _)| *distance <= most)
        .collect();
    near.sort_unstable();
    near.into_iter().take(limits::ALTERNATIVES_MAX).map(|(_, name)| name.to_owned()).collect()
}

/// Letters to change, to add or to leave out that make `b` of `a` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (deleted, from) in a.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        let mut left = deleted + 1;
        next.push(left);
        for (pair, to) in row.windows(2).zip(&b) {
            let [diagonal, above] = pair else { continue };
            left = (diagonal + usize::from(from != *to)).min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("http_cal", "http_call", 1),
            ("httpcall", "http_call", 1),
        ] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
