//! What the server is told of the providers that people log in with.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use kernel::ids::{EnvironmentId, TenantId, WorkspaceId};
use kernel::principal::Role;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use crate::config::Error;
use crate::limits;

/// One OpenID Connect provider, and who its people are here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provider {
    /// Its name in URLs and receipts: a-z, 0-9, `-` and `_`.
    pub name: String,
    /// Its issuer, exactly as its discovery document has it.
    pub issuer: String,
    /// Our client id there.
    pub client_id: String,
    /// A file with our client secret; without one we are a public client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret_file: Option<PathBuf>,
    /// What to ask for; `openid` always is.
    #[serde(default = "scopes")]
    pub scopes: Vec<String>,
    /// The tenant that its people belong to.
    pub tenant: TenantId,
    /// The workspace that they log in to.
    pub workspace: WorkspaceId,
    /// The environment that they log in to.
    pub environment: EnvironmentId,
    /// The claim with a person's groups: its name, or a path such as `realm_access.roles`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roles_claim: Option<String>,
    /// The role that each group gives. Where there is one, roles follow it at every login.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub role_map: BTreeMap<String, Role>,
    /// The roles of everybody.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub default_roles: BTreeSet<Role>,
    /// Whether whoever logs in first becomes a principal; otherwise an admin links them.
    #[serde(default)]
    pub create_principals: bool,
    /// How long a session lasts, in seconds.
    #[serde(default = "session_s")]
    pub session_s: u32,
}

fn scopes() -> Vec<String> {
    ["openid", "profile", "email"].map(str::to_owned).to_vec()
}

fn session_s() -> u32 {
    limits::SESSION_S_DEFAULT
}

/// Checks what serde cannot.
pub(crate) fn check(providers: &[Provider]) -> Result<(), Error> {
    let mut names = BTreeSet::new();
    for provider in providers {
        let refused = |reason: &str| {
            let reason = format!("`{}`: {reason}", provider.name);
            Err(Error::Value { key: "oidc", reason })
        };
        if !names.insert(&provider.name) {
            return refused("another provider has this name");
        }
        if let Err(reason) = provider.check() {
            return refused(reason);
        }
    }
    Ok(())
}

impl Provider {
    fn check(&self) -> Result<(), &'static str> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_".contains(&b);
        if !(1..=32).contains(&self.name.len()) || !self.name.bytes().all(plain) {
            return Err("name: 1 to 32 of a-z, 0-9, `-` and `_`");
        }
        let issuer = Url::parse(&self.issuer).ok();
        let good = |url: &Url| {
            may_call(url, is_local(url)) && url.query().is_none() && url.fragment().is_none()
        };
        if !issuer.as_ref().is_some_and(good) {
            return Err("issuer: an https URL; http only on this machine");
        }
        if self.client_id.is_empty() {
            return Err("client_id: what the provider gave you");
        }
        let scope = |s: &String| !s.is_empty() && s.bytes().all(|b| b.is_ascii_graphic());
        if !self.scopes.iter().all(scope) {
            return Err("scopes: words without spaces");
        }
        if !(limits::SESSION_S_MIN..=limits::SESSION_S_MAX).contains(&self.session_s) {
            return Err("session_s: 60 to 2592000");
        }
        self.check_roles()
    }

    /// Nobody becomes an agent by logging in, nor an owner or approver without being named one.
    fn check_roles(&self) -> Result<(), &'static str> {
        let named_only = |role: &Role| *role == Role::Owner || role.has_the_last_word();
        if self.default_roles.iter().any(named_only) {
            return Err("default_roles: owner, approver and responder come by role_map alone");
        }
        let agent = |role: &Role| *role == Role::Agent;
        if self.default_roles.iter().chain(self.role_map.values()).any(agent) {
            return Err("people are no agents: leave the role `agent` out");
        }
        if self.roles_claim.is_some() == self.role_map.is_empty() {
            return Err("roles_claim and role_map belong together");
        }
        if self.create_principals && self.default_roles.is_empty() && self.role_map.is_empty() {
            return Err("create_principals: say by default_roles or role_map with which roles");
        }
        Ok(())
    }
}

/// Whether the URL is of this machine: no name server says so.
pub(super) fn is_local(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(ip)) => IpAddr::V4(ip).is_loopback(),
        Some(Host::Ipv6(ip)) => IpAddr::V6(ip).is_loopback(),
        None => false,
    }
}

/// Whether a URL of a provider may be called: by https, or by http on this machine where
/// `local`, the provider itself, is there.
pub(super) fn may_call(url: &Url, local: bool) -> bool {
    let plain = url.scheme() == "http" && local && is_local(url);
    let named = url.host().is_some() && url.username().is_empty() && url.password().is_none();
    named && (url.scheme() == "https" || plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(change: &str) -> Result<(), String> {
        let base = "name: corp\nissuer: https://id.example\nclient_id: tally\ntenant: main\n\
            workspace: main\nenvironment: dev\n";
        let mut all: serde_yaml_ng::Mapping = serde_yaml_ng::from_str(base).unwrap();
        all.extend(serde_yaml_ng::from_str::<serde_yaml_ng::Mapping>(change).unwrap());
        let provider = serde_yaml_ng::from_value(all.into()).map_err(|e| e.to_string())?;
        check(&[provider]).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_refused_says_what_to_write() {
        for good in [
            "default_roles: [viewer]",
            "issuer: http://127.0.0.1:9000/realm",
            "issuer: http://localhost:9000",
            "{roles_claim: groups, role_map: {boss: owner, second: approver}}",
            "{create_principals: true, default_roles: [viewer, operator]}",
        ] {
            assert_eq!(checked(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("name: Corp", "name:"),
            ("issuer: http://id.example", "issuer:"),
            ("issuer: https://user@id.example", "issuer:"),
            ("issuer: 'https://id.example/?a=b'", "issuer:"),
            ("client_id: ''", "client_id:"),
            ("scopes: ['a b']", "scopes:"),
            ("session_s: 5", "session_s:"),
            ("default_roles: [owner]", "role_map alone"),
            ("default_roles: [approver]", "role_map alone"),
            ("default_roles: [agent]", "no agents"),
            ("{roles_claim: groups, role_map: {bots: agent}}", "no agents"),
            ("roles_claim: groups", "belong together"),
            ("role_map: {boss: owner}", "belong together"),
            ("create_principals: true", "with which roles"),
            ("tenant: Main!", ""),
            ("surprise: 1", "surprise"),
        ] {
            let said = checked(bad).unwrap_err();
            assert!(said.contains(why), "{bad}: {said}");
        }
    }
}
