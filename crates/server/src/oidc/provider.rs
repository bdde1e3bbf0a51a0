//! One provider: what it says of itself, its keys, and the two calls that a login takes.

use std::sync::Arc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use form_urlencoded::{Serializer, byte_serialize};
use http::StatusCode;
use kernel::values::Timestamp;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use tokio::sync::Mutex;
use url::Url;
use zeroize::Zeroizing;

use super::claims::{self, Expected, Person};
use super::error::{Error, Result};
use super::fetch::{Answer, Fetch};
use super::jws::{self, Key};
use super::settings::{self, is_local, may_call};
use crate::limits;
use crate::rate::Rates;

/// A provider that people log in with.
pub(super) struct Provider {
    pub(super) settings: settings::Provider,
    secret: Option<Zeroizing<String>>,
    fetch: Fetch,
    /// Held while it is asked: one question at a time, whoever waits gets the same answer.
    known: Mutex<Known>,
    /// How often its keys are read again.
    refetches: Rates,
}

#[derive(Default)]
struct Known {
    metadata: Option<(Instant, Arc<Metadata>)>,
    keys: Option<(Instant, Arc<Vec<Key>>)>,
    failed: Option<(Instant, String)>,
}

/// What a provider says of itself, as far as a login needs it.
#[derive(Debug, Deserialize)]
pub(super) struct Metadata {
    issuer: String,
    #[serde(deserialize_with = "url")]
    authorization_endpoint: Url,
    #[serde(deserialize_with = "url")]
    token_endpoint: Url,
    #[serde(deserialize_with = "url")]
    jwks_uri: Url,
    #[serde(default, deserialize_with = "optional_url")]
    userinfo_endpoint: Option<Url>,
    #[serde(default)]
    authorization_response_iss_parameter_supported: bool,
}

fn url<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Url, D::Error> {
    Url::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
}

fn optional_url<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<Option<Url>, D::Error> {
    url(deserializer).map(Some)
}

/// What a login asks a provider.
pub(super) struct Question<'a> {
    pub(super) redirect_uri: &'a str,
    pub(super) state: &'a str,
    pub(super) nonce: &'a str,
    pub(super) challenge: &'a str,
}

/// What a provider gives for a code.
#[derive(Deserialize)]
pub(super) struct Tokens {
    id_token: String,
    access_token: Option<String>,
}

/// How a provider refuses, by RFC 6749 §5.2.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Provider {
    pub(super) fn new(
        settings: settings::Provider,
        secret: Option<Zeroizing<String>>,
        fetch: Fetch,
    ) -> Self {
        let (known, refetches) = (Mutex::default(), Rates::default());
        Self { settings, secret, fetch, known, refetches }
    }

    fn unavailable(&self, reason: impl Into<String>) -> Error {
        Error::Unavailable { provider: self.settings.name.clone(), reason: reason.into() }
    }

    fn misbehaves(&self, reason: impl Into<String>) -> Error {
        Error::Misbehaves { provider: self.settings.name.clone(), reason: reason.into() }
    }

    /// The body of an answer that must be good.
    fn good(&self, answer: Answer) -> Result<Answer> {
        match answer.status {
            StatusCode::OK => Ok(answer),
            status if status.is_server_error() => Err(self.unavailable(status.to_string())),
            status => Err(self.misbehaves(format!("status {status}"))),
        }
    }

    /// Reads a document of the provider's, unless it has just failed to answer.
    async fn read(&self, known: &mut Known, url: &Url) -> Result<Answer> {
        if let Some((_, reason)) =
            known.failed.as_ref().filter(|(at, _)| at.elapsed() < limits::PROVIDER_REST)
        {
            return Err(self.unavailable(reason.clone()));
        }
        match self.fetch.get(url, None).await {
            Ok(answer) => {
                known.failed = None;
                self.good(answer)
            }
            Err(reason) => {
                known.failed = Some((Instant::now(), reason.clone()));
                Err(self.unavailable(reason))
            }
        }
    }

    /// What the provider says of itself, by OpenID Connect Discovery.
    pub(super) async fn metadata(&self) -> Result<Arc<Metadata>> {
        let mut known = self.known.lock().await;
        if let Some((at, metadata)) = &known.metadata
            && at.elapsed() < limits::PROVIDER_KNOWN
        {
            return Ok(metadata.clone());
        }
        let issuer = self.settings.issuer.trim_end_matches('/');
        let url = format!("{issuer}/.well-known/openid-configuration");
        let url = Url::parse(&url).map_err(|error| self.misbehaves(error.to_string()))?;
        let answer = self.read(&mut known, &url).await?;
        let metadata: Metadata = serde_json::from_slice(&answer.body)
            .map_err(|error| self.misbehaves(format!("its metadata: {error}")))?;
        self.check(&metadata, is_local(&url))?;
        let metadata = Arc::new(metadata);
        known.metadata = Some((Instant::now(), metadata.clone()));
        Ok(metadata)
    }

    fn check(&self, metadata: &Metadata, local: bool) -> Result<()> {
        if metadata.issuer != self.settings.issuer {
            return Err(self.misbehaves("it calls itself by another issuer"));
        }
        let Metadata { authorization_endpoint, token_endpoint, jwks_uri, .. } = metadata;
        let mut called = [authorization_endpoint, token_endpoint, jwks_uri]
            .into_iter()
            .chain(&metadata.userinfo_endpoint);
        if called.any(|url| !may_call(url, local)) {
            return Err(self.misbehaves("an endpoint is not https"));
        }
        Ok(())
    }

    async fn keys(&self, again: bool) -> Result<Arc<Vec<Key>>> {
        let metadata = self.metadata().await?;
        let mut known = self.known.lock().await;
        if let Some((at, keys)) = &known.keys
            && !again
            && at.elapsed() < limits::PROVIDER_KNOWN
        {
            return Ok(keys.clone());
        }
        let answer = self.read(&mut known, &metadata.jwks_uri).await?;
        let keys = jws::keys(&answer.body).ok_or_else(|| self.misbehaves("its key set"))?;
        let keys = Arc::new(keys);
        known.keys = Some((Instant::now(), keys.clone()));
        Ok(keys)
    }

    /// Where the person's browser is sent.
    pub(super) async fn authorization_url(&self, question: &Question<'_>) -> Result<Url> {
        let mut url = self.metadata().await?.authorization_endpoint.clone();
        let mut scopes = vec!["openid"];
        let further = self.settings.scopes.iter().map(String::as_str);
        scopes.extend(further.filter(|scope| *scope != "openid"));
        url.query_pairs_mut()
            .append_pair("response_type", "code")
            .append_pair("client_id", &self.settings.client_id)
            .append_pair("redirect_uri", question.redirect_uri)
            .append_pair("scope", &scopes.join(" "))
            .append_pair("state", question.state)
            .append_pair("nonce", question.nonce)
            .append_pair("code_challenge", question.challenge)
            .append_pair("code_challenge_method", "S256");
        Ok(url)
    }

    /// Checks who says that it answers (RFC 9207): nobody takes one provider's code to another.
    pub(super) async fn check_iss(&self, iss: Option<&str>) -> Result<()> {
        let said = match iss {
            Some(iss) => iss == self.settings.issuer,
            None => !self.metadata().await?.authorization_response_iss_parameter_supported,
        };
        if said { Ok(()) } else { Err(Error::OtherProvider) }
    }

    /// What the provider gives for `code`.
    pub(super) async fn redeem(
        &self,
        code: &str,
        verifier: &str,
        redirect_uri: &str,
    ) -> Result<Tokens> {
        let metadata = self.metadata().await?;
        let client = self.secret.is_none().then_some(("client_id", &*self.settings.client_id));
        let fields = [
            ("grant_type", "authorization_code"),
            ("code", code),
            ("redirect_uri", redirect_uri),
            ("code_verifier", verifier),
        ];
        let fields = fields.into_iter().chain(client);
        let form = Serializer::new(String::new()).extend_pairs(fields).finish();
        let authorization =
            self.secret.as_ref().map(|secret| basic(&self.settings.client_id, secret));
        let sent = self.fetch.post(&metadata.token_endpoint, authorization, form).await;
        let answer = sent.map_err(|reason| self.unavailable(reason))?;
        if answer.status.is_client_error() {
            let refusal: Option<Refusal> = serde_json::from_slice(&answer.body).ok();
            return Err(match refusal.as_ref().map(|refusal| refusal.error.as_str()) {
                Some("invalid_grant") => Error::CodeRefused,
                Some("invalid_client" | "unauthorized_client") => {
                    self.misbehaves("it refuses our client_id or secret")
                }
                _ => self.misbehaves(format!("status {} for a code", answer.status)),
            });
        }
        let answer = self.good(answer)?;
        serde_json::from_slice(&answer.body)
            .map_err(|_| self.misbehaves("its answer to a code has no ID token"))
    }

    /// The person whom `tokens` are about.
    pub(super) async fn person(
        &self,
        tokens: &Tokens,
        nonce: &str,
        now: Timestamp,
    ) -> Result<Person> {
        let payload = self.verified(&tokens.id_token, now).await?;
        let expected = Expected {
            issuer: &self.settings.issuer,
            client_id: &self.settings.client_id,
            nonce,
            now: now.0.div_euclid(1_000_000),
        };
        let (subject, mut claims) = claims::check(&payload, &expected)?;
        let path = self.settings.roles_claim.as_deref();
        let person = Person::new(subject, &claims, path);
        let named = ["name", "preferred_username", "email"].iter().any(|c| claims.contains_key(*c));
        if named && (path.is_none() || person.groups.is_some()) {
            return Ok(person);
        }
        // Many providers say the rest only when asked for it.
        for (name, value) in self.userinfo(tokens, &person.subject).await? {
            claims.entry(name).or_insert(value);
        }
        Ok(Person::new(person.subject, &claims, path))
    }

    /// The payload of the ID token. A key that is not known yet has the keys read again.
    async fn verified(&self, token: &str, now: Timestamp) -> Result<Vec<u8>> {
        let mut verified = jws::verify(token, &self.keys(false).await?);
        let again = || self.refetches.take("", limits::PROVIDER_KEYS_PER_MIN, now).is_ok();
        if verified == Err(jws::Error::UnknownKey) && again() {
            verified = jws::verify(token, &self.keys(true).await?);
        }
        verified.map_err(|error| {
            Error::IdToken(match error {
                jws::Error::Malformed => "it is malformed",
                jws::Error::Algorithm => "it is not signed by RS256, ES256 or EdDSA",
                jws::Error::UnknownKey => "the provider does not publish the key that signed it",
                jws::Error::Signature => "its signature is wrong",
            })
        })
    }

    async fn userinfo(&self, tokens: &Tokens, subject: &str) -> Result<Map<String, Value>> {
        let metadata = self.metadata().await?;
        let asked = metadata.userinfo_endpoint.as_ref().zip(tokens.access_token.as_ref());
        let Some((url, token)) = asked else { return Ok(Map::new()) };
        let answer = self.fetch.get(url, Some(token)).await;
        let answer = self.good(answer.map_err(|reason| self.unavailable(reason))?)?;
        let claims: Map<String, Value> = serde_json::from_slice(&answer.body)
            .map_err(|_| self.misbehaves("its userinfo is no JSON object"))?;
        if claims.get("sub").and_then(Value::as_str) != Some(subject) {
            return Err(self.misbehaves("its userinfo is about somebody else"));
        }
        Ok(claims)
    }
}

/// `client_secret_basic`: both parts are form-encoded first (RFC 6749 §2.3.1).
fn basic(id: &str, secret: &str) -> String {
    let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
    let pair = Zeroizing::new(format!("{}:{}", encoded(id), encoded(secret)));
    format!("Basic {}", BASE64.encode(pair.as_bytes()))
}
