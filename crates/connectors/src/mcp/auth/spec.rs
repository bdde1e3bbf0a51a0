//! What an operator says of how an upstream is authorised at.

use std::fmt;

use kernel::secret;
use serde::{Deserialize, Serialize};
use url::Url;

/// How a call is authorised at an upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AuthSpec {
    /// By nothing but the headers of the specification.
    #[default]
    None,
    /// By a person who logged in: authorization code with PKCE. One login serves all calls.
    Oauth(Login),
    /// By the upstream's own client: client credentials.
    ClientCredentials(ClientCredentials),
    /// By whom the call is for: a token of Tally for the actor chain, exchanged (RFC 8693) for one
    /// of the upstream's.
    Exchange(Exchange),
}

/// A secret by its name: `${secret:NAME}`. Nothing else can stand in its place.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretRef(String);

impl SecretRef {
    /// The name of the secret.
    pub fn name(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SecretRef {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let name = text.strip_prefix("${secret:").and_then(|rest| rest.strip_suffix('}'));
        let name = name.filter(|name| secret::is_name(name) && !name.contains(':'));
        // What stands here instead may be the secret itself: it is not said again.
        name.map(|name| Self(name.to_owned())).ok_or("a secret stands here: write ${secret:NAME}")
    }
}

impl From<SecretRef> for String {
    fn from(secret: SecretRef) -> Self {
        format!("${{secret:{}}}", secret.0)
    }
}

impl fmt::Debug for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${{secret:{}}}", self.0)
    }
}

/// A login by authorization code.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The client that was registered beforehand. Without it the client is known by its metadata
    /// document where the authorization server takes one, else it registers itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Its secret, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretRef>,
    /// The URL of the client's metadata document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_metadata_url: Option<String>,
    /// What to ask for; without it what the upstream says that it takes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// The one authorization server that is trusted; without it any that the upstream names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

/// A client that proves itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCredentials {
    /// Its id.
    pub client_id: String,
    /// Its secret; or else `private_key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretRef>,
    /// The PEM of the key that it signs with (private_key_jwt).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key: Option<SecretRef>,
    /// How it signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithm: Option<Algorithm>,
    /// What to ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// Where tokens are issued; without it what the upstream names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_endpoint: Option<String>,
    /// The one authorization server that is trusted; without it any that the upstream names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer: Option<String>,
}

/// How a client signs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA on P-256.
    #[default]
    ES256,
    /// ECDSA on P-384.
    ES384,
    /// RSA PKCS#1 with SHA-256.
    RS256,
    /// RSA PKCS#1 with SHA-384.
    RS384,
    /// RSA PKCS#1 with SHA-512.
    RS512,
}

/// An exchange of tokens. Where they are exchanged is the operator's word alone: whoever gets the
/// subject's token could use it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// Where tokens are exchanged.
    pub token_endpoint: String,
    /// The audience of the token of Tally that is exchanged: whom it is for. Without it the token
    /// endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject_audience: Option<String>,
    /// The client as which to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_id: Option<String>,
    /// Its secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_secret: Option<SecretRef>,
    /// The `audience` to ask for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The `resource` to ask for; without it the URL of the upstream.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// What to ask for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
}

impl AuthSpec {
    /// The names of the secrets that it refers to.
    pub fn secrets(&self) -> Vec<&str> {
        let refs: Vec<&Option<SecretRef>> = match self {
            Self::None => Vec::new(),
            Self::Oauth(login) => vec![&login.client_secret],
            Self::ClientCredentials(client) => vec![&client.client_secret, &client.private_key],
            Self::Exchange(exchange) => vec![&exchange.client_secret],
        };
        refs.into_iter().flatten().map(SecretRef::name).collect()
    }

    /// What is wrong with it, where something is.
    pub fn check(&self) -> Result<(), &'static str> {
        let urls: Vec<&Option<String>> = match self {
            Self::None => Vec::new(),
            Self::Oauth(login) => {
                if login.client_secret.is_some() && login.client_id.is_none() {
                    return Err("auth.client_secret goes with a client_id");
                }
                if login.client_metadata_url.as_deref().is_some_and(|url| !is_document(url)) {
                    return Err("auth.client_metadata_url: https:// with a host and a path");
                }
                vec![&login.issuer]
            }
            Self::ClientCredentials(client) => {
                if client.client_secret.is_some() == client.private_key.is_some() {
                    return Err("auth: give either client_secret or private_key");
                }
                vec![&client.issuer, &client.token_endpoint]
            }
            Self::Exchange(exchange) => {
                if exchange.client_secret.is_some() && exchange.client_id.is_none() {
                    return Err("auth.client_secret goes with a client_id");
                }
                if !is_http(&exchange.token_endpoint) {
                    return Err("auth.token_endpoint: http:// or https:// with a host");
                }
                vec![&exchange.resource]
            }
        };
        if urls.into_iter().flatten().any(|url| !is_http(url)) {
            return Err("auth: an issuer, endpoint or resource is a URL with http:// or https://");
        }
        Ok(())
    }
}

fn is_http(text: &str) -> bool {
    let url = text.parse::<Url>();
    url.is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

fn is_document(text: &str) -> bool {
    let url = text.parse::<Url>();
    url.is_ok_and(|url| url.scheme() == "https" && url.has_host() && url.path() != "/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<AuthSpec, String> {
        serde_json::from_str::<AuthSpec>(text).map_err(|error| error.to_string())
    }

    #[test]
    fn a_secret_is_named_and_never_written() {
        let secret = r#"{"type":"oauth","client_id":"a","client_secret":"${secret:x}"}"#;
        let spec = read(secret).unwrap();
        assert_eq!(spec.secrets(), ["x"]);
        assert_eq!(serde_json::to_string(&spec).unwrap(), secret);
        for value in ["hunter2", "${secret:}", "${secret:oauth:x}", "a${secret:x}", "${secret:x}b"]
        {
            let error = read(&secret.replace("${secret:x}", value)).unwrap_err();
            assert!(
                !error.contains("hunter2") && error.contains("write ${secret:NAME}"),
                "{error}"
            );
        }
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let check = |text: &str, good: bool| {
            let checked = read(text).map_err(drop).and_then(|spec| spec.check().map_err(drop));
            assert_eq!(checked.is_ok(), good, "{text}");
        };
        check(r#"{"type":"none"}"#, true);
        check(r#"{"type":"oauth"}"#, true);
        check(r#"{"type":"oauth","unknown":1}"#, false);
        check(r#"{"type":"oauth","client_secret":"${secret:x}"}"#, false);
        check(r#"{"type":"oauth","client_metadata_url":"https://a.example/"}"#, false);
        check(r#"{"type":"oauth","client_metadata_url":"https://a.example/c.json"}"#, true);
        check(r#"{"type":"oauth","issuer":"a.example"}"#, false);
        check(r#"{"type":"client_credentials","client_id":"a"}"#, false);
        check(r#"{"type":"client_credentials","client_id":"a","private_key":"${secret:k}"}"#, true);
        check(r#"{"type":"exchange"}"#, false);
        check(r#"{"type":"exchange","token_endpoint":"https://a.example/token"}"#, true);
        check(r#"{"type":"exchange","token_endpoint":"ftp://a.example/token"}"#, false);
    }
}
