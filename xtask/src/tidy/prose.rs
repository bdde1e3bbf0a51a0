//! Markdown: how long the short documents may be, and links that lead somewhere.

use std::path::Path;

use super::{Finding, Text};

const ARCHITECTURE_LINES_MAX: usize = 300;
const RECIPE_LINES_MAX: usize = 65;

pub(super) fn check(text: &Text, root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines = text.body.lines().count();
    if let Some(max) = lines_max(&text.path).filter(|max| lines > *max) {
        findings.push(Finding::file(&text.path, format!("{lines} lines, at most {max}")));
    }
    let folder = text.path.parent().unwrap_or(Path::new(""));
    for (line, target) in links(&text.body) {
        let file = target.split('#').next().unwrap_or_default();
        if is_relative(file) && !root.join(folder).join(file).exists() {
            findings.push(Finding::line(&text.path, line, format!("`{target}` leads nowhere")));
        }
    }
    findings
}

fn lines_max(path: &Path) -> Option<usize> {
    if path == Path::new("ARCHITECTURE.md") {
        Some(ARCHITECTURE_LINES_MAX)
    } else {
        path.starts_with("docs/recipes").then_some(RECIPE_LINES_MAX)
    }
}

fn is_relative(target: &str) -> bool {
    !target.is_empty() && !target.contains("://") && !target.starts_with("mailto:")
}

/// The targets of inline links with their lines, outside of code.
fn links(body: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let mut in_fence = false;
    for (line, content) in (1..).zip(body.lines()) {
        if content.trim_start().starts_with("```") {
            in_fence = !in_fence;
        }
        if in_fence {
            continue;
        }
        // Every second part stands between backticks.
        for prose in content.split('`').step_by(2) {
            let targets = prose.split("](").skip(1);
            found.extend(targets.filter_map(|rest| Some((line, rest.split_once(')')?.0))));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::Text;
    use super::check;
    use crate::repo;

    fn count(path: &str, body: &str) -> usize {
        check(&Text { path: PathBuf::from(path), body: body.to_owned() }, &repo::root()).len()
    }

    #[test]
    fn links_lead_somewhere() {
        assert_eq!(count("a.md", "[x](Cargo.toml) [y](Cargo.toml#top) [z](#here)"), 0);
        assert_eq!(count("xtask/a.md", "[x](../Cargo.toml) and [y](https://example.org/)"), 0);
        assert_eq!(count("a.md", "[x](no-such-file) [y](../no-such-folder/)"), 2);
        assert_eq!(count("a.md", "`[x](no-such-file)`\n```\n[x](no-such-file)\n```\n"), 0);
        // A link text in backticks is still a link.
        assert_eq!(count("a.md", "[`x`](no-such-file)"), 1);
    }

    #[test]
    fn short_documents_stay_short() {
        assert_eq!(count("docs/recipes/a.md", &"x\n".repeat(65)), 0);
        assert_eq!(count("docs/recipes/a.md", &"x\n".repeat(66)), 1);
        assert_eq!(count("ARCHITECTURE.md", &"x\n".repeat(301)), 1);
    }
}
