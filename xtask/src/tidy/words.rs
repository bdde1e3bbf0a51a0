//! Words and paths that no file of ours may hold.

use super::{Finding, Text};

/// Marks of unfinished work. In two halves, so that this file passes its own rule.
const UNFINISHED: [(&str, &str); 4] =
    [("FIX", "ME"), ("XX", "X"), ("todo", "!"), ("unimplemented", "!")];

/// Folders of a machine, where an absolute path would tie the project to it.
const MACHINE: [(&str, &str); 3] = [("/wo", "rk/"), ("/ro", "ot/"), ("/ho", "me/")];

pub(super) fn check(text: &Text) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (line, content) in (1..).zip(text.body.lines()) {
        for (start, end) in UNFINISHED {
            let word = format!("{start}{end}");
            if holds_word(content, &word) {
                let message = format!("`{word}` marks unfinished work: finish it");
                findings.push(Finding::line(&text.path, line, message));
            }
        }
        for (start, end) in MACHINE {
            let path = format!("{start}{end}");
            if holds_path(content, &path) {
                let message = format!("`{path}` is a path of one machine: make it relative");
                findings.push(Finding::line(&text.path, line, message));
            }
        }
    }
    findings
}

fn holds_word(content: &str, word: &str) -> bool {
    content.match_indices(word).any(|(at, _)| {
        let (before, from) = content.split_at(at);
        let after = from.strip_prefix(word).unwrap_or_default();
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let ends = word.ends_with('!') || !after.starts_with(is_word);
        !before.ends_with(is_word) && ends
    })
}

/// Whether an absolute path begins with `path`: `crates/home/x` and `https://a/home/` do not.
fn holds_path(content: &str, path: &str) -> bool {
    content.match_indices(path).any(|(at, _)| {
        let (before, _) = content.split_at(at);
        !before.ends_with(|c: char| c.is_alphanumeric() || "_-./~}".contains(c))
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::Text;
    use super::check;

    fn count(body: &str) -> usize {
        check(&Text { path: PathBuf::from("a.md"), body: body.to_owned() }).len()
    }

    #[test]
    fn finds_words_and_paths() {
        assert_eq!(count(&["FIX", "ME: later"].concat()), 1);
        assert_eq!(count(&["tod", "o!(); unimplem", "ented!()"].concat()), 2);
        assert_eq!(count("XXXX and methodo! and PREFIXED"), 0);
        assert_eq!(count(&["cd /ho", "me/a"].concat()), 1);
        assert_eq!(count(&["\"/ro", "ot/.x\""].concat()), 1);
        assert_eq!(count(&["https://a.b/ho", "me/c crates/wo", "rk/x"].concat()), 0);
    }
}
