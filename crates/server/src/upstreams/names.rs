//! The names by which clients know the tools of many servers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kernel::ids::ToolId;

use super::McpTool;

/// Clients' names of some tools: each tool's own, and `<server>__<tool>` for all that would
/// otherwise have the same.
#[derive(Debug, Default)]
pub(crate) struct Names {
    by_name: HashMap<String, Arc<McpTool>>,
    by_id: HashMap<ToolId, String>,
}

impl Names {
    /// Names `tools`, which are of one tenant.
    pub(crate) fn of(tools: &[Arc<McpTool>]) -> Self {
        let ids: Vec<_> = tools.iter().map(|tool| (&tool.upstream.name, &tool.name)).collect();
        let mut names = Self::default();
        for (tool, name) in tools.iter().zip(assign(&ids)) {
            names.by_id.insert(tool.manifest.id.clone(), name.clone());
            names.by_name.insert(name, tool.clone());
        }
        names
    }

    /// The tool of that name. Names are exact.
    pub(crate) fn tool(&self, name: &str) -> Option<&Arc<McpTool>> {
        self.by_name.get(name)
    }

    /// What clients call a tool.
    pub(crate) fn name(&self, id: &ToolId) -> Option<&str> {
        self.by_id.get(id).map(String::as_str)
    }
}

/// A name for each (server, tool). A name that two have is left to neither of them; where such a
/// tool's longer name is the plain one of a third, that one gets its longer name too. It ends:
/// each round lengthens a name, and longer names differ (a server's name has no `__`).
pub(crate) fn assign<T: AsRef<str>>(tools: &[(T, T)]) -> Vec<String> {
    let mut long: BTreeSet<usize> = BTreeSet::new();
    loop {
        let name = |(at, (server, tool)): (usize, &(T, T))| match long.contains(&at) {
            true => format!("{}__{}", server.as_ref(), tool.as_ref()),
            false => tool.as_ref().to_owned(),
        };
        let names: Vec<String> = tools.iter().enumerate().map(name).collect();
        let mut holders: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for (at, name) in names.iter().enumerate() {
            holders.entry(name).or_default().push(at);
        }
        let shared = holders.into_values().filter(|holders| holders.len() > 1).flatten();
        let known = long.len();
        long.extend(shared.collect::<Vec<_>>());
        if long.len() == known {
            return names;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::assign;

    #[test]
    fn names_are_plain_unless_two_have_them() {
        let check = |tools: &[(&str, &str)], names: &[&str]| {
            assert_eq!(assign(tools), names, "{tools:?}");
        };
        check(&[], &[]);
        check(&[("a", "x"), ("b", "y")], &["x", "y"]);
        check(&[("a", "x"), ("b", "x"), ("b", "y")], &["a__x", "b__x", "y"]);
        // Case makes a difference: these do not collide.
        check(&[("a", "x"), ("b", "X")], &["x", "X"]);
        // A plain name that is another's longer one collides with it.
        check(&[("a", "x"), ("b", "x"), ("c", "a__x")], &["a__x", "b__x", "c__a__x"]);
        // Though nobody has `a__x` in the end, a chain of them is resolved too.
        check(
            &[("a", "x"), ("b", "x"), ("c", "a__x"), ("d", "c__a__x")],
            &["a__x", "b__x", "c__a__x", "d__c__a__x"],
        );
        check(&[("a", "x"), ("b", "_x"), ("a-", "x")], &["a__x", "_x", "a-__x"]);
    }
}
