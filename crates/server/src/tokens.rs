//! Access tokens: JWTs signed with Ed25519 by one key of the server, which rotates with overlap.
//!
//! The compact form is made here and not by a library: the key provider signs and shows no
//! private key, and a verifier that knows one algorithm cannot be talked into another.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use kernel::ids::{EnvironmentId, PrincipalId, TenantId, WorkspaceId};
use kernel::receipt::SYSTEM;
use kernel::values::{Digest, Timestamp};
use kernel::verify::SignatureVerifier as _;
use ledger::keys::{NativeVerifier, NoteSigner};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::error::{Refused, Result};
use crate::limits;
use crate::shared::Shared;

/// The one algorithm.
const ALGORITHM: &str = "EdDSA";
/// What a token is, by RFC 9068.
const TYPE: &str = "at+jwt";

/// One principal of a token's chain, and the API key or session that it proved itself with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) principal: PrincipalId,
    pub(crate) base: String,
}

/// What a token says.
#[derive(Clone, Debug)]
pub(crate) struct Claims {
    pub(crate) id: String,
    pub(crate) audience: String,
    pub(crate) tenant: TenantId,
    pub(crate) workspace: WorkspaceId,
    pub(crate) environment: EnvironmentId,
    /// The delegating principal first, the acting one last.
    pub(crate) links: Vec<Link>,
    pub(crate) scope: BTreeSet<String>,
    pub(crate) expires_at: Timestamp,
    /// The number of the key that signed it.
    generation: u32,
}

impl Claims {
    pub(crate) fn new(
        place: (TenantId, WorkspaceId, EnvironmentId),
        links: Vec<Link>,
        scope: BTreeSet<String>,
        audience: String,
        expires_at: Timestamp,
    ) -> Self {
        let (tenant, workspace, environment) = place;
        let id = crate::shared::new_id("tok");
        let generation = 0;
        let whole = Self {
            id,
            audience,
            tenant,
            workspace,
            environment,
            links,
            scope,
            expires_at,
            generation,
        };
        // A token's times are seconds: it never ends later than what it rests on.
        Self { expires_at: Timestamp(seconds(expires_at).saturating_mul(1_000_000)), ..whole }
    }
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    typ: String,
    kid: String,
}

/// The claims on the wire: RFC 9068, with `act` of RFC 8693.
#[derive(Serialize, Deserialize)]
struct Payload {
    iss: String,
    sub: String,
    aud: String,
    exp: i64,
    iat: i64,
    jti: String,
    client_id: String,
    tenant: String,
    workspace: String,
    environment: String,
    scope: String,
    sid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    act: Option<Box<Act>>,
}

/// Who acts; inside it, who acted before.
#[derive(Serialize, Deserialize)]
struct Act {
    sub: String,
    sid: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    act: Option<Box<Act>>,
}

/// A key that tokens are verified with, as RFC 8037 writes it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Jwk {
    kty: &'static str,
    crv: &'static str,
    x: String,
    kid: String,
    alg: &'static str,
    #[serde(rename = "use")]
    usage: &'static str,
}

/// Issues and verifies tokens.
pub(crate) struct Tokens {
    issuer: String,
    /// The resource that is `/mcp`.
    mcp: String,
    /// Tokens whose signatures were verified, by their digests.
    known: Mutex<HashMap<Digest, Arc<Claims>>>,
}

fn seconds(at: Timestamp) -> i64 {
    at.0.div_euclid(1_000_000)
}

fn encode(part: &impl Serialize) -> Result<String> {
    Ok(BASE64URL.encode(serde_json::to_vec(part).map_err(Refused::internal)?))
}

fn decode<T: for<'de> Deserialize<'de>>(part: &str) -> Option<T> {
    serde_json::from_slice(&BASE64URL.decode(part).ok()?).ok()
}

/// The key of that number. Its name is none that a log can have.
fn signer(shared: &Shared, generation: u32) -> Result<Arc<dyn NoteSigner>> {
    let ledger = &shared.control.ledger;
    let name = format!("{}/{SYSTEM}/tokens/{generation}", ledger.host());
    Ok(ledger.keys().note(SYSTEM, &name)?)
}

/// The id of a key: its thumbprint by RFC 7638.
fn key_id(public: &[u8; 32]) -> String {
    let x = BASE64URL.encode(public);
    let thumb = format!("{{\"crv\":\"Ed25519\",\"kty\":\"OKP\",\"x\":\"{x}\"}}");
    BASE64URL.encode(Digest::of(thumb.as_bytes()).0)
}

impl Tokens {
    pub(crate) fn new(issuer: String) -> Self {
        let mcp = format!("{issuer}{}", crate::mcp::auth::DOOR.path);
        Self { issuer, mcp, known: Mutex::default() }
    }

    /// Who issues tokens, and whom they are for where they say nothing else.
    pub(crate) fn issuer(&self) -> &str {
        &self.issuer
    }

    /// The audience of tokens that are for `/mcp` alone.
    pub(crate) fn mcp(&self) -> &str {
        &self.mcp
    }

    /// The keys that verify tokens, the one that signs first.
    pub(crate) fn key_set(shared: &Shared) -> Result<Vec<Jwk>> {
        let accepted = shared.control.directory.token_key().accepted(shared.now());
        accepted
            .map(|generation| {
                let signer = signer(shared, generation)?;
                let public = signer.verifier_key().public();
                let (x, kid) = (BASE64URL.encode(public), key_id(public));
                let (kty, crv) = ("OKP", "Ed25519");
                Ok(Jwk { kty, crv, x, kid, alg: ALGORITHM, usage: "sig" })
            })
            .collect()
    }

    /// The id of the key that signs.
    pub(crate) fn signing_key_id(shared: &Shared) -> Result<String> {
        let generation = shared.control.directory.token_key().generation;
        Ok(key_id(signer(shared, generation)?.verifier_key().public()))
    }

    /// Signs a token.
    pub(crate) fn issue(&self, shared: &Shared, claims: &Claims) -> Result<String> {
        let signer = signer(shared, shared.control.directory.token_key().generation)?;
        let (alg, typ) = (ALGORITHM.to_owned(), TYPE.to_owned());
        let header = Header { alg, typ, kid: key_id(signer.verifier_key().public()) };
        let mut links = claims.links.iter();
        let first = links.next().ok_or_else(|| Refused::internal("a token of nobody"))?;
        let acting = claims.links.last().unwrap_or(first);
        let act = links.fold(None, |act, link| {
            let (sub, sid) = (link.principal.to_string(), link.base.clone());
            Some(Box::new(Act { sub, sid, act }))
        });
        let scope: Vec<&str> = claims.scope.iter().map(String::as_str).collect();
        let payload = Payload {
            iss: self.issuer.clone(),
            sub: first.principal.to_string(),
            aud: claims.audience.clone(),
            exp: seconds(claims.expires_at),
            iat: seconds(shared.now()),
            jti: claims.id.clone(),
            client_id: acting.base.clone(),
            tenant: claims.tenant.to_string(),
            workspace: claims.workspace.to_string(),
            environment: claims.environment.to_string(),
            scope: scope.join(" "),
            sid: first.base.clone(),
            act,
        };
        let message = format!("{}.{}", encode(&header)?, encode(&payload)?);
        let signature = signer.sign(message.as_bytes())?;
        Ok(format!("{message}.{}", BASE64URL.encode(signature)))
    }

    /// What a token says, where it is one of ours, for us or a part of us, and not over. Whether
    /// that still holds (of principals, keys, sessions), and whether it is for the part where it
    /// is shown, is asked elsewhere, each time.
    pub(crate) fn verify(&self, shared: &Shared, token: &str) -> Option<Arc<Claims>> {
        if token.len() > limits::TOKEN_BYTES_MAX {
            return None;
        }
        let now = shared.now();
        let accepted = || shared.control.directory.token_key().accepted(now);
        let current = |claims: &Claims| {
            now < claims.expires_at && accepted().any(|known| known == claims.generation)
        };
        let digest = Digest::of(token.as_bytes());
        let known = self.known.lock().get(&digest).cloned();
        let claims = match known {
            Some(claims) => claims,
            None => {
                let claims = accepted().find_map(|generation| self.open(shared, generation, token));
                let claims = Arc::new(claims?);
                self.keep(digest, &claims, now);
                claims
            }
        };
        current(&claims).then_some(claims)
    }

    fn keep(&self, digest: Digest, claims: &Arc<Claims>, now: Timestamp) {
        let mut known = self.known.lock();
        if known.len() >= limits::TOKENS_KNOWN_MAX {
            known.retain(|_, claims| now < claims.expires_at);
        }
        // Full of tokens that are all good: the next ones are verified each time.
        if known.len() < limits::TOKENS_KNOWN_MAX && now < claims.expires_at {
            known.insert(digest, claims.clone());
        }
    }

    /// The claims of a token that the key of that number signed.
    fn open(&self, shared: &Shared, generation: u32, token: &str) -> Option<Claims> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, payload) = message.split_once('.')?;
        let header: Header = decode(header)?;
        let signer = signer(shared, generation).ok()?;
        let public = signer.verifier_key().public();
        let ours = header.alg == ALGORITHM && header.typ == TYPE && header.kid == key_id(public);
        let signature = BASE64URL.decode(signature).ok()?;
        if !ours || !NativeVerifier.ed25519(public, message.as_bytes(), &signature) {
            return None;
        }
        let payload: Payload = decode(payload)?;
        if payload.iss != self.issuer || ![&self.issuer, &self.mcp].contains(&&payload.aud) {
            return None;
        }
        claims(payload, generation)
    }
}

fn claims(payload: Payload, generation: u32) -> Option<Claims> {
    let link =
        |sub: String, base: String| Some(Link { principal: PrincipalId::new(sub).ok()?, base });
    let mut links = Vec::new();
    let mut next = payload.act;
    while let Some(act) = next {
        links.push(link(act.sub, act.sid)?);
        next = act.act;
    }
    links.push(link(payload.sub, payload.sid)?);
    links.reverse();
    Some(Claims {
        id: payload.jti,
        audience: payload.aud,
        tenant: TenantId::new(payload.tenant).ok()?,
        workspace: WorkspaceId::new(payload.workspace).ok()?,
        environment: EnvironmentId::new(payload.environment).ok()?,
        links,
        scope: payload.scope.split(' ').filter(|s| !s.is_empty()).map(str::to_owned).collect(),
        expires_at: Timestamp(payload.exp.saturating_mul(1_000_000)),
        generation,
    })
}
