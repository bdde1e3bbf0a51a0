//! Sessions through the server's own router: a login is what opens them, and is elsewhere.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use kernel::ids::{EnvironmentId, PrincipalId, TenantId, WorkspaceId};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use super::*;
use crate::stores::Stores;
use crate::{Config, Credentials, open, start};

const ISSUER: &str = "https://tally.test";
const HOUR: Duration = Duration::from_secs(3600);
/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

struct Desk {
    shared: Arc<Shared>,
    router: Router,
    owner: Credentials,
    _folder: TempDir,
}

struct Reply {
    status: StatusCode,
    body: Value,
}

impl Reply {
    #[track_caller]
    fn good(self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{}", self.body);
        self.body
    }

    #[track_caller]
    fn refused(self, status: u16, code: &str) {
        assert_eq!(self.status.as_u16(), status, "{}", self.body);
        assert_eq!(self.body["error"]["code"], code, "{}", self.body);
    }
}

impl Desk {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { data: folder.path().to_owned(), ..Config::default() };
        let tools = open::tools(&config).unwrap();
        let stores = Stores::open(&config, ISSUER).unwrap();
        let epochs = stores.acquire().unwrap();
        let running = TaskTracker::new();
        let issuer = ISSUER.to_owned();
        let keys = crate::open_keys(&config).unwrap();
        let shared = open::open(config, tools, issuer, keys, &stores, epochs, running).unwrap();
        let shared = Arc::new(shared);
        let path = start::first_start(&shared, ISSUER).await.unwrap().unwrap();
        let owner = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let providers = crate::oidc::Providers::open(&shared.config).unwrap();
        let surface = crate::mcp::Surface::new(shared.clone(), ISSUER);
        let router = start::router(shared.clone(), surface, providers);
        Self { router, shared, owner, _folder: folder }
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: Body) -> Reply {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = self.router.clone().oneshot(request.body(body).unwrap()).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Reply { status, body: serde_json::from_slice(&bytes).unwrap() }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Reply {
        self.send("GET", path, headers, Body::empty()).await
    }

    async fn post(&self, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let key = new_id("idem");
        let own = [("idempotency-key", key.as_str()), ("content-type", "application/json")];
        let headers = [&own[..], headers].concat();
        self.send("POST", path, &headers, Body::from(body.to_string())).await
    }

    async fn token(&self, fields: &[(&str, &str)]) -> Reply {
        let form = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let form_type = [("content-type", "application/x-www-form-urlencoded")];
        self.send("POST", "/oauth/token", &form_type, Body::from(form)).await
    }

    async fn principal(&self, kind: &str, role: &str) -> String {
        let body = json!({"kind": kind, "name": "somebody", "roles": [role]});
        let made = self.post("/v1/principals", &[("x-api-key", &self.owner.key)], &body).await;
        made.good()["principal_id"].as_str().unwrap().to_owned()
    }

    async fn open_in(&self, who: &str, environment: &str, lifetime: Duration) -> Result<Opened> {
        let tenant = TenantId::new("main").unwrap();
        let workspace = WorkspaceId::new("main").unwrap();
        let environment = EnvironmentId::new(environment).unwrap();
        let who = PrincipalId::new(who).unwrap();
        let method = "oidc:test";
        open_session(&self.shared, &tenant, &who, &workspace, &environment, method, lifetime).await
    }

    async fn open(&self, who: &str) -> Opened {
        self.open_in(who, "dev", HOUR).await.unwrap()
    }
}

fn cookie_of(opened: &Opened) -> String {
    format!("theme=dark; {COOKIE}={}; last=1", opened.secret)
}

#[tokio::test]
async fn a_session_is_a_credential_until_it_is_ended() {
    let desk = Desk::new().await;
    let who = desk.principal("user", "viewer").await;
    let opened = desk.open(&who).await;
    let cookie = cookie_of(&opened);
    let bearer = format!("Bearer {}", opened.secret);
    let token = format!("Bearer {}", opened.access_token);
    let all = [("cookie", cookie.as_str()), ("authorization", &bearer), ("authorization", &token)];
    for header in all {
        let list = desk.get("/v1/sessions", &[header]).await.good();
        let session = &list["sessions"][0];
        assert_eq!(session["session_id"], opened.session_id);
        assert_eq!((&session["method"], &session["ended"]), (&json!("oidc:test"), &json!(false)));
        assert!(!list.to_string().contains(&opened.secret));
    }
    // Another's sessions are not there, but for who manages keys.
    let other = desk.open(&desk.principal("user", "viewer").await).await;
    let others = format!("Bearer {}", other.secret);
    let path = format!("/v1/sessions/{}/revoke", opened.session_id);
    desk.post(&path, &[("authorization", &others)], &json!({})).await.refused(404, "not_found");
    let list = desk.get("/v1/sessions", &[("authorization", &others)]).await.good();
    assert_eq!(list["sessions"].as_array().unwrap().len(), 1);
    let owner = [("x-api-key", desk.owner.key.as_str())];
    let list = desk.get("/v1/sessions", &owner).await.good();
    assert_eq!(list["sessions"].as_array().unwrap().len(), 2);
    assert_eq!(desk.post(&path, &owner, &json!({})).await.good()["ended"], true);
    for header in all {
        desk.get("/v1/sessions", &[header]).await.refused(401, "credential_invalid");
    }
    let tenant = TenantId::new("main").unwrap();
    let by = PrincipalId::new(&who).unwrap();
    end_session(&desk.shared, &tenant, &opened.session_id, &by).await.unwrap();
    let answer = desk.get("/v1/sessions", &[("authorization", &others)]).await;
    assert_eq!(answer.status, StatusCode::OK, "the other goes on");
}

#[tokio::test]
async fn a_cookie_changes_things_for_our_own_pages_only() {
    let desk = Desk::new().await;
    let opened = desk.open(&desk.principal("user", "viewer").await).await;
    let cookie = cookie_of(&opened);
    let path = format!("/v1/sessions/{}/revoke", opened.session_id);
    for foreign in [
        None,
        Some(("origin", "https://else.test")),
        Some(("origin", "https://tally.test.else.test")),
        Some(("origin", "http://tally.test")),
        Some(("origin", "null")),
        Some(("sec-fetch-site", "cross-site")),
        Some(("sec-fetch-site", "same-site")),
    ] {
        let headers: Vec<_> =
            [Some(("cookie", cookie.as_str())), foreign].into_iter().flatten().collect();
        desk.post(&path, &headers, &json!({})).await.refused(403, "cross_site");
    }
    let both = [("cookie", cookie.as_str()), ("sec-fetch-site", "cross-site"), ("origin", ISSUER)];
    desk.post(&path, &both, &json!({})).await.refused(403, "cross_site");
    for own in [("origin", ISSUER), ("sec-fetch-site", "same-origin")] {
        let answer = desk.post("/v1/principals", &[("cookie", &cookie), own], &json!({})).await;
        answer.refused(403, "permission_denied");
    }
}

#[tokio::test]
async fn short_tokens_follow_from_a_session() {
    let desk = Desk::new().await;
    let opened = desk.open(&desk.principal("user", "operator").await).await;
    let refresh = [("grant_type", "refresh_token"), ("refresh_token", opened.secret.as_str())];
    let issued = desk.token(&refresh).await.good();
    let token = issued["access_token"].as_str().unwrap().to_owned();
    let bearer = format!("Bearer {token}");
    desk.get("/v1/sessions", &[("authorization", &bearer)]).await.good();
    // A token is no session: it does not make itself last.
    let again = [("grant_type", "refresh_token"), ("refresh_token", token.as_str())];
    assert_eq!(desk.token(&again).await.body["error"], "invalid_grant");
    // An agent acts for who logged in, until the session ends.
    let agent = desk.principal("agent", "agent").await;
    let owner = [("x-api-key", desk.owner.key.as_str())];
    let key = desk.post("/v1/keys", &owner, &json!({"principal_id": agent})).await.good();
    let kind = "urn:ietf:params:oauth:token-type:access_token";
    let exchange = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
        ("subject_token", opened.secret.as_str()),
        ("subject_token_type", kind),
        ("actor_token", key["key"].as_str().unwrap()),
        ("actor_token_type", kind),
    ];
    let issued = desk.token(&exchange).await.good();
    let delegated = format!("Bearer {}", issued["access_token"].as_str().unwrap());
    desk.get("/v1/actions", &[("authorization", &delegated)]).await.good();
    let path = format!("/v1/sessions/{}/revoke", opened.session_id);
    let own = format!("Bearer {}", opened.secret);
    desk.post(&path, &[("authorization", &own)], &json!({})).await.good();
    for header in [&bearer, &delegated] {
        let reply = desk.get("/v1/actions", &[("authorization", header)]).await;
        reply.refused(401, "credential_invalid");
    }
    assert_eq!(desk.token(&refresh).await.body["error"], "invalid_grant");
}

#[tokio::test]
async fn not_every_session_opens() {
    let desk = Desk::new().await;
    let who = desk.principal("user", "viewer").await;
    let day = HOUR * 24;
    for (who, environment, lifetime, code) in [
        ("usr_absent", "dev", HOUR, "credential_invalid"),
        (who.as_str(), "nowhere", HOUR, "not_found"),
        (who.as_str(), "dev", Duration::ZERO, "invalid_argument"),
        (who.as_str(), "dev", day * 31, "invalid_argument"),
    ] {
        let refused = desk.open_in(who, environment, lifetime).await;
        assert_eq!(refused.err().unwrap().0.code, code, "{environment} {lifetime:?}");
    }
    let short = desk.open_in(&who, "dev", Duration::from_millis(300)).await.unwrap();
    assert!(short.token_expires_at <= short.expires_at, "a token ends with what it rests on");
    let bearer = format!("Bearer {}", short.secret);
    let until = tokio::time::Instant::now() + PATIENCE;
    while desk.get("/v1/sessions", &[("authorization", &bearer)]).await.status == StatusCode::OK {
        assert!(tokio::time::Instant::now() < until, "the session never ends");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let owner = [("x-api-key", desk.owner.key.as_str())];
    desk.post(&format!("/v1/principals/{who}/disable"), &owner, &json!({})).await.good();
    let refused = desk.open_in(&who, "dev", HOUR).await;
    assert_eq!(refused.err().unwrap().0.code, "credential_invalid");
}
