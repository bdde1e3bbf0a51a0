//! What `tally mcp -- COMMAND` is to run, and what to call it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::limits;
use crate::exit::Failure;

/// Programs that run what the first of their arguments names.
const RUNNERS: [&str; 16] = [
    "bash", "bun", "bunx", "deno", "docker", "env", "node", "npm", "npx", "pipx", "pnpm", "python",
    "python3", "sh", "uv", "uvx",
];
/// Arguments of those that name nothing.
const VERBS: [&str; 8] = ["dlx", "exec", "run", "tool", "x", "start", "-m", "-c"];
/// File names that say nothing.
const NAMELESS: [&str; 12] = [
    "__main__", "app", "bin", "build", "cli", "dist", "index", "lib", "main", "run", "server",
    "src",
];

/// A command that is an MCP server, as far as it tells one from another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Command {
    pub(crate) program: String,
    pub(crate) args: Vec<String>,
    pub(crate) cwd: PathBuf,
    /// The names of its variables.
    pub(crate) variables: BTreeSet<String>,
}

/// A variable of the command.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Variable {
    /// With this value, which anybody may see who sees the command line.
    Plain(String),
    /// With this value, kept as a secret.
    Secret(String),
}

impl Command {
    /// The command of a command line. A program that is named by a path is named by a whole one.
    pub(crate) fn new(
        line: &[String],
        cwd: Option<&Path>,
        variables: &BTreeMap<String, Variable>,
    ) -> anyhow::Result<Self> {
        let Some((program, args)) = line.split_first() else {
            return Err(Failure::Usage("name the command after `--`".to_owned()).into());
        };
        let here = std::env::current_dir()?;
        let cwd = cwd.map_or_else(|| here.clone(), |cwd| here.join(cwd));
        anyhow::ensure!(cwd.is_dir(), "--cwd `{}` is no folder", cwd.display());
        let program = match program.contains('/') {
            true => here.join(program).display().to_string(),
            false => program.clone(),
        };
        let variables = variables.keys().cloned().collect();
        Ok(Self { program, args: args.to_vec(), cwd, variables })
    }

    /// What to call it where nobody says.
    pub(crate) fn name(&self) -> String {
        let program = Path::new(&self.program);
        let runs = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_runner = RUNNERS.contains(&runs) || runs.starts_with("python3.");
        let names = |word: &&String| {
            !word.starts_with('-') && !VERBS.contains(&word.as_str()) && !is_assignment(word)
        };
        let word = self.args.iter().find(names).filter(|_| is_runner);
        name(word.unwrap_or(&self.program))
    }
}

/// Whether a word is `NAME=VALUE`, as `env` takes it.
fn is_assignment(word: &str) -> bool {
    let name = |name: &str| name.bytes().all(|b| b.is_ascii_uppercase() || matches!(b, b'_'));
    word.split_once('=').is_some_and(|(before, _)| name(before))
}

/// A name of the server that a package or file is.
fn name(word: &str) -> String {
    // A version: `name@1.2`, `@scope/name@1.2`, `name==1.2`; and a tag: `image:tag`.
    let last = word.rfind('/').map_or(0, |at| at + 1);
    let ends = |(at, c): &(usize, char)| *at > last && matches!(c, '@' | '=' | ':' | '[');
    let end = word.char_indices().find(ends);
    let word = end.and_then(|(at, _)| word.get(..at)).unwrap_or(word);
    let path = Path::new(word);
    let stem = |path: &Path| {
        let file = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let stem = file.rsplit_once('.').map_or(file, |(stem, ending)| {
            if matches!(ending, "js" | "mjs" | "cjs" | "ts" | "py" | "sh" | "rb") {
                stem
            } else {
                file
            }
        });
        stem.to_lowercase()
    };
    let said = path.ancestors().map(stem).find(|stem| !NAMELESS.contains(&stem.as_str()));
    let said = said.unwrap_or_default();
    let bare = ["mcp-server-", "server-", "mcp-"].iter().find_map(|start| said.strip_prefix(start));
    let bare = bare.unwrap_or(&said);
    let ends = ["-mcp-server", "-server", "-mcp"].iter().find_map(|end| bare.strip_suffix(end));
    let bare = ends.unwrap_or(bare);
    let mut name = String::new();
    for c in bare.chars() {
        let c = if c.is_ascii_alphanumeric() { c } else { '-' };
        if c != '-' || (!name.is_empty() && !name.ends_with('-')) {
            name.push(c);
        }
    }
    name.truncate(limits::NAME_BYTES_MAX - 3);
    let name = name.trim_end_matches('-');
    if name.is_empty() { "server".to_owned() } else { name.to_owned() }
}

/// Reads `--env K=V` and `--env K`.
pub(crate) fn variables(said: &[String]) -> Result<BTreeMap<String, Variable>, Failure> {
    let read = |said: &String| {
        let (name, value) = match said.split_once('=') {
            Some((name, value)) => (name, Variable::Plain(value.to_owned())),
            None => match std::env::var(said) {
                Ok(value) => (said.as_str(), Variable::Secret(value)),
                Err(_) => {
                    let reason = format!("--env {said}: this process has no such variable");
                    return Err(Failure::Usage(reason));
                }
            },
        };
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if name.is_empty() || !name.bytes().all(good) {
            return Err(Failure::Usage(format!("--env {name}: write NAME=VALUE, or NAME")));
        }
        Ok((name.to_owned(), value))
    };
    said.iter().map(read).collect()
}

/// Reads `--label TOOL=LABEL,…`.
pub(crate) fn labels(said: &[String]) -> Result<BTreeMap<String, Vec<String>>, Failure> {
    let read = |said: &String| {
        let (tool, labels) = said.rsplit_once('=').unwrap_or_default();
        let labels: Vec<_> = labels.split(',').map(str::to_owned).collect();
        if tool.is_empty() || labels.iter().any(String::is_empty) {
            let reason = format!("--label {said}: write TOOL=LABEL,LABEL");
            return Err(Failure::Usage(reason));
        }
        Ok((tool.to_owned(), labels))
    };
    said.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_has_a_name() {
        for (line, name) in [
            ("npx -y @modelcontextprotocol/server-filesystem /srv", "filesystem"),
            ("npx -y @modelcontextprotocol/server-filesystem@2026.1.14 /srv", "filesystem"),
            ("uvx mcp-server-git --repository .", "git"),
            ("uv tool run some_server==1.0", "some-server"),
            ("python3 -m weather", "weather"),
            ("python3.12 /opt/weather/src/server.py", "weather"),
            ("node ./tickets/dist/index.js", "tickets"),
            ("node /opt/node_modules/@scope/server-tickets/dist/index.js", "tickets"),
            ("docker run -i --rm -e TOKEN=x mcp/time:latest", "time"),
            ("/opt/bin/everything-mcp --stdio", "everything"),
            ("github-mcp-server stdio", "github"),
            ("node index.js", "server"),
            ("/opt/Größe", "gr-e"),
        ] {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            let command = Command {
                program: words[0].clone(),
                args: words[1..].to_vec(),
                cwd: PathBuf::new(),
                variables: BTreeSet::new(),
            };
            assert_eq!(command.name(), name, "{line}");
        }
    }

    #[test]
    fn options_that_are_none_are_refused() {
        let own = |said: &str| vec![said.to_owned()];
        assert!(labels(&own("a.b=c=read,write")).unwrap().contains_key("a.b=c"));
        for said in ["read", "=read", "t=", "t=read,"] {
            assert!(labels(&own(said)).is_err(), "{said}");
        }
        for said in ["=v", "A B=v", "NOT_A_VARIABLE_OF_THIS_TEST"] {
            assert!(variables(&own(said)).is_err(), "{said}");
        }
    }
}
