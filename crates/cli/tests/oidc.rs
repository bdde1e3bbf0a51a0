//! People log in: a real provider, a browser that is driven by the test, and the real server.

pub(crate) mod idp;
mod negative;
mod pages;
mod program;

use client::Client;
use proto::actions::action::State;
use proto::identity::{ListPrincipalsRequest, Principal};
use serde_json::{Value, json};
use tempfile::TempDir;

use self::idp::{Browser, Idp};
use crate::common::wire::{Reply, Wire, fresh};
use crate::common::{Server, action, allow_all, assert_code, granting, reaches, rego};

/// The provider's secret for us, with all that its encoding is about.
const SECRET: &str = "a secret: with & signs\n";
/// Whoever logs in sees things.
const VIEWERS: &str = "create_principals: true, default_roles: [viewer]";

/// A provider and a server whose people log in there.
struct World {
    idp: Idp,
    server: Server,
    _secret: TempDir,
}

impl World {
    async fn start(settings: &str) -> Self {
        Self::start_with(settings, "").await
    }

    /// `yaml` is added to the server's configuration.
    async fn start_with(settings: &str, yaml: &str) -> Self {
        let (idp, folder) = (Idp::start(), tempfile::tempdir().unwrap());
        let secret = folder.path().join("secret");
        std::fs::write(&secret, SECRET).unwrap();
        let corp = format!("name: corp, client_id: tally, client_secret_file: {secret:?}");
        // The second is a public client, of another tenant.
        let acme = "name: acme, client_id: 'tally public'";
        let common = format!(
            "issuer: '{}', scopes: [openid, profile, groups], workspace: main, environment: dev",
            idp.url
        );
        let oidc = format!(
            "oidc:\n- {{{corp}, {common}, tenant: main, {settings}}}\n\
             - {{{acme}, {common}, tenant: acme, {VIEWERS}}}\n{yaml}"
        );
        let server = Server::start(&oidc);
        idp.redirects_to(&[&server.url]).await;
        Self { idp, server, _secret: folder }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.server.url)
    }

    /// Where a login with the first provider begins.
    fn login(&self) -> String {
        self.url("/auth/login?provider=corp")
    }

    /// Logs `person` in with a new browser; the secret of the session.
    async fn session(&self, person: &str) -> String {
        let mut browser = Browser::of(person);
        let reply = browser.log_in(&self.login()).await;
        assert_eq!((reply.status, reply.header("location")), (303, "/"), "{}", reply.text());
        browser.cookie(&self.server.url, "tally_session").unwrap().to_owned()
    }

    /// A request that a session's cookie speaks for, from a page of `site`.
    async fn ask(&self, session: &str, method: &str, path: &str, site: &str) -> Reply {
        let ask = Wire::new(&self.server.url).ask(method, path).idempotency(&fresh("oidc"));
        let ask = ask.header("cookie", &format!("other=1; tally_session={session}"));
        ask.header("sec-fetch-site", site).send().await
    }

    /// All that the tenant has, but its owner.
    async fn principals(&self) -> Vec<Principal> {
        let list = self.server.owner.list_principals(&ListPrincipalsRequest::default()).await;
        let mut all = list.unwrap().principals;
        all.retain(|principal| principal.name != "owner");
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_by_login_until_logout() {
    let mut world = World::start(VIEWERS).await;
    let mut browser = Browser::of("ann");
    let begin = format!("{}&return_to=/console%3Fa%3Db", world.login());
    let callback = browser.until_callback(&begin).await;
    // What is under way is with the browser: the server may end meanwhile.
    world.server.kill();
    world.server.restart();
    let reply = browser.get(&callback).await;
    assert_eq!((reply.status, reply.header("location")), (303, "/console?a=b"), "{}", reply.text());
    assert_eq!(reply.header("cache-control"), "no-store");
    let cookies = reply.headers.get_all("set-cookie").iter().map(|v| v.to_str().unwrap());
    let cookie = cookies.into_iter().find(|line| line.starts_with("tally_session=")).unwrap();
    for part in ["; HttpOnly", "; SameSite=Lax", "; Path=/;", "; Max-Age=28800"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains("Secure"), "this server speaks plain http: {cookie}");
    assert_eq!(browser.cookie(&world.server.url, "tally_login"), None, "it has done its duty");

    let session = browser.cookie(&world.server.url, "tally_session").unwrap().to_owned();
    assert_eq!(world.ask(&session, "GET", "/v1/actions", "cross-site").await.status, 200);
    let path = "/v1/principals/any/disable";
    for (site, code) in [("cross-site", "cross_site"), ("same-site", "cross_site")] {
        assert_eq!(world.ask(&session, "POST", path, site).await.code(), code, "{site}");
    }
    let own = world.ask(&session, "POST", path, "same-origin").await;
    assert_eq!(own.code(), "permission_denied", "a viewer, but one of our own pages");

    let logout = world.url("/auth/logout");
    assert_eq!(browser.post(&logout, "cross-site").await.code(), "cross_site");
    assert_eq!(world.ask(&session, "GET", "/v1/actions", "none").await.status, 200);
    assert_eq!(browser.post(&logout, "same-origin").await.status, 204);
    assert_eq!(browser.cookie(&world.server.url, "tally_session"), None);
    let over = world.ask(&session, "GET", "/v1/actions", "none").await;
    assert_eq!((over.status, over.code()), (401, "credential_invalid".to_owned()));
    assert_eq!(Wire::new(&logout).ask("POST", "").send().await.status, 401, "without a session");

    world.server.terminate();
    let log = world.server.log();
    for secret in [&session, "a secret: with", "tally_login="] {
        assert!(!log.contains(secret), "the log holds {secret}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn roles_follow_groups_and_a_person_stays_one_principal() {
    let roles = "create_principals: true, roles_claim: groups, \
        role_map: {ops: operator, second line: approver}";
    let world = World::start(roles).await;
    let told = async |groups: &[&str], in_userinfo: bool| {
        world.idp.set(json!({"groups": {"ann": groups}, "in_userinfo": in_userinfo})).await;
    };
    let known = async || {
        let all = world.principals().await;
        assert_eq!(all.len(), 1, "{all:?}");
        all.into_iter().next().unwrap()
    };
    told(&["ops", "unheard of"], false).await;
    world.session("ann").await;
    let first = known().await;
    assert_eq!(
        (first.name.as_str(), &first.roles[..]),
        ("ann <of a test>", &["operator".into()][..])
    );
    // The same again changes nothing, whether the groups are in the token or have to be asked for.
    told(&["ops"], true).await;
    world.session("ann").await;
    assert_eq!(known().await, first);
    told(&["second line"], true).await;
    let session = world.session("ann").await;
    let changed = known().await;
    assert_eq!(changed.principal_id, first.principal_id);
    assert_eq!(changed.roles, ["approver"]);
    assert_eq!(changed.revision, first.revision + 1, "a change of roles is a receipt");
    assert_eq!(world.ask(&session, "GET", "/v1/approvals", "none").await.status, 200);
    // Without a group there is no role, and without a role no session.
    told(&[], false).await;
    let mut browser = Browser::of("ann");
    let refused = browser.log_in(&world.login()).await;
    assert_eq!(refused.status, 403);
    assert!(
        refused.text().contains("one of the groups `ops`, `second line`"),
        "{}",
        refused.text()
    );
    assert_eq!(browser.cookie(&world.server.url, "tally_session"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_first_logins_at_once_make_one_principal() {
    let world = World::start(VIEWERS).await;
    let mut browsers = [Browser::of("ann"), Browser::of("ann"), Browser::of("ann")];
    let mut callbacks = Vec::new();
    for browser in &mut browsers {
        callbacks.push(browser.until_callback(&world.login()).await);
    }
    let [a, b, c] = &mut browsers;
    let replies = tokio::join!(a.get(&callbacks[0]), b.get(&callbacks[1]), c.get(&callbacks[2]));
    for reply in [replies.0, replies.1, replies.2] {
        assert_eq!(reply.status, 303, "{}", reply.text());
    }
    assert_eq!(world.principals().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_says_whose_a_login_is() {
    let world = World::start("create_principals: false").await;
    let owner = world.server.owner_key();
    let refused = async |code: &str, says: &str| {
        let mut browser = Browser::of("bob");
        let reply = browser.log_in(&world.login()).await;
        assert_eq!(reply.status, 403, "{}", reply.text());
        assert!(reply.text().contains(code) && reply.text().contains(says), "{}", reply.text());
        assert_eq!(browser.cookie(&world.server.url, "tally_session"), None);
    };
    refused("login_unknown", "--provider corp --subject bob").await;
    assert!(world.principals().await.is_empty());

    let wire = Wire::new(&world.server.url);
    let body = json!({"kind": "user", "name": "Bob", "roles": ["approver"]});
    let bob = wire.ask_as(&owner, "POST", "/v1/principals").json(&body).send().await.good();
    let id = bob["principal_id"].as_str().unwrap().to_owned();
    let admin = world.server.key(proto::identity::principal::Kind::User, &["admin"], "dev").await;
    let arguments = ["principal", "link", &id, "--provider", "corp", "--subject", "bob"];
    // A login is as good as a key: an admin who may not have the one does not make the other.
    assert_code(&world.server.tally(&admin, &arguments), 3);
    refused("login_unknown", "bob").await;
    assert_code(&world.server.tally(&owner, &arguments), 0);
    assert_code(&world.server.tally(&owner, &arguments), 3);
    let session = world.session("bob").await;
    let sessions = world.ask(&session, "GET", "/v1/sessions", "none").await.good();
    assert_eq!(sessions["sessions"][0]["principal_id"], id);
    assert_eq!(sessions["sessions"][0]["method"], "oidc:corp");

    let disable = format!("/v1/principals/{id}/disable");
    wire.ask_as(&owner, "POST", &disable).json(&json!({})).send().await.good();
    assert_eq!(world.ask(&session, "GET", "/v1/sessions", "none").await.status, 401, "at once");
    refused("principal_disabled", &id).await;
    let enable = format!("/v1/principals/{id}/enable");
    wire.ask_as(&owner, "POST", &enable).json(&json!({})).send().await.good();
    world.session("bob").await;
    let unlink = ["principal", "unlink", &id, "--provider", "corp", "--subject", "bob"];
    assert_code(&world.server.tally(&owner, &unlink), 0);
    refused("login_unknown", "bob").await;
    let foreign = ["principal", "link", &id, "--provider", "acme", "--subject", "bob"];
    assert_code(&world.server.tally(&owner, &foreign), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_logged_in_as_approver_approves() {
    let folder = tempfile::tempdir().unwrap();
    let roles = "create_principals: true, roles_claim: groups, role_map: {boss: approver}";
    let world = World::start_with(roles, &granting(folder.path())).await;
    world.idp.set(json!({"groups": {"eve": ["boss"]}})).await;
    let held = rego(
        r#"decisions contains {"effect": "REQUIRE_APPROVAL", "rule": "R", "reason": "r",
            "obligations": {"approval": {"quorum": 1, "roles": ["approver"], "expires_s": 600}}}
            if true"#,
    );
    world.server.publish(&held).await;
    let agent = world.server.principal(proto::identity::principal::Kind::Agent, &["agent"]).await;
    let params = json!({"path": folder.path().join("note"), "content": "approved"});
    let action = agent.submit_action(&action("core.fs_write", &params), None).await.unwrap();
    assert_eq!(action.state(), State::AwaitingApproval);

    let session = world.session("eve").await;
    let body = json!({"decision": "approve", "plan_digest": action.plan_digest, "reason": "good"});
    let ask = async |site: &str| {
        let path = format!("/v1/approvals/{}/decision", action.approval_id);
        let ask = Wire::new(&world.server.url).ask("POST", &path).json(&body);
        let ask = ask.header("cookie", &format!("tally_session={session}"));
        ask.header("sec-fetch-site", site).send().await
    };
    assert_eq!(ask("cross-site").await.code(), "cross_site", "no other page approves for her");
    assert_eq!(ask("same-origin").await.good()["state"], "approved");
    reaches(&agent, &action.action_id, State::Executed).await;
    assert_eq!(std::fs::read_to_string(folder.path().join("note")).unwrap(), "approved");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_session_is_refused_at_once() {
    let world = World::start(VIEWERS).await;
    let session = world.session("ann").await;
    // The cookie's secret is a key for programs, too.
    let client = Client::new(&world.server.url, &session).unwrap();
    client.list_actions(&Default::default()).await.unwrap();
    let sessions = world.ask(&session, "GET", "/v1/sessions", "none").await.good();
    let id = sessions["sessions"][0]["session_id"].as_str().unwrap();
    let revoke = world.server.tally(&world.server.owner_key(), &["sessions", "revoke", id]);
    assert_code(&revoke, 0);
    let refused = crate::common::refusal(client.list_actions(&Default::default()).await);
    assert_eq!(refused, (401, "credential_invalid".to_owned()));
    // Another login is another session.
    let again = world.session("ann").await;
    assert_eq!(world.ask(&again, "GET", "/v1/actions", "none").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_logs_in_to_a_suspended_tenant() {
    let world = World::start(VIEWERS).await;
    let (wire, owner) = (Wire::new(&world.server.url), world.server.owner_key());
    let acme = world.url("/auth/login?provider=acme");
    let missing = Browser::of("ann").log_in(&acme).await;
    assert!(missing.text().contains("login_place_missing"), "{}", missing.text());
    let post = async |path: &str, body: Value| {
        wire.ask_as(&owner, "POST", path).json(&body).send().await.good();
    };
    post("/v1/tenants", json!({"tenant": "acme"})).await;
    assert_eq!(Browser::of("ann").log_in(&acme).await.status, 303, "a public client");
    assert!(world.principals().await.is_empty(), "she is acme's, not ours");
    post("/v1/tenants/acme/suspend", json!({})).await;
    let refused = Browser::of("ann").log_in(&acme).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text().contains("tenant_suspended"), "{}", refused.text());
    post("/v1/tenants/acme/resume", json!({})).await;
    assert_eq!(Browser::of("ann").log_in(&acme).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_in_trouble_troubles_logins_alone() {
    let mut world = World::start(VIEWERS).await;
    world.server.publish(&allow_all()).await;
    let fails = async |code: &str, retryable: bool| {
        let reply =
            Wire::new(&world.server.url).ask("GET", "/auth/login?provider=corp").send().await;
        assert_eq!(reply.status, 502, "{}", reply.text());
        let error = reply.error();
        assert_eq!((&error["code"], &error["retryable"]), (&code.into(), &retryable.into()));
    };
    world.idp.set(json!({"down": true})).await;
    fails("provider_unavailable", true).await;
    world.idp.set(json!({"down": false})).await;
    let session = world.session("ann").await;
    // New keys of the provider's are found by the first token that they sign.
    for _ in 0..2 {
        world.idp.set(json!({"rotate": true})).await;
        world.session("ann").await;
    }
    let mut browser = Browser::of("ann");
    let callback = browser.until_callback(&world.login()).await;
    world.idp.kill();
    let reply = browser.get(&callback).await;
    assert_eq!(reply.status, 502, "{}", reply.text());
    assert!(reply.text().contains("provider_unavailable"), "{}", reply.text());
    assert_eq!(world.ask(&session, "GET", "/v1/actions", "none").await.status, 200);
    world.server.owner.list_actions(&Default::default()).await.unwrap();
}
