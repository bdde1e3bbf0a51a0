//! The quick licence check: every package's licence expression against `deny.toml`.
//!
//! cargo-deny reads the licence texts too, but takes minutes to build; this takes a second.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::repo;

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
}

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

/// Fails when a package's licence is not permitted, or not said.
pub(crate) fn check() -> Result<()> {
    let deny = fs::read_to_string(repo::root().join("deny.toml")).context("deny.toml")?;
    let deny: Deny = toml::from_str(&deny).context("deny.toml")?;
    let metadata = repo::output(repo::cargo().args(["metadata", "--format-version", "1"]))?;
    let metadata: Metadata = serde_json::from_str(&metadata)?;
    let mut refused = Vec::new();
    for package in &metadata.packages {
        let expression = package.license.as_deref().unwrap_or_default();
        if !permits(expression, &deny.licenses.allow) {
            refused.push(format!("{} {}: `{expression}`", package.name, package.version));
        }
    }
    if !refused.is_empty() {
        bail!("licences that deny.toml does not allow:\n{}", refused.join("\n"));
    }
    println!("licences of {} packages: all allowed", metadata.packages.len());
    Ok(())
}

/// Whether an SPDX expression can be met with the allowed licences; false if it is not one.
fn permits(expression: &str, allowed: &BTreeSet<String>) -> bool {
    // Older crates write `MIT/Apache-2.0` where they mean OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let mut parser = Parser { tokens: spaced.split_whitespace().peekable(), allowed };
    let met = parser.alternatives();
    met == Some(true) && parser.tokens.next().is_none()
}

struct Parser<'a, I: Iterator<Item = &'a str>> {
    tokens: std::iter::Peekable<I>,
    allowed: &'a BTreeSet<String>,
}

impl<'a, I: Iterator<Item = &'a str>> Parser<'a, I> {
    fn alternatives(&mut self) -> Option<bool> {
        let mut met = self.conjunction()?;
        while self.tokens.next_if_eq(&"OR").is_some() {
            met |= self.conjunction()?;
        }
        Some(met)
    }

    fn conjunction(&mut self) -> Option<bool> {
        let mut met = self.licence()?;
        while self.tokens.next_if_eq(&"AND").is_some() {
            met &= self.licence()?;
        }
        Some(met)
    }

    fn licence(&mut self) -> Option<bool> {
        let name = self.tokens.next()?;
        if name == "(" {
            let met = self.alternatives()?;
            return self.tokens.next_if_eq(&")").map(|_| met);
        }
        if self.tokens.next_if_eq(&"WITH").is_some() {
            let exception = self.tokens.next()?;
            return Some(self.allowed.contains(&format!("{name} WITH {exception}")));
        }
        Some(self.allowed.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::permits;

    #[test]
    fn evaluates_expressions() {
        let allowed = ["MIT", "ISC", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
        for permitted in [
            "MIT",
            "MIT OR GPL-3.0",
            "GPL-3.0/MIT",
            "(GPL-3.0 OR MIT) AND ISC",
            "Apache-2.0 WITH LLVM-exception",
        ] {
            assert!(permits(permitted, &allowed), "{permitted}");
        }
        for refused in
            ["", "GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "MIT OR", "(MIT", "MIT ISC", "OR"]
        {
            assert!(!permits(refused, &allowed), "{refused}");
        }
    }
}
