//! What the tools may reach. It is written by whoever runs Tally; without a grant all is refused.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::path::{Component, Path, PathBuf};

use url::Host;

use crate::webhook::Receiver;

/// Why a grant is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A host that is none, or a secret's name that is none.
    #[error("grants.{list}: host `{host}` {reason}")]
    Host {
        /// `http`, `webhook` or `connectors`.
        list: &'static str,
        /// As given.
        host: String,
        /// What is wrong and what to write instead.
        reason: &'static str,
    },
    /// A folder that may not be granted or is not there.
    #[error("grants.{list}: `{}` {reason}", path.display())]
    Folder {
        /// `fs_read` or `fs_write`.
        list: &'static str,
        /// As given.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// What the tools may reach.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// Hosts that `core.http_call` may call.
    pub http: Vec<HttpGrant>,
    /// Receivers that `webhook.send` may send to, each with the secret that signs for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub webhook: Vec<WebhookGrant>,
    /// Hosts that connectors may call, besides those of `http`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub connectors: Vec<ConnectorGrant>,
    /// Folders that `core.fs_read` may read below; absolute.
    pub fs_read: Vec<PathBuf>,
    /// Folders that `core.fs_write` may write below; absolute.
    pub fs_write: Vec<PathBuf>,
}

/// Leave to call a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpGrant {
    /// A name or address, `*.example.com` for every name below that, or `*` for every public host.
    pub host: String,
    /// The port; without it, 443 for https and 80 for http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Whether the host may have a private or loopback address. Only for a host named in full; a
    /// link-local address (where clouds serve credentials) must be named as an address.
    #[serde(default)]
    pub private: bool,
}

/// Leave to send webhooks to a host. The operator names the secret: an agent that could choose it
/// could have anything signed for another receiver.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookGrant {
    /// As [`HttpGrant::host`].
    pub host: String,
    /// As [`HttpGrant::port`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// As [`HttpGrant::private`].
    #[serde(default)]
    pub private: bool,
    /// The name of the tenant's secret that signs: `whsec_` and base64.
    pub secret: String,
}

/// Leave for connectors to call a host. Agents cannot call it in any other way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectorGrant {
    /// As [`HttpGrant::host`].
    pub host: String,
    /// As [`HttpGrant::port`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// As [`HttpGrant::private`].
    #[serde(default)]
    pub private: bool,
    /// Whose connectors; without any, every tenant's.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub tenants: BTreeSet<String>,
}

/// A grant for connectors, checked.
#[derive(Clone, Debug)]
pub(crate) struct ConnectorRule {
    pub(crate) rule: Rule,
    tenants: BTreeSet<String>,
}

impl ConnectorRule {
    /// Whether it is for that tenant.
    pub(crate) fn is_for(&self, tenant: &str) -> bool {
        self.tenants.is_empty() || self.tenants.contains(tenant)
    }
}

#[derive(Clone, Debug)]
enum Pattern {
    Any,
    /// With the leading dot.
    Suffix(String),
    Exact(Host),
}

/// An HTTP grant, checked.
#[derive(Clone, Debug)]
pub(crate) struct Rule {
    pattern: Pattern,
    port: Option<u16>,
    pub(crate) private: bool,
}

impl Grants {
    /// The HTTP grants, checked.
    pub(crate) fn http_rules(&self) -> Result<Vec<Rule>, Error> {
        self.http.iter().map(|grant| Rule::new("http", grant)).collect()
    }

    /// What connectors may call, checked: a host that agents may call at will is open to them too.
    pub(crate) fn connector_rules(&self) -> Result<Vec<ConnectorRule>, Error> {
        let anyone = |rule| ConnectorRule { rule, tenants: BTreeSet::new() };
        let mut rules: Vec<_> = self.http_rules()?.into_iter().map(anyone).collect();
        for grant in &self.connectors {
            let ConnectorGrant { host, port, private, tenants } = grant.clone();
            let rule = Rule::new("connectors", &HttpGrant { host, port, private })?;
            rules.push(ConnectorRule { rule, tenants });
        }
        Ok(rules)
    }

    /// The receivers of webhooks, checked.
    pub(crate) fn receivers(&self) -> Result<Vec<Receiver>, Error> {
        let receiver = |grant: &WebhookGrant| {
            let WebhookGrant { host, port, private, secret } = grant.clone();
            if !kernel::secret::is_name(&secret) {
                let reason = "needs the name of a secret";
                return Err(Error::Host { list: "webhook", host, reason });
            }
            let rule = Rule::new("webhook", &HttpGrant { host, port, private })?;
            Ok(Receiver { rule, secret })
        };
        self.webhook.iter().map(receiver).collect()
    }
}

impl Rule {
    pub(crate) fn new(list: &'static str, grant: &HttpGrant) -> Result<Self, Error> {
        let error = |reason| Error::Host { list, host: grant.host.clone(), reason };
        let pattern = match grant.host.strip_prefix('*') {
            Some("") => Pattern::Any,
            Some(suffix) if suffix.starts_with('.') => {
                let name = suffix.trim_start_matches('.');
                match parse_host(name) {
                    Some(Host::Domain(name)) if !name.contains('*') => {
                        Pattern::Suffix(format!(".{name}"))
                    }
                    _ => return Err(error("is no pattern: write `*.example.com`")),
                }
            }
            Some(_) => return Err(error("is no pattern: write `*` or `*.example.com`")),
            None => Pattern::Exact(parse_host(&grant.host).ok_or_else(|| {
                error("is no host: write a name or an address, without scheme, port or path")
            })?),
        };
        if grant.private && !matches!(pattern, Pattern::Exact(_)) {
            return Err(error("cannot be private: name each private host in full"));
        }
        Ok(Self { pattern, port: grant.port, private: grant.private })
    }

    /// Whether this names `host` in full.
    pub(crate) fn names(&self, host: &Host) -> bool {
        matches!(&self.pattern, Pattern::Exact(own) if own == host)
    }

    /// Whether this grants `host` at `port`, where `default_port` is the scheme's.
    pub(crate) fn covers(&self, host: &Host, port: u16, default_port: u16) -> bool {
        self.port.unwrap_or(default_port) == port
            && match (&self.pattern, host) {
                (Pattern::Any, _) => true,
                (Pattern::Suffix(suffix), Host::Domain(name)) => {
                    name.strip_suffix(suffix.as_str()).is_some_and(|head| !head.is_empty())
                }
                (Pattern::Suffix(_), _) => false,
                (Pattern::Exact(granted), host) => granted == host,
            }
    }
}

/// A host as `url` normalises it; an IPv6 address with or without brackets.
pub(crate) fn parse_host(text: &str) -> Option<Host> {
    if let Ok(ip) = text.parse::<Ipv6Addr>() {
        return Some(Host::Ipv6(ip));
    }
    let host = normal(Host::parse(text).ok()?);
    // What the parser makes of a spelling must be what was written, or the grant misleads.
    let same = match &host {
        Host::Domain(name) => text.trim_end_matches('.').eq_ignore_ascii_case(name),
        Host::Ipv4(ip) => text.parse() == Ok(IpAddr::V4(*ip)),
        Host::Ipv6(_) => true,
    };
    same.then_some(host)
}

/// A host without the dot that ends an absolute DNS name.
pub(crate) fn normal<S: Into<String>>(host: Host<S>) -> Host {
    match host {
        Host::Domain(name) => {
            let name: String = name.into();
            Host::Domain(name.strip_suffix('.').map_or(name.clone(), str::to_owned))
        }
        Host::Ipv4(ip) => Host::Ipv4(ip),
        Host::Ipv6(ip) => Host::Ipv6(ip),
    }
}

/// Checks the path of a granted folder: absolute, plain, and not where the system keeps itself.
pub(crate) fn check_folder(list: &'static str, path: &Path) -> Result<(), Error> {
    let error = |reason: &str| {
        Err(Error::Folder { list, path: path.to_owned(), reason: reason.to_owned() })
    };
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return error("must be absolute and free of `..`");
    }
    if path.parent().is_none() || ["/proc", "/sys", "/dev"].iter().any(|p| path.starts_with(p)) {
        return error("cannot be granted: name a folder of files");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Grants, HttpGrant, Rule};
    use url::Host;

    fn rule(host: &str, port: Option<u16>, private: bool) -> Result<Rule, super::Error> {
        Rule::new("http", &HttpGrant { host: host.to_owned(), port, private })
    }

    #[test]
    fn hosts_and_patterns() {
        let covers = |grant: &str, host: &str| {
            rule(grant, None, false).unwrap().covers(&Host::parse(host).unwrap(), 443, 443)
        };
        assert!(covers("*", "example.com") && covers("*", "8.8.8.8"));
        assert!(covers("*.example.com", "a.b.example.com"));
        assert!(!covers("*.example.com", "example.com"));
        assert!(!covers("*.example.com", "badexample.com"));
        assert!(covers("Example.COM", "example.com"));
        assert!(!covers("example.com", "example.com.evil.test"));
        assert!(covers("::1", "[::1]") && covers("[::1]", "[0:0::1]"));
        assert!(!covers("127.0.0.1", "[::ffff:127.0.0.1]"));
    }

    #[test]
    fn ports_are_the_schemes_unless_named() {
        let host = Host::parse("example.com").unwrap();
        assert!(!rule("*", None, false).unwrap().covers(&host, 8443, 443));
        assert!(rule("*", Some(8443), false).unwrap().covers(&host, 8443, 443));
        assert!(!rule("*", Some(8443), false).unwrap().covers(&host, 443, 443));
    }

    #[test]
    fn refused() {
        for host in ["", "http://a", "a/b", "*a.com", "*.", "a:1", "0x7f.1", "127.1", "a b", "*.*"]
        {
            assert!(rule(host, None, false).is_err(), "{host}");
        }
        assert!(rule("*", None, true).is_err() && rule("*.example.com", None, true).is_err());
        let extra = r#"{"http":[{"host":"a","prot":1}]}"#;
        assert!(serde_json::from_str::<Grants>(extra).is_err());
    }
}
