//! The script: who may log in, what there is in the beginning, whom to call, what goes wrong.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::commands::dev::fault::Fault;
use crate::commands::dev::post::is_local;

/// All of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Script {
    /// Who may log in with a password.
    pub(super) users: Vec<User>,
    /// What may ask for tokens by itself.
    pub(super) clients: Vec<Client>,
    /// How long a token serves.
    pub(super) token_ttl_s: u64,
    /// Groups that incidents can be assigned to.
    pub(super) groups: Vec<Group>,
    /// Incidents that there are in the beginning. The business rule is silent about them.
    pub(super) incidents: Vec<BTreeMap<String, String>>,
    /// The business rule that calls out when an incident is created.
    pub(super) webhook: Option<Webhook>,
    /// What goes wrong.
    pub(super) faults: Vec<Fault>,
    /// Milliseconds before every answer.
    pub(super) latency_ms: u64,
}

/// Who may log in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct User {
    pub(super) name: String,
    pub(super) password: String,
    /// Without it, records can only be read.
    #[serde(default = "yes")]
    pub(super) writes: bool,
}

/// A group.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Group {
    pub(super) sys_id: String,
    pub(super) name: String,
}

/// What may ask for tokens.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Client {
    pub(super) id: String,
    pub(super) secret: String,
    /// The user that it acts as.
    pub(super) user: String,
}

/// Whom the business rule calls, and with what it signs.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Webhook {
    pub(super) url: String,
    pub(super) secret: String,
}

/// The groups that there are where a script names none; the workflow of the catalog knows them.
const GROUPS: [(&str, &str); 5] = [
    ("d625dccec0a8016700a222a0f7900d06", "Service Desk"),
    ("287ebd7da9fe198100f92cc8d1d2154e", "Network"),
    ("8a4dde73c6112278017a6a4baf547aa7", "Software"),
    ("8a5055c9c61122780043563ef53438e3", "Hardware"),
    ("287ee6fea9fe198100ada7950d0b1b73", "Database"),
];

fn group((sys_id, name): (&str, &str)) -> Group {
    Group { sys_id: sys_id.to_owned(), name: name.to_owned() }
}

fn yes() -> bool {
    true
}

impl Default for Script {
    fn default() -> Self {
        Self {
            users: Vec::new(),
            clients: Vec::new(),
            token_ttl_s: 1_799,
            groups: GROUPS.map(group).to_vec(),
            incidents: Vec::new(),
            webhook: None,
            faults: Vec::new(),
            latency_ms: 0,
        }
    }
}

impl Script {
    /// What there is without a script. Its passwords are in the guide, and open nothing else.
    pub(super) fn sample() -> Self {
        let name = "sim.integration".to_owned();
        let user = User { name: name.clone(), password: "sim-password".to_owned(), writes: true };
        let (id, secret) = ("sim-client".to_owned(), "sim-secret".to_owned());
        let client = Client { id, secret, user: name };
        Self { users: vec![user], clients: vec![client], ..Self::default() }
    }

    pub(super) fn load(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let script = Self::parse(&text).with_context(|| format!("{shown}"))?;
        Ok(script)
    }

    /// Reads YAML.
    pub(crate) fn parse(text: &str) -> anyhow::Result<Self> {
        let script: Self = serde_yaml_ng::from_str(text)?;
        script.check()?;
        Ok(script)
    }

    fn check(&self) -> anyhow::Result<()> {
        for client in &self.clients {
            let known = self.users.iter().any(|user| user.name == client.user);
            ensure!(known, "client `{}` acts as `{}`, who is no user", client.id, client.user);
        }
        let url = self.webhook.as_ref().map(|webhook| &webhook.url);
        let local = url.is_none_or(|url| is_local(url));
        ensure!(local, "webhook.url: a simulator calls http on this machine alone");
        Ok(())
    }
}
