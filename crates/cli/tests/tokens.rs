//! Access tokens: who gets one, what it is good for, and what is none.

use std::collections::BTreeSet;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD as BASE64URL};
use client::Client;
use client::oauth::{ACCESS_TOKEN, TOKEN_EXCHANGE};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use proto::actions::action::State;
use proto::actions::{Action, SubmitActionRequest};
use proto::approvals::{Choice, DecideApprovalRequest};
use proto::identity::principal::Kind;
use proto::identity::{CreateKeyRequest, CreatePrincipalRequest, CreateTenantRequest};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::wire::{Reply, Wire};
use crate::common::{
    Server, WORKSPACE, action, allow_all, assert_code, granting, json as printed, reaches, refusal,
    rego,
};

const FORM: &str = "application/x-www-form-urlencoded";

/// A principal with its key.
#[derive(Clone)]
pub(crate) struct Who {
    pub(crate) id: String,
    pub(crate) key_id: String,
    pub(crate) key: String,
}

/// A new principal of the owner's tenant, with a key for `environment`.
pub(crate) async fn enrol(owner: &Client, kind: Kind, roles: &[&str], environment: &str) -> Who {
    let request = CreatePrincipalRequest {
        kind: kind.into(),
        name: "a principal".to_owned(),
        roles: roles.iter().map(|role| (*role).to_owned()).collect(),
        account_id: String::new(),
    };
    let id = owner.create_principal(&request, None).await.unwrap().principal_id;
    let request = CreateKeyRequest {
        principal_id: id.clone(),
        workspace: WORKSPACE.to_owned(),
        environment: environment.to_owned(),
        ..Default::default()
    };
    let made = owner.create_key(&request, None).await.unwrap();
    Who { id, key_id: made.key_id, key: made.key }
}

/// A server where anybody may do anything, with a folder to do it in.
pub(crate) struct Desk {
    pub(crate) server: Server,
    pub(crate) wire: Wire,
    pub(crate) file: PathBuf,
    _folder: TempDir,
}

impl Desk {
    pub(crate) async fn new(policy: &policy::Source) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let server = Server::start(&granting(&root));
        server.publish(policy).await;
        let wire = Wire::new(&server.url);
        Self { server, wire, file: root.join("effects"), _folder: folder }
    }

    pub(crate) async fn enrol(&self, kind: Kind, roles: &[&str]) -> Who {
        enrol(&self.server.owner, kind, roles, "dev").await
    }

    /// A person who submits and approves, and two agents.
    async fn three(&self) -> [Who; 3] {
        [
            self.enrol(Kind::User, &["operator", "approver"]).await,
            self.enrol(Kind::Agent, &["agent"]).await,
            self.enrol(Kind::Agent, &["agent"]).await,
        ]
    }

    pub(crate) async fn form(&self, fields: &[(&str, &str)]) -> Reply {
        let body: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
        let ask = self.wire.ask("POST", "/oauth/token").raw(body.join("&"));
        ask.header("content-type", FORM).send().await
    }

    pub(crate) async fn exchanged(
        &self,
        subject: &str,
        actor: &str,
        more: &[(&str, &str)],
    ) -> Reply {
        let mut fields = vec![
            ("grant_type", TOKEN_EXCHANGE),
            ("subject_token", subject),
            ("subject_token_type", ACCESS_TOKEN),
        ];
        if !actor.is_empty() {
            fields.extend([("actor_token", actor), ("actor_token_type", ACCESS_TOKEN)]);
        }
        fields.extend(more);
        self.form(&fields).await
    }

    /// A token by which `actor` acts for `subject`.
    pub(crate) async fn token(&self, subject: &str, actor: &str, more: &[(&str, &str)]) -> String {
        token_of(&self.exchanged(subject, actor, more).await)
    }

    #[track_caller]
    pub(crate) fn client(&self, token: &str) -> Client {
        Client::new(&self.server.url, token).unwrap()
    }

    pub(crate) async fn status(&self, token: &str) -> (u16, String) {
        let reply = self.wire.ask_as(token, "GET", "/v1/actions").send().await;
        (reply.status, if reply.status == 200 { String::new() } else { reply.code() })
    }

    pub(crate) fn write(&self) -> SubmitActionRequest {
        let params = json!({"path": self.file, "content": "once\n", "mode": "append"});
        action("core.fs_write", &params)
    }
}

pub(crate) fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    text.bytes()
        .map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect()
}

#[track_caller]
fn token_of(reply: &Reply) -> String {
    assert_eq!(reply.header("cache-control"), "no-store");
    let body = reply.good();
    assert_eq!(body["token_type"], "Bearer");
    body["access_token"].as_str().unwrap().to_owned()
}

/// The claims of a token, unverified.
pub(crate) fn claims(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&BASE64URL.decode(payload).unwrap()).unwrap()
}

fn scope(token: &str) -> BTreeSet<String> {
    claims(token)["scope"].as_str().unwrap().split(' ').map(str::to_owned).collect()
}

#[track_caller]
pub(crate) fn oauth_error(reply: &Reply) -> (u16, String) {
    let body = reply.json();
    assert!(body["error_description"].as_str().is_some_and(|text| !text.is_empty()), "{body}");
    (reply.status, body["error"].as_str().unwrap().to_owned())
}

const INVALID: (u16, &str) = (401, "credential_invalid");

#[track_caller]
fn assert_refused(found: (u16, String), expected: (u16, &str), why: &str) {
    assert_eq!((found.0, found.1.as_str()), expected, "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chain_of_three_decides_and_is_in_the_receipt() {
    // The policy reads the chain: only user -> agent -> agent may write.
    let desk = Desk::new(&rego(
        r#"decisions contains {"effect": "ALLOW", "rule": "R-CHAIN", "reason": "chain"} if {
            [actor.kind | some actor in input.actor_chain] == ["user", "agent", "agent"]
            input.principal.id == input.actor_chain[2].id
        }"#,
    ))
    .await;
    let [user, first, second] = desk.three().await;
    let one = desk.token(&user.key, &first.key, &[]).await;
    let two = desk.token(&one, &second.key, &[]).await;
    let said = claims(&two);
    assert_eq!((&said["sub"], &said["sid"]), (&json!(user.id), &json!(user.key_id)));
    assert_eq!(said["act"]["sub"], second.id, "the outermost acts");
    assert_eq!(said["act"]["act"]["sub"], first.id);
    assert_eq!(said["tenant"], "main");

    let denied = desk.client(&one).submit_action(&desk.write(), None).await.unwrap();
    assert_eq!(denied.state(), State::Denied, "two are not three");
    let done = desk.client(&two).submit_action(&desk.write(), None).await.unwrap();
    assert_eq!(done.state(), State::Executed, "{done:?}");
    let owner = desk.server.owner_key();
    let path = format!("/v1/receipts/{}", done.receipts[0]);
    let receipt = desk.wire.ask_as(&owner, "GET", &path).send().await.good();
    let chain = json!([
        {"id": user.id, "kind": "user"},
        {"id": first.id, "kind": "agent"},
        {"id": second.id, "kind": "agent"},
    ]);
    let transitions = receipt["statement"]["predicate"]["transitions"].to_string();
    assert!(transitions.contains(&format!("\"actors\":{chain}")), "{transitions}");

    // Each delegation is in the control log, with ids and without the token.
    let found = control_receipts(&desk, &owner).await;
    let delegations: Vec<&String> =
        found.iter().filter(|text| text.contains("key.delegated")).collect();
    assert_eq!(delegations.len(), 2);
    assert!(delegations[1].contains(&chain.to_string()), "{}", delegations[1]);
    assert!(delegations[1].contains(claims(&two)["jti"].as_str().unwrap()));
    for token in [&one, &two] {
        let signature = token.rsplit('.').next().unwrap();
        assert!(found.iter().all(|text| !text.contains(signature)));
    }
}

/// The transitions of every receipt of the control log.
async fn control_receipts(desk: &Desk, owner: &str) -> Vec<String> {
    let mut found = Vec::new();
    loop {
        let path = format!("/v1/receipts/control.{}", found.len());
        let reply = desk.wire.ask_as(owner, "GET", &path).send().await;
        if reply.status == 404 {
            return found;
        }
        found.push(reply.good()["statement"]["predicate"]["transitions"].to_string());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_only_shrink() {
    let desk = Desk::new(&allow_all()).await;
    let [user, agent, other] = desk.three().await;
    let plain = desk.token(&user.key, &agent.key, &[]).await;
    assert!(scope(&plain).contains("actions:submit"));
    let both = ["approvals:decide", "actions:reconcile", "sessions:read"];
    assert!(both.iter().all(|more| !scope(&plain).contains(*more)), "what both may, no more");
    let read = desk.token(&user.key, &agent.key, &[("scope", "actions:read")]).await;
    assert_eq!(scope(&read), ["actions:read".to_owned()].into());
    let submitted = desk.client(&read).submit_action(&desk.write(), None).await;
    assert_eq!(refusal(submitted), (403, "permission_denied".to_owned()));
    // Neither by asking for it nor by handing on does it grow again.
    for (subject, actor, wanted) in [
        (&read, &other.key, "actions:read actions:submit"),
        (&read, &String::new(), "actions:submit"),
        (&user.key, &agent.key, "approvals:decide"),
        (&user.key, &agent.key, "actions:reconcile"),
        (&user.key, &agent.key, "nothing:known"),
        (&user.key, &String::new(), "keys:create"),
    ] {
        let reply = desk.exchanged(subject, actor, &[("scope", wanted)]).await;
        assert_refused(oauth_error(&reply), (400, "invalid_scope"), wanted);
    }
    let handed = desk.token(&read, &other.key, &[]).await;
    assert_eq!(scope(&handed), ["actions:read".to_owned()].into());
    assert!(claims(&handed)["exp"].as_i64() <= claims(&read)["exp"].as_i64());
    // What a delegator may no more, nobody may for them.
    let path = format!("/v1/principals/{}/roles", user.id);
    let body = json!({"roles": ["builder"]});
    let owner = desk.server.owner_key();
    desk.wire.ask_as(&owner, "POST", &path).json(&body).send().await.good();
    let submitted = desk.client(&plain).submit_action(&desk.write(), None).await;
    assert_eq!(refusal(submitted), (403, "permission_denied".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn not_everybody_acts_for_everybody() {
    let desk = Desk::new(&allow_all()).await;
    let [user, agent, other] = desk.three().await;
    let service = desk.enrol(Kind::Service, &["operator"]).await;
    let chained = desk.token(&user.key, &agent.key, &[]).await;
    let elsewhere = enrol(&desk.server.owner, Kind::Agent, &["agent"], "test").await;
    let request = CreateTenantRequest { tenant: "acme".to_owned() };
    let acme = desk.server.owner.create_tenant(&request, None).await.unwrap().owner.unwrap();
    let acme = Client::new(&desk.server.url, &acme.key).unwrap();
    let foreign = enrol(&acme, Kind::Agent, &["agent"], "dev").await;
    let again = desk.token(&chained, &other.key, &[]).await;
    for (subject, actor, why) in [
        (&user.key, &user.key, "a person for themselves"),
        (&agent.key, &user.key, "a person for an agent"),
        (&agent.key, &service.key, "a service for an agent"),
        (&chained, &service.key, "a service for an agent of a person"),
        (&chained, &agent.key, "an agent twice"),
        (&again, &agent.key, "an agent twice, further down"),
        (&user.key, &chained, "an actor that acts for somebody already"),
        (&user.key, &elsewhere.key, "another environment"),
        (&user.key, &foreign.key, "another tenant"),
        (&foreign.key, &agent.key, "for another tenant"),
        (&user.key, &"garbage".to_owned(), "nobody"),
        (&"tally_x_y".to_owned(), &agent.key, "for nobody"),
    ] {
        let reply = desk.exchanged(subject, actor, &[]).await;
        assert_refused(oauth_error(&reply), (400, "invalid_grant"), why);
    }
    let through = desk.token(&user.key, &service.key, &[]).await;
    desk.token(&through, &agent.key, &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_delegator_ends_what_waits() {
    let desk = Desk::new(&rego(
        r#"decisions contains {"effect": "REQUIRE_APPROVAL", "rule": "R", "reason": "r"} if true"#,
    ))
    .await;
    let [user, agent, _] = desk.three().await;
    let approver = desk.enrol(Kind::User, &["approver"]).await;
    let token = desk.token(&user.key, &agent.key, &[]).await;
    let request = SubmitActionRequest { wait_ms: Some(0), ..desk.write() };
    let held: Action = desk.client(&token).submit_action(&request, None).await.unwrap();
    let owner = desk.server.owner_key();
    let path = format!("/v1/principals/{}", user.id);
    desk.wire.ask_as(&owner, "POST", &format!("{path}/disable")).send().await.good();
    assert_refused(desk.status(&token).await, INVALID, "the delegator is disabled");
    let mut vote = DecideApprovalRequest {
        approval_id: held.approval_id.clone(),
        plan_digest: held.plan_digest.clone(),
        ..Default::default()
    };
    vote.set_decision(Choice::Approve);
    desk.client(&approver.key).decide_approval(&vote, None).await.unwrap();
    let ended = reaches(&desk.server.owner, &held.action_id, State::Denied).await;
    assert_eq!(ended.error.unwrap().code, "principal_disabled");
    assert!(!desk.file.exists());
    // Enabled again, the token goes on; what was denied stays so.
    desk.wire.ask_as(&owner, "POST", &format!("{path}/enable")).send().await.good();
    assert_refused(desk.status(&token).await, (200, ""), "enabled again");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_libraries_verify_and_forgeries_are_refused() {
    let desk = Desk::new(&allow_all()).await;
    let [user, agent, _] = desk.three().await;
    let token = desk.token(&user.key, &agent.key, &[]).await;
    let set = desk.wire.ask("GET", "/.well-known/jwks.json").send().await;
    let set: JwkSet = serde_json::from_value(set.good()).unwrap();
    let metadata = desk.wire.ask("GET", "/.well-known/oauth-authorization-server").send().await;
    let metadata = metadata.good();
    let issuer = metadata["issuer"].as_str().unwrap();
    assert_eq!(metadata["token_endpoint"], format!("{issuer}/oauth/token"));
    let header = jsonwebtoken::decode_header(&token).unwrap();
    let jwk = set.find(header.kid.as_ref().unwrap()).unwrap();
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&[issuer]);
    validation.set_issuer(&[issuer]);
    let key = DecodingKey::from_jwk(jwk).unwrap();
    let read = jsonwebtoken::decode::<Value>(&token, &key, &validation).unwrap();
    assert_eq!(read.claims["sub"], user.id);
    assert_refused(desk.status(&token).await, (200, ""), "as it is");

    let parts: Vec<&str> = token.split('.').collect();
    let said = claims(&token);
    let sealed = |value: &Value| BASE64URL.encode(value.to_string());
    let kid = header.kid.unwrap();
    let head = |alg: &str| sealed(&json!({"alg": alg, "typ": "at+jwt", "kid": kid}));
    let mut wider = said.clone();
    wider["scope"] = json!("actions:read actions:submit keys:create");
    let public = jwk_x(&desk).await;
    let hmac = |key: &[u8]| {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(kid.clone());
        header.typ = Some("at+jwt".to_owned());
        jsonwebtoken::encode(&header, &said, &EncodingKey::from_secret(key)).unwrap()
    };
    let flipped: String = parts[2].chars().rev().collect();
    for (why, forged) in [
        ("another scope", format!("{}.{}.{}", parts[0], sealed(&wider), parts[2])),
        ("another signature", format!("{}.{}.{flipped}", parts[0], parts[1])),
        ("no signature", format!("{}.{}.", parts[0], parts[1])),
        ("alg none", format!("{}.{}.", head("none"), parts[1])),
        ("alg none, signed", format!("{}.{}.{}", head("none"), parts[1], parts[2])),
        ("HS256 by the public key", hmac(&BASE64URL.decode(&public).unwrap())),
        ("HS256 by its text", hmac(public.as_bytes())),
        ("two parts", format!("{}.{}", parts[0], parts[1])),
        ("too long", format!("{token}{}", "x".repeat(9_000))),
    ] {
        assert_refused(desk.status(&forged).await, INVALID, why);
    }
    // One for somebody else is good there, not here; nor does it become one for here.
    let other = desk.token(&user.key, &agent.key, &[("audience", "https://else.test")]).await;
    assert_eq!(claims(&other)["aud"], "https://else.test");
    assert_refused(desk.status(&other).await, INVALID, "another audience");
    let reply = desk.exchanged(&other, "", &[]).await;
    assert_refused(oauth_error(&reply), (400, "invalid_grant"), "another audience");
    // Another installation's is signed by another key and names another issuer.
    let stranger = Desk::new(&allow_all()).await;
    let [them, theirs, _] = stranger.three().await;
    let foreign = stranger.token(&them.key, &theirs.key, &[]).await;
    assert_refused(desk.status(&foreign).await, INVALID, "another issuer");
}

/// The public key of the set, as it is written there.
async fn jwk_x(desk: &Desk) -> String {
    let set = desk.wire.ask("GET", "/.well-known/jwks.json").send().await.good();
    set["keys"][0]["x"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_ends_with_its_time_and_with_its_key() {
    let desk = Desk::new(&allow_all()).await;
    let [user, agent, _] = desk.three().await;
    let short = desk.token(&user.key, &agent.key, &[("expires_in", "1")]).await;
    let long = desk.token(&user.key, &agent.key, &[("expires_in", "3600")]).await;
    let until = tokio::time::Instant::now() + crate::common::PATIENCE;
    while desk.status(&short).await.0 == 200 {
        assert!(tokio::time::Instant::now() < until, "the token never ends");
        tokio::time::sleep(crate::common::LOOK_EVERY).await;
    }
    assert_refused(desk.status(&short).await, INVALID, "its time is over");
    // With overlap both keys are in the set; without, the tokens before are over at once.
    let owner = desk.server.owner_key();
    let rotate = |overlap: u32| {
        let body = json!({"overlap_s": overlap});
        desk.wire.ask_as(&owner, "POST", "/v1/token-keys/rotate").json(&body).send()
    };
    let before = jwk_x(&desk).await;
    rotate(3600).await.good();
    let set = desk.wire.ask("GET", "/.well-known/jwks.json").send().await.good();
    assert_eq!(set["keys"].as_array().unwrap().len(), 2, "{set}");
    assert_ne!(set["keys"][0]["x"], before);
    assert_eq!(set["keys"][1]["x"], before);
    assert_refused(desk.status(&long).await, (200, ""), "its key retires");
    let next = desk.token(&user.key, &agent.key, &[]).await;
    rotate(0).await.good();
    for old in [&long, &next] {
        assert_refused(desk.status(old).await, INVALID, "its key is retired");
    }
    let reply = rotate(3601).await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "invalid_argument"));
    let admin = desk.enrol(Kind::User, &["admin"]).await;
    let reply = desk.wire.ask_as(&admin.key, "POST", "/v1/token-keys/rotate").send().await;
    assert_eq!(reply.code(), "permission_denied");
    for wrong in ["0", "3601", "-1", "soon"] {
        let reply = desk.exchanged(&user.key, "", &[("expires_in", wrong)]).await;
        assert_refused(oauth_error(&reply), (400, "invalid_request"), wrong);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_tokens_by_their_keys() {
    let desk = Desk::new(&allow_all()).await;
    let service = desk.enrol(Kind::Service, &["operator"]).await;
    let user = desk.enrol(Kind::User, &["operator"]).await;
    let grant = ("grant_type", "client_credentials");
    let ask = |id: &str, secret: &str| {
        let fields = [grant, ("client_id", id), ("client_secret", secret)];
        let body: Vec<String> =
            fields.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect();
        desk.wire.ask("POST", "/v1/auth/service-token").raw(body.join("&"))
    };
    let ask = |id: &str, secret: &str| ask(id, secret).header("content-type", FORM).send();
    let token = token_of(&ask(&service.key_id, &service.key).await);
    assert_eq!((&claims(&token)["sub"], claims(&token).get("act")), (&json!(service.id), None));
    assert_refused(desk.status(&token).await, (200, ""), "a service's token");
    let basic = STANDARD.encode(format!("{}:{}", service.key_id, service.key));
    let reply = desk.wire.ask("POST", "/oauth/token").raw("grant_type=client_credentials&scope=");
    let reply =
        reply.header("content-type", FORM).header("authorization", &format!("Basic {basic}"));
    token_of(&reply.send().await);
    for (id, secret, expected) in [
        (&service.key_id, &user.key, (401, "invalid_client")),
        (&service.key_id, &"tally_x_y".to_owned(), (401, "invalid_client")),
        (&service.key_id, &token, (401, "invalid_client")),
        (&user.key_id, &user.key, (400, "unauthorized_client")),
    ] {
        let reply = ask(id, secret).await;
        assert_refused(oauth_error(&reply), expected, id);
        assert_eq!(reply.headers.contains_key("www-authenticate"), expected.0 == 401);
    }
    for (fields, error) in [
        (vec![("grant_type", "password")], "unsupported_grant_type"),
        (vec![("nothing", "x")], "invalid_request"),
        (vec![grant, grant], "invalid_request"),
        (
            vec![("grant_type", "refresh_token"), ("refresh_token", service.key.as_str())],
            "invalid_grant",
        ),
        (
            vec![("grant_type", TOKEN_EXCHANGE), ("subject_token", service.key.as_str())],
            "invalid_request",
        ),
    ] {
        assert_refused(oauth_error(&desk.form(&fields).await), (400, error), error);
    }
    let untyped = desk.wire.ask("POST", "/oauth/token").json(&json!({})).send().await;
    assert_refused(oauth_error(&untyped), (400, "invalid_request"), "JSON is no form");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_exchanges_and_uses_tokens() {
    let desk = Desk::new(&allow_all()).await;
    let [user, agent, _] = desk.three().await;
    let args = ["--json", "token", "exchange", "--actor-token", &agent.key];
    let exchanged = desk.server.tally(&user.key, &args);
    assert_code(&exchanged, 0);
    let token = printed(&exchanged)["access_token"].as_str().unwrap().to_owned();
    assert_eq!(claims(&token)["act"]["sub"], agent.id);
    // The variable of the key takes it as it is.
    assert_code(&desk.server.tally(&token, &["actions", "list"]), 0);
    let issue = ["--json", "token", "issue", "--scope", "actions:read", "--expires-in-s", "60"];
    let issued = printed(&desk.server.tally(&token, &issue));
    assert_eq!(issued["scope"], "actions:read");
    let wider = ["token", "issue", "--scope", "keys:create"];
    assert_code(&desk.server.tally(&token, &wider), 3);
    let owner = desk.server.owner_key();
    let args = [
        "--json",
        "service-account",
        "create",
        "--name",
        "ci",
        "--role",
        "operator",
        "--workspace",
        "main",
        "--environment",
        "dev",
    ];
    let made = printed(&desk.server.tally(&owner, &args));
    let key_id = made["key_id"].as_str().unwrap();
    let rotated =
        printed(&desk.server.tally(&owner, &["--json", "service-account", "rotate", key_id]));
    assert_ne!(rotated["key"], made["key"]);
    assert_code(&desk.server.tally(made["key"].as_str().unwrap(), &["actions", "list"]), 3);
    assert_code(&desk.server.tally(rotated["key"].as_str().unwrap(), &["actions", "list"]), 0);
    let list = printed(&desk.server.tally(&owner, &["--json", "service-account", "list"]));
    assert_eq!(list["principals"].as_array().unwrap().len(), 1);
    assert_code(&desk.server.tally(&owner, &["sessions", "list"]), 0);
}
