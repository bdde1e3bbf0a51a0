//! What code in a sandbox may reach: files, hosts and variables. Nothing that is not named.

mod glob;
mod host;

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

pub use self::glob::Glob;
use self::glob::Name;
use self::host::{Cidr, Entry};
use crate::json;
use crate::limits;
use crate::values::Digest;

/// A grant. Empty lists grant nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Capabilities {
    /// Globs of absolute paths that may be read: `/data/*`, `/data/**/report-?.csv`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub file_read: Vec<String>,
    /// Globs of absolute paths that may be written.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub file_write: Vec<String>,
    /// Hosts that may be spoken to.
    #[serde(skip_serializing_if = "Network::is_none")]
    pub network: Network,
    /// Globs of names of variables: `USER`, `OACP_*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
}

/// Hosts that may be spoken to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// `host:port`, `host` (port 443), `*.host` (its subdomains), `*.host:port`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allowlist: Vec<String>,
    /// Ranges of addresses that no name may lead to: `169.254.0.0/16`, `fd00::/8`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub denylist: Vec<String>,
}

/// One thing that code may be granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Capability {
    /// Reading a file.
    FileRead,
    /// Writing a file.
    FileWrite,
    /// Speaking to a host.
    Network,
    /// Reading a variable.
    Env,
    /// Calling a tool.
    Tool,
    /// Starting a process.
    Process,
}

impl Capability {
    /// The name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FileRead => "file_read",
            Self::FileWrite => "file_write",
            Self::Network => "network",
            Self::Env => "env",
            Self::Tool => "tool",
            Self::Process => "process",
        }
    }
}

/// Why a grant is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("capabilities.{list}: `{value}`: {reason}")]
pub struct Invalid {
    /// What it would grant.
    pub capability: Capability,
    /// Which list it is in: `file_read`, `network.allowlist` …
    pub list: &'static str,
    /// As given, cut where it is long.
    pub value: String,
    /// What to change.
    pub reason: &'static str,
}

impl Invalid {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        "capability_invalid"
    }
}

/// What is asked for and beyond what may be granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} `{wanted}` is beyond what may be granted: ask for less, or have it added to \
    sandbox.capabilities", capability.as_str())]
pub struct Beyond {
    /// What kind.
    pub capability: Capability,
    /// What exactly, as it was asked for.
    pub wanted: String,
}

impl Beyond {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        "capability_not_grantable"
    }
}

impl Capabilities {
    /// Checks every entry, and puts each list in order without repeats.
    pub fn parse(mut self) -> Result<Self, Invalid> {
        self.validate()?;
        for (_, list) in self.lists_mut() {
            list.sort_unstable();
            list.dedup();
        }
        Ok(self)
    }

    /// Checks every entry.
    pub fn validate(&self) -> Result<(), Invalid> {
        for (capability, list, entries) in self.lists() {
            let invalid =
                |value: &str, reason| Invalid { capability, list, value: cut(value), reason };
            if entries.len() > limits::CAPABILITY_ENTRIES_MAX {
                let last = entries.last().map_or("", String::as_str);
                return Err(invalid(last, "write at most 64 entries in one list"));
            }
            for entry in entries {
                check(list, entry).map_err(|reason| invalid(entry, reason))?;
            }
        }
        let bytes: usize = self.lists().iter().flat_map(|(.., list)| *list).map(String::len).sum();
        if bytes > limits::CAPABILITIES_BYTES_MAX {
            let (capability, list, value) = (Capability::FileRead, "*", String::new());
            let reason = "write at most 8,192 bytes in all lists together";
            return Err(Invalid { capability, list, value, reason });
        }
        Ok(())
    }

    /// Whether all of `asked` is within this: each of its entries within a single one of these.
    /// Sound: what `asked` grants, this grants. The denylist of `asked` can only take away.
    pub fn covers(&self, asked: &Self) -> Result<(), Beyond> {
        let (wider, asked) = (self.lists(), asked.lists());
        for ((capability, list, wider), (.., entries)) in wider.into_iter().zip(asked) {
            if list == DENYLIST {
                continue;
            }
            let beyond = entries.iter().find(|asked| !entry_covered(list, wider, asked));
            if let Some(wanted) = beyond {
                return Err(Beyond { capability, wanted: cut(wanted) });
            }
        }
        Ok(())
    }

    /// What code gets that asks for this under `ceiling`: what it asks for, without what either
    /// denies.
    pub fn within(&self, ceiling: &Self) -> Result<Self, Beyond> {
        ceiling.covers(self)?;
        let mut granted = self.clone();
        merge(&mut granted.network.denylist, &ceiling.network.denylist);
        Ok(granted)
    }

    /// What either grants, without what either denies.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        for ((_, list), (.., more)) in union.lists_mut().into_iter().zip(other.lists()) {
            merge(list, more);
        }
        union
    }

    /// What both grant, as far as an entry of one is within an entry of the other, without what
    /// either denies.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut both = Self::default();
        let lists = self.lists().into_iter().zip(other.lists());
        for ((_, kept), ((_, name, ours), (.., theirs))) in both.lists_mut().into_iter().zip(lists)
        {
            let all = name == DENYLIST;
            let of = |from: &[String], wider: &[String]| {
                let entries = from.iter().filter(|e| all || entry_covered(name, wider, e));
                entries.cloned().collect::<Vec<_>>()
            };
            merge(kept, &of(ours, theirs));
            merge(kept, &of(theirs, ours));
        }
        both
    }

    /// SHA-256 of the canonical JSON.
    #[expect(clippy::expect_used, reason = "lists of texts always have a canonical form")]
    pub fn digest(&self) -> Digest {
        Digest::of(&json::canonical(self).expect("lists of texts"))
    }

    /// Whether nothing is granted.
    pub fn is_none(&self) -> bool {
        self.lists().iter().all(|(.., list)| list.is_empty())
    }

    /// Whether the file at `path`, absolute and plain, may be read.
    pub fn may_read(&self, path: &str) -> bool {
        self.file_read.iter().any(|glob| Glob::parse(glob).is_ok_and(|glob| glob.matches(path)))
    }

    /// Whether the file at `path`, absolute and plain, may be written.
    pub fn may_write(&self, path: &str) -> bool {
        self.file_write.iter().any(|glob| Glob::parse(glob).is_ok_and(|glob| glob.matches(path)))
    }

    /// Whether the variable `name` may be read.
    pub fn may_env(&self, name: &str) -> bool {
        self.env.iter().any(|glob| Name::parse(glob).is_ok_and(|glob| glob.matches(name)))
    }

    /// Its lists, each with what it grants and what it is named.
    fn lists(&self) -> [(Capability, &'static str, &Vec<String>); 5] {
        [
            (Capability::FileRead, FILE_READ, &self.file_read),
            (Capability::FileWrite, FILE_WRITE, &self.file_write),
            (Capability::Network, ALLOWLIST, &self.network.allowlist),
            (Capability::Network, DENYLIST, &self.network.denylist),
            (Capability::Env, ENV, &self.env),
        ]
    }

    fn lists_mut(&mut self) -> [(&'static str, &mut Vec<String>); 5] {
        [
            (FILE_READ, &mut self.file_read),
            (FILE_WRITE, &mut self.file_write),
            (ALLOWLIST, &mut self.network.allowlist),
            (DENYLIST, &mut self.network.denylist),
            (ENV, &mut self.env),
        ]
    }
}

const FILE_READ: &str = "file_read";
const FILE_WRITE: &str = "file_write";
const ALLOWLIST: &str = "network.allowlist";
const DENYLIST: &str = "network.denylist";
const ENV: &str = "env";

impl Network {
    /// Whether no host may be spoken to.
    pub fn is_none(&self) -> bool {
        self.allowlist.is_empty() && self.denylist.is_empty()
    }

    /// Whether `host` may be spoken to at `port`: a name, or an address with or without brackets.
    /// Where the name leads is another question.
    pub fn allows(&self, host: &str, port: u16) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.allowlist.iter().any(|text| Entry::parse(text).is_ok_and(|e| e.names(&host, port)))
    }

    /// Whether this very address may be spoken to at `port`.
    pub fn allows_address(&self, ip: IpAddr, port: u16) -> bool {
        self.allowlist.iter().any(|text| Entry::parse(text).is_ok_and(|e| e.is_address(ip, port)))
    }

    /// Whether nothing may be spoken to at `ip`. An entry that does not read denies everything.
    pub fn denies(&self, ip: IpAddr) -> bool {
        self.denylist.iter().any(|text| Cidr::parse(text).map_or(true, |cidr| cidr.has(ip)))
    }
}

/// Checks an entry of a list; otherwise what to change.
fn check(list: &str, entry: &str) -> Result<(), &'static str> {
    if entry.len() > limits::CAPABILITY_BYTES_MAX {
        return Err("write at most 512 bytes");
    }
    match list {
        FILE_READ | FILE_WRITE => Glob::parse(entry).map(drop),
        ALLOWLIST => Entry::parse(entry).map(drop),
        DENYLIST => Cidr::parse(entry).map(drop),
        _ => check_env(entry),
    }
}

fn check_env(glob: &str) -> Result<(), &'static str> {
    if glob.is_empty() {
        return Err("name a variable: `USER`, `OACP_*`");
    }
    if !glob.is_ascii() || glob.contains(['=', '/', ' ']) {
        return Err("write the name of a variable alone, in ASCII: `USER`, `OACP_*`");
    }
    Name::parse(glob).map(drop)
}

/// Whether `asked` is within a single one of `wider`.
fn entry_covered(list: &str, wider: &[String], asked: &str) -> bool {
    macro_rules! covered {
        ($type:ident) => {
            $type::parse(asked).is_ok_and(|asked| {
                wider.iter().any(|wider| $type::parse(wider).is_ok_and(|w| w.covers(&asked)))
            })
        };
    }
    match list {
        FILE_READ | FILE_WRITE => covered!(Glob),
        ALLOWLIST => covered!(Entry),
        _ => covered!(Name),
    }
}

fn merge(list: &mut Vec<String>, more: &[String]) {
    let merged: BTreeSet<String> = list.drain(..).chain(more.iter().cloned()).collect();
    list.extend(merged);
}

/// The beginning of what somebody wrote, to be shown.
fn cut(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(limits::CAPABILITY_SHOWN_CHARS_MAX).collect()
}
