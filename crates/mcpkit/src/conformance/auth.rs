//! The scenarios of authorisation. The person at the browser is this program.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use connectors::SystemResolver;
use connectors::mcp::auth::{
    self, Algorithm, AuthParts, AuthSpec, Browser, ClientCredentials, Login, SecretRef, TokenStore,
};
use connectors::mcp::{Parts, Secrets, Spec, Upstream};
use http_body_util::Empty;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kernel::failure::{Category, Failure};
use zeroize::Zeroizing;

use super::plain;
use super::program::Context;

/// The document of the client, as the suite knows it.
const METADATA: &str = "https://conformance-test.local/client-metadata.json";
/// Where the suite sends people back to.
const REDIRECT: &str = "http://localhost:3000/callback";
/// How often a scenario works with its server: one of them has the server move meanwhile.
const ROUNDS: usize = 3;

/// Follows where it is sent, as far as the redirect.
struct Headless;

#[async_trait]
impl Browser for Headless {
    fn redirect_uri(&self) -> String {
        REDIRECT.to_owned()
    }

    async fn visit(&self, address: &str) -> Result<String, Failure> {
        let failed = |why: String| Failure::new(Category::Upstream, "browser", why);
        let address = address.parse().map_err(|_| failed("this is no URL".to_owned()))?;
        let client: Client<HttpConnector, Empty<Bytes>> =
            Client::builder(TokioExecutor::new()).build_http();
        let answer = client.get(address).await.map_err(|error| failed(error.to_string()))?;
        let location = answer.headers().get("location").and_then(|value| value.to_str().ok());
        location.map(str::to_owned).ok_or_else(|| failed("no redirect".to_owned()))
    }
}

/// Tokens in memory: the suite's last as long as this program.
#[derive(Default)]
struct Memory(Mutex<Option<(u64, String)>>);

#[async_trait]
impl TokenStore for Memory {
    fn version(&self) -> Option<u64> {
        self.0.lock().unwrap().as_ref().map(|(version, _)| *version)
    }

    fn load(&self) -> Result<Option<Zeroizing<String>>, Failure> {
        Ok(self.0.lock().unwrap().as_ref().map(|(_, text)| Zeroizing::new(text.clone())))
    }

    async fn save(&self, text: &str, _by: Option<&str>) -> Result<u64, Failure> {
        let mut kept = self.0.lock().unwrap();
        let version = kept.as_ref().map_or(1, |(version, _)| version + 1);
        *kept = Some((version, text.to_owned()));
        Ok(version)
    }
}

/// The secrets that the suite tells.
struct Told(BTreeMap<&'static str, String>);

impl Secrets for Told {
    fn reveal(&self, name: &str) -> Result<Zeroizing<String>, Failure> {
        let value = self.0.get(name).cloned().map(Zeroizing::new);
        value.ok_or_else(|| Failure::new(Category::Permanent, "secret_missing", name))
    }
}

fn secret(name: &str) -> Option<SecretRef> {
    SecretRef::try_from(format!("${{secret:{name}}}")).ok()
}

fn auth_spec(scenario: &str, context: &Context) -> AuthSpec {
    let client_id = context.client_id.clone();
    let has_secret = context.client_secret.is_some();
    if scenario.starts_with("auth/client-credentials") {
        let algorithm = match context.signing_algorithm.as_deref() {
            Some("ES384") => Algorithm::ES384,
            Some("RS256") => Algorithm::RS256,
            _ => Algorithm::ES256,
        };
        return AuthSpec::ClientCredentials(ClientCredentials {
            client_id: client_id.unwrap_or_default(),
            client_secret: secret("client").filter(|_| has_secret),
            private_key: secret("key").filter(|_| !has_secret),
            algorithm: (!has_secret).then_some(algorithm),
            scopes: Vec::new(),
            token_endpoint: None,
            issuer: None,
        });
    }
    AuthSpec::Oauth(Login {
        client_secret: secret("client").filter(|_| has_secret && client_id.is_some()),
        client_id,
        client_metadata_url: Some(METADATA.to_owned()),
        ..Login::default()
    })
}

pub(crate) async fn run(scenario: &str, url: &str, context: &Context) -> Result<(), String> {
    let spec = Spec { auth: auth_spec(scenario, context), ..plain::spec(url) };
    let told =
        [("client", context.client_secret.clone()), ("key", context.private_key_pem.clone())];
    let told = told.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let secrets: Arc<dyn Secrets> = Arc::new(Told(told));
    let made = auth::authorization(
        &spec.auth,
        AuthParts {
            name: spec.name.clone(),
            url: url.to_owned(),
            private: true,
            resolver: Arc::new(SystemResolver),
            extra_ca_pem: None,
            secrets: secrets.clone(),
            tokens: Arc::new(Memory::default()),
            browser: Some(Arc::new(Headless)),
        },
    );
    let authorizer = made.map_err(|failure| failure.to_string())?.map(|made| made.authorizer);
    let parts = Parts { secrets, authorizer, ..Parts::default() };
    let upstream = Upstream::new(spec, parts).map_err(|error| error.to_string())?;
    let mut worked = Ok(());
    for _ in 0..ROUNDS {
        worked = plain::call_all(&upstream, context).await;
        if worked.is_err() {
            break;
        }
    }
    upstream.close().await;
    worked
}
