//! Logging in: to the provider, back again, and into a session.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::response::{IntoResponse as _, Response};
use http::{HeaderMap, Method, StatusCode};
use kernel::failure::Failure;
use kernel::ids::PrincipalId;
use kernel::receipt::LogId;
use ledger::Batch;
use serde::{Deserialize, Serialize};
use url::Url;

use super::admit::{admit, once, was_used};
use super::error::{Error, Result};
use super::page::{self, LOGIN_COOKIE, cookie, cookie_of};
use super::provider::{Provider, Question};
use super::sealed::{self, Begun, Code, Program, challenge, random, same};
use super::{CALLBACK, Oidc};
use crate::credentials;
use crate::limits;
use crate::sessions::{self, Opened};

type Params = BTreeMap<String, String>;

/// The parameters of a query, each at most once.
fn params(query: Option<String>) -> Result<Params> {
    let mut params = Params::new();
    for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
        if params.insert(name.into_owned(), value.into_owned()).is_some() {
            return Err(Error::Invalid("a parameter is given twice"));
        }
    }
    Ok(params)
}

fn get<'a>(params: &'a Params, name: &str) -> Option<&'a str> {
    params.get(name).map(String::as_str)
}

fn answer(answered: Result<Response>, headers: &HeaderMap) -> Response {
    answered.unwrap_or_else(|error| page::refuse(Failure::from(error), headers))
}

/// `GET /auth/login`: sends a browser to a provider.
pub(super) async fn login(
    State(oidc): State<Oidc>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    answer(oidc.begin(query).await, &headers)
}

/// `GET /auth/callback`: takes a provider's answer.
pub(super) async fn callback(
    State(oidc): State<Oidc>,
    headers: HeaderMap,
    RawQuery(query): RawQuery,
) -> Response {
    let mut response = answer(oidc.end(&headers, query).await, &headers);
    // A login has one answer, whichever it was.
    let forget = cookie(LOGIN_COOKIE, "", "/auth", 0, oidc.is_secure());
    if let Ok(forget) = forget.parse() {
        response.headers_mut().append(http::header::SET_COOKIE, forget);
    }
    response
}

/// `POST /auth/cli-token`: gives a program what its login came to.
pub(super) async fn cli_token(
    State(oidc): State<Oidc>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    answer(oidc.redeem(&body).await, &headers)
}

/// `POST /auth/logout`: ends the session that the request speaks for.
pub(super) async fn logout(
    State(oidc): State<Oidc>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    answer(oidc.log_out(&method, &headers).await, &headers)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Redeem {
    code: String,
    code_verifier: String,
}

#[derive(Serialize)]
struct Redeemed<'a> {
    key: String,
    /// A short access token, for programs that pass something on.
    access_token: String,
    token_expires_at: proto::wire::Timestamp,
    session_id: String,
    expires_at: proto::wire::Timestamp,
    tenant: &'a str,
    workspace: &'a str,
    environment: &'a str,
    principal_id: String,
}

impl Oidc {
    /// Whether browsers reach us by https, so that cookies need not go over anything else.
    fn is_secure(&self) -> bool {
        self.shared.tokens.issuer().starts_with("https://")
    }

    fn redirect_uri(&self) -> String {
        format!("{}{CALLBACK}", self.shared.tokens.issuer())
    }

    /// The provider of that name, or the only one.
    fn provider(&self, name: Option<&str>) -> Result<&Provider> {
        let found = match (name, self.providers.as_slice()) {
            (None, [one]) => Some(one),
            (None, _) => None,
            (Some(name), all) => all.iter().find(|provider| provider.settings.name == name),
        };
        let names = || self.providers.iter().map(|p| p.settings.name.as_str()).collect::<Vec<_>>();
        found.ok_or_else(|| Error::UnknownProvider(names().join(", ")))
    }

    /// Takes one login from the allowance that all share: who logs in is not known yet.
    fn take(&self, bucket: &str) -> Result<()> {
        let taken = self.rates.take(bucket, limits::LOGINS_PER_MIN, self.shared.now());
        taken.map(drop).map_err(|(_, wait_ms)| Error::Busy(wait_ms))
    }

    async fn begin(&self, query: Option<String>) -> Result<Response> {
        self.take("login")?;
        let params = params(query)?;
        let provider = self.provider(get(&params, "provider"))?;
        let begun = Begun {
            provider: provider.settings.name.clone(),
            state: random()?,
            nonce: random()?,
            verifier: random()?,
            return_to: page::return_to(get(&params, "return_to"), self.shared.tokens.issuer())?,
            program: program(&params)?,
            until: self.shared.now().plus_micros(limits::LOGIN_S_MAX * 1_000_000),
        };
        let question = Question {
            redirect_uri: &self.redirect_uri(),
            state: &begun.state,
            nonce: &begun.nonce,
            challenge: &challenge(&begun.verifier),
        };
        let url = provider.authorization_url(&question).await?;
        let sealed = sealed::seal(self.shared.control.ledger.keys().as_ref(), &begun)?;
        let age = limits::LOGIN_S_MAX;
        let kept = cookie(LOGIN_COOKIE, &sealed, "/auth", age, self.is_secure());
        page::redirect(url.as_str(), &[kept])
    }

    async fn end(&self, headers: &HeaderMap, query: Option<String>) -> Result<Response> {
        self.take("callback")?;
        let params = params(query)?;
        let sealed = cookie_of(headers, LOGIN_COOKIE).ok_or(Error::NotBegun)?;
        let keys = self.shared.control.ledger.keys();
        let begun: Option<Begun> = sealed::open(keys.as_ref(), sealed, self.shared.now())?;
        let begun = begun.ok_or(Error::NotBegun)?;
        if !same(get(&params, "state").unwrap_or_default(), &begun.state) {
            return Err(Error::OtherLogin);
        }
        // From here on it is the program's login that fails, and the program is told.
        match (self.complete(&begun, &params).await, &begun.program) {
            (Err(error), Some(program)) => refuse_program(program, Failure::from(error)),
            (completed, _) => completed,
        }
    }

    /// Verifies the provider's answer and opens a session.
    async fn complete(&self, begun: &Begun, params: &Params) -> Result<Response> {
        let provider = self.provider(Some(&begun.provider))?;
        provider.check_iss(get(params, "iss")).await?;
        if let Some(error) = get(params, "error") {
            let plain = |b: u8| b.is_ascii_lowercase() || b == b'_';
            let error = if error.bytes().all(plain) { error } else { "an error" };
            let (provider, error) = (begun.provider.clone(), error.chars().take(64).collect());
            return Err(Error::Denied { provider, error });
        }
        let code = get(params, "code").ok_or(Error::Invalid("`code` is missing"))?;
        let tokens = provider.redeem(code, &begun.verifier, &self.redirect_uri()).await?;
        let person = provider.person(&tokens, &begun.nonce, self.shared.wall()).await?;
        let principal = admit(&self.shared, &provider.settings, &person, &begun.state).await?;
        if let Some(program) = &begun.program {
            return self.hand_over(begun, program, principal);
        }
        let opened = self.open_session(provider, &principal).await?;
        let age = i64::from(provider.settings.session_s);
        let session = cookie(sessions::COOKIE, &opened.secret, "/", age, self.is_secure());
        page::redirect(&begun.return_to, &[session])
    }

    async fn open_session(&self, provider: &Provider, principal: &PrincipalId) -> Result<Opened> {
        let settings = &provider.settings;
        let method = format!("oidc:{}", settings.name);
        let opened = sessions::open_session(
            &self.shared,
            &settings.tenant,
            principal,
            &settings.workspace,
            &settings.environment,
            &method,
            Duration::from_secs(settings.session_s.into()),
        );
        Ok(opened.await?)
    }

    /// Sends the browser to the program that waits, with a code that is of no use to others.
    fn hand_over(
        &self,
        begun: &Begun,
        program: &Program,
        principal: PrincipalId,
    ) -> Result<Response> {
        let code = Code {
            id: random()?,
            provider: begun.provider.clone(),
            principal,
            challenge: program.challenge.clone(),
            until: self.shared.now().plus_micros(limits::CLI_CODE_S_MAX * 1_000_000),
        };
        let sealed = sealed::seal(self.shared.control.ledger.keys().as_ref(), &code)?;
        to_program(program, &[("code", &sealed)])
    }

    /// Opens the session of a program's login, for the one that holds the verifier, once.
    async fn redeem(&self, body: &[u8]) -> Result<Response> {
        self.take("cli-token")?;
        let form = |_| Error::Invalid("send JSON: code and code_verifier");
        let Redeem { code, code_verifier } = serde_json::from_slice(body).map_err(form)?;
        let keys = self.shared.control.ledger.keys();
        let code: Option<Code> = sealed::open(keys.as_ref(), &code, self.shared.now())?;
        let code = code.ok_or(Error::CodeRefused)?;
        if !same(&challenge(&code_verifier), &code.challenge) {
            return Err(Error::CodeRefused);
        }
        let provider = self.provider(Some(&code.provider))?;
        let settings = &provider.settings;
        let until = code.until.plus_micros(limits::CLI_CODE_S_MAX * 1_000_000);
        let log = LogId::Control(settings.tenant.clone());
        let batch = Batch::new(log, vec![once("oidc.code", &code.id, until)]);
        match self.shared.control.ledger.commit(batch).await {
            Ok(_) => {}
            Err(error) if was_used(&error) => return Err(Error::CodeRefused),
            Err(error) => return Err(error.into()),
        }
        let opened = self.open_session(provider, &code.principal).await?;
        let redeemed = Redeemed {
            key: opened.secret,
            access_token: opened.access_token,
            token_expires_at: proto::wire::Timestamp::from_micros(opened.token_expires_at.0),
            session_id: opened.session_id,
            expires_at: proto::wire::Timestamp::from_micros(opened.expires_at.0),
            tenant: settings.tenant.as_str(),
            workspace: settings.workspace.as_str(),
            environment: settings.environment.as_str(),
            principal_id: code.principal.to_string(),
        };
        Ok(page::private(Json(redeemed).into_response()))
    }

    async fn log_out(&self, method: &Method, headers: &HeaderMap) -> Result<Response> {
        self.take("logout")?;
        let shared = &self.shared;
        let text = match crate::auth::credential(headers) {
            Some(text) => Some(text),
            None => {
                let text = sessions::cookie(headers);
                if text.is_some() {
                    sessions::same_site(shared, method, headers).map_err(Error::Other)?;
                }
                text
            }
        };
        let read = text.and_then(|text| credentials::read(shared, text));
        let read = read.ok_or_else(credentials::invalid).map_err(Error::Other)?;
        let holder = credentials::holder(shared, &read).map_err(Error::Other)?;
        if !holder.base.starts_with("ses_") {
            return Err(Error::Invalid("this is no session: revoke an API key instead"));
        }
        let (caller, base) = (&holder.caller, &holder.base);
        sessions::end_session(shared, &caller.tenant, base, &caller.id).await?;
        let mut response = StatusCode::NO_CONTENT.into_response();
        let forget = cookie(sessions::COOKIE, "", "/", 0, self.is_secure());
        if let Ok(forget) = forget.parse() {
            response.headers_mut().insert(http::header::SET_COOKIE, forget);
        }
        Ok(page::private(response))
    }
}

/// The program that waits for this login, where one does.
fn program(params: &Params) -> Result<Option<Program>> {
    let Some(port) = get(params, "cli_port") else { return Ok(None) };
    let wrong = || Error::Invalid("cli_port, code_challenge (S256) and state belong together");
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(wrong)?;
    let text = |name: &str, lengths: std::ops::RangeInclusive<usize>| {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        let value =
            get(params, name).filter(|v| lengths.contains(&v.len()) && v.bytes().all(plain));
        value.map(str::to_owned).ok_or_else(wrong)
    };
    let (challenge, state) = (text("code_challenge", 43..=43)?, text("state", 16..=128)?);
    Ok(Some(Program { port, challenge, state }))
}

/// A redirect to the program on the person's own machine.
fn to_program(program: &Program, say: &[(&str, &str)]) -> Result<Response> {
    let url = format!("http://127.0.0.1:{}/", program.port);
    let mut url = Url::parse(&url).map_err(crate::error::Refused::internal)?;
    url.query_pairs_mut().extend_pairs(say).append_pair("state", &program.state);
    page::redirect(url.as_str(), &[])
}

fn refuse_program(program: &Program, failure: Failure) -> Result<Response> {
    to_program(program, &[("error", &failure.code), ("error_description", &failure.message)])
}
