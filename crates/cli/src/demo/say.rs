//! How the demo speaks, and how it insists.

use crate::output::print;

/// A new step of the story.
pub(super) fn step(text: &str) -> anyhow::Result<()> {
    Ok(print(&format!("\n== {text}"))?)
}

/// What happens next within a step.
pub(super) fn then(text: &str) -> anyhow::Result<()> {
    Ok(print(&format!("\n-- {text}"))?)
}

/// A fact, indented.
pub(super) fn say(text: &str) -> anyhow::Result<()> {
    let lines = text.trim_end().lines().map(|line| format!("   {line}"));
    Ok(print(&lines.collect::<Vec<_>>().join("\n"))?)
}

/// Says that something held, or ends the story with what was found instead.
pub(super) fn expect(held: bool, what: &str, found: impl FnOnce() -> String) -> anyhow::Result<()> {
    anyhow::ensure!(held, "expected: {what}; found: {}", found());
    Ok(print(&format!("   ok: {what}"))?)
}
