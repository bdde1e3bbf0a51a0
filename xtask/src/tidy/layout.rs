//! The layers of the workspace, and what each crate's manifest must say.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use toml::{Table, Value};

use super::Finding;

/// A crate may depend on crates of lower rings only.
///
/// `xtask` stands outside: it depends on none of them and none on it.
const RINGS: [&[&str]; 5] = [
    &["kernel"],
    &["testkit"],
    &["ledger", "policy", "sandbox", "connectors", "proto"],
    &["client", "server", "mcpkit"],
    &["tally", "desktop", "wallet", "verifier-wasm", "sim", "bench"],
];

/// The crates whose name is not that of their folder.
const NAMED_OTHERWISE: [(&str, &str); 1] = [("cli", "tally")];

/// The crates that repeat the workspace's lints with unsafe code denied, not forbidden, each with
/// the reason.
const OWN_LINTS: [(&str, &str); 2] = [
    ("verifier-wasm", "exports need a fixed name, whose attribute counts as unsafe"),
    ("sandbox", "compiled code is mapped into memory, in one place"),
];

/// What every manifest inherits from the workspace.
const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];

const DEPENDENCY_TABLES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

struct Manifest {
    /// Relative to the root.
    path: PathBuf,
    table: Table,
}

/// Checks the manifests of the workspace at `root`.
pub(super) fn check(root: &Path) -> Result<Vec<Finding>> {
    let workspace = read(root, Path::new("Cargo.toml"))?;
    let mut members = vec![read(root, Path::new("xtask/Cargo.toml"))?];
    for entry in fs::read_dir(root.join("crates"))? {
        let folder = Path::new("crates").join(entry?.file_name());
        if root.join(&folder).join("Cargo.toml").is_file() {
            members.push(read(root, &folder.join("Cargo.toml"))?);
        }
    }
    let mut findings = unused_dependencies(&workspace, &members);
    for member in &members {
        findings.extend(check_member(member, &own_lints(&workspace)));
    }
    Ok(findings)
}

fn read(root: &Path, path: &Path) -> Result<Manifest> {
    let body = fs::read_to_string(root.join(path))
        .with_context(|| format!("cannot read {}", path.display()))?;
    let table = body.parse().with_context(|| format!("cannot parse {}", path.display()))?;
    Ok(Manifest { path: path.to_path_buf(), table })
}

/// The workspace's lints as [`OWN_LINTS`] have them.
fn own_lints(workspace: &Manifest) -> Value {
    let lints = lookup(&workspace.table, &["workspace", "lints"]).cloned();
    let mut lints = lints.unwrap_or_else(|| Value::Table(Table::new()));
    if let Some(level) = lints.get_mut("rust").and_then(|rust| rust.get_mut("unsafe_code")) {
        *level = Value::String("deny".to_owned());
    }
    lints
}

fn check_member(member: &Manifest, own_lints: &Value) -> Vec<Finding> {
    let mut messages = Vec::new();
    let at = |path: &[&str]| lookup(&member.table, path);
    for key in INHERITED {
        if at(&["package", key, "workspace"]) != Some(&Value::Boolean(true)) {
            messages.push(format!("write `{key}.workspace = true` under [package]"));
        }
    }
    let name = at(&["package", "name"]).and_then(Value::as_str).unwrap_or_default();
    if OWN_LINTS.iter().any(|(own, _reason)| *own == name) {
        if at(&["lints"]) != Some(own_lints) {
            messages.push("repeat the workspace's lints, with unsafe_code = \"deny\"".to_owned());
        }
    } else if at(&["lints", "workspace"]) != Some(&Value::Boolean(true)) {
        messages.push("write `workspace = true` under [lints]".to_owned());
    }
    messages.extend(misnamed(&member.path, name));
    let dependencies = dependencies(&member.table);
    for (dependency, value) in &dependencies {
        let inherits = value.get("workspace") == Some(&Value::Boolean(true));
        if !inherits {
            messages.push(format!("`{dependency}`: write `{dependency}.workspace = true`"));
        }
    }
    let names = dependencies.iter().map(|(dependency, _)| *dependency);
    messages.extend(names.filter_map(|dependency| crossing(name, dependency)));
    if name != "xtask" && ring(name).is_none() {
        messages.push(format!("give `{name}` a ring in xtask/src/tidy/layout.rs"));
    }
    messages.into_iter().map(|message| Finding::file(&member.path, message)).collect()
}

fn misnamed(manifest: &Path, name: &str) -> Option<String> {
    let folder = manifest.parent().and_then(Path::file_name).and_then(|name| name.to_str())?;
    let otherwise = NAMED_OTHERWISE.iter().find(|(of, _)| *of == folder);
    let expected = otherwise.map_or(folder, |(_, name)| *name);
    (name != expected).then(|| format!("the crate of this folder is named `{expected}`"))
}

/// Why `name` may not depend on `dependency`, if it may not.
fn crossing(name: &str, dependency: &str) -> Option<String> {
    if dependency == "xtask" {
        return Some("no crate depends on `xtask`".to_owned());
    }
    let below = ring(dependency)?;
    match ring(name) {
        Some(own) if below < own => None,
        Some(_) => Some(format!("`{dependency}` is not in a ring below `{name}`")),
        None => Some(format!("`{name}` is in no ring and may not use `{dependency}`")),
    }
}

fn ring(name: &str) -> Option<usize> {
    RINGS.iter().position(|members| members.contains(&name))
}

fn unused_dependencies(workspace: &Manifest, members: &[Manifest]) -> Vec<Finding> {
    let used: BTreeSet<&str> = members
        .iter()
        .flat_map(|member| dependencies(&member.table))
        .map(|(dependency, _)| dependency)
        .collect();
    let declared = lookup(&workspace.table, &["workspace", "dependencies"]);
    let declared = declared.and_then(Value::as_table).into_iter().flat_map(Table::keys);
    declared
        .filter(|dependency| !used.contains(dependency.as_str()))
        .map(|dependency| {
            let message = format!("no crate uses the dependency `{dependency}`: remove it");
            Finding::file(&workspace.path, message)
        })
        .collect()
}

/// Every dependency of a manifest with what is said of it, those of single targets too.
fn dependencies(manifest: &Table) -> Vec<(&str, &Value)> {
    let targets = manifest.get("target").and_then(Value::as_table);
    let targets = targets.into_iter().flat_map(Table::values).filter_map(Value::as_table);
    std::iter::once(manifest)
        .chain(targets)
        .flat_map(|scope| DEPENDENCY_TABLES.iter().filter_map(|name| scope.get(*name)))
        .filter_map(Value::as_table)
        .flat_map(|table| table.iter().map(|(name, value)| (name.as_str(), value)))
        .collect()
}

fn lookup<'a>(table: &'a Table, path: &[&str]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(table.get(*first)?, |value, key| value.get(key))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::{Manifest, check_member, crossing, own_lints, unused_dependencies};

    fn manifest(path: &str, body: &str) -> Manifest {
        Manifest { path: PathBuf::from(path), table: body.parse().unwrap() }
    }

    #[test]
    fn rings_point_inwards() {
        assert_eq!(crossing("server", "ledger"), None);
        assert_eq!(crossing("tally", "kernel"), None);
        assert_eq!(crossing("kernel", "serde"), None);
        assert_eq!(crossing("xtask", "toml"), None);
        for (name, dependency) in
            [("kernel", "proto"), ("ledger", "policy"), ("client", "server"), ("xtask", "kernel")]
        {
            assert!(crossing(name, dependency).is_some(), "{name} on {dependency}");
        }
    }

    #[test]
    fn manifests_inherit() {
        let good = "[package]\nname = 'tally'\nversion.workspace = true\nedition.workspace = true\n\
            rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n\
            [lints]\nworkspace = true\n\
            [dependencies]\nkernel.workspace = true\n";
        let lints = "[workspace.lints.rust]\nunsafe_code = 'forbid'\nother = 'warn'\n";
        let lints = own_lints(&manifest("Cargo.toml", lints));
        let check =
            |body: &str| check_member(&manifest("crates/cli/Cargo.toml", body), &lints).len();
        assert_eq!(check(good), 0);
        assert_eq!(check(&good.replace("edition.workspace = true", "edition = '2024'")), 1);
        assert_eq!(check(&good.replace("[lints]", "[other]")), 1);
        assert_eq!(check(&good.replace("'tally'", "'server'")), 1);
        assert_eq!(check(&format!("{good}hex = '1'\n")), 1);
        assert_eq!(check(&format!("{good}[target.'cfg(unix)'.dependencies]\nhex = '1'\n")), 1);

        let own = good.replace("'tally'", "'verifier-wasm'").replace(
            "[lints]\nworkspace = true",
            "[lints.rust]\nunsafe_code = 'deny'\nother = 'warn'",
        );
        let check = |body: &str| {
            let path = "crates/verifier-wasm/Cargo.toml";
            check_member(&manifest(path, body), &lints).len()
        };
        assert_eq!(check(&own), 0);
        assert_eq!(check(&own.replace("\nother = 'warn'", "")), 1);
        assert_eq!(check(&own.replace("'deny'", "'allow'")), 1);
    }

    #[test]
    fn each_dependency_is_used() {
        let workspace = manifest("Cargo.toml", "[workspace.dependencies]\nhex = '1'\nurl = '2'\n");
        let member = manifest("crates/a/Cargo.toml", "[dev-dependencies]\nhex.workspace = true\n");
        let findings = unused_dependencies(&workspace, &[member]);
        let messages: Vec<_> = findings.iter().map(|finding| finding.message.as_str()).collect();
        assert_eq!(messages, ["no crate uses the dependency `url`: remove it"]);
    }
}
