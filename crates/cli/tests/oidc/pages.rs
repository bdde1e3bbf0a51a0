//! The page of an approval, in a browser: what it shows to whom, and what its form can do.

use proto::actions::Action;
use proto::actions::action::State;
use proto::identity::principal::Kind;
use serde_json::json;
use tempfile::TempDir;

use super::idp::Browser;
use super::{VIEWERS, World};
use crate::common::desk::{approve, held_by, one_rule};
use crate::common::wire::Reply;
use crate::common::{action, granting, reaches};

/// Whoever logs in may be an approver, by their groups.
const ROLES: &str = "create_principals: true, default_roles: [viewer], roles_claim: groups, \
    role_map: {approvers: approver, ops: operator}";
const ONE: &str = r#"{"approval": {"quorum": 1, "roles": ["approver"]}}"#;

/// A world in which every write is held, and a folder to write to.
struct Desk {
    world: World,
    folder: TempDir,
}

impl Desk {
    async fn new(settings: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let world = World::start_with(settings, &granting(&root)).await;
        let groups = json!({"ann": ["approvers"], "bob": [], "eve": ["approvers", "ops"]});
        world.idp.set(json!({"groups": groups, "in_userinfo": false})).await;
        Self { world, folder }
    }

    /// What an agent asks for, which is held.
    async fn held(&self, content: &str) -> Action {
        let agent = self.world.server.principal(Kind::Agent, &["agent"]).await;
        let path = self.folder.path().canonicalize().unwrap().join("effects");
        let params = json!({"path": path, "content": content});
        let mut request = action("core.fs_write", &params);
        request.wait_ms = Some(0);
        agent.submit_action(&request, None).await.unwrap()
    }

    fn page(&self, held: &Action) -> String {
        self.world.url(&format!("/approvals/{}", held.approval_id))
    }

    async fn browser(&self, person: &str) -> Browser {
        let mut browser = Browser::of(person);
        let reply = browser.log_in(&self.world.login()).await;
        assert_eq!(reply.status, 303, "{}", reply.text());
        browser
    }

    fn written(&self) -> Option<String> {
        std::fs::read_to_string(self.folder.path().join("effects")).ok()
    }
}

/// The value of a hidden field.
fn field(reply: &Reply, name: &str) -> String {
    let text = reply.text();
    let (_, rest) = text.split_once(&format!("name={name} value=\"")).unwrap();
    rest.split('"').next().unwrap().to_owned()
}

fn form(reply: &Reply, decision: &str) -> String {
    let (token, plan) = (field(reply, "token"), field(reply, "plan_digest").replace(':', "%3A"));
    format!("token={token}&plan_digest={plan}&reason=as+seen&decision={decision}")
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_learn_nothing_and_approvers_decide() {
    let desk = Desk::new(ROLES).await;
    desk.world.server.publish(&held_by(ONE)).await;
    let held = desk.held("<b>once\u{202e}</b>").await;
    let page = desk.page(&held);

    let mut stranger = Browser::of("nobody");
    let (seen, absent) = (stranger.get(&page).await, desk.world.url("/approvals/apr_none"));
    let absent = stranger.get(&absent).await;
    assert_eq!((seen.status, absent.status), (401, 401));
    let same = absent.text().replace("apr_none", &held.approval_id);
    assert_eq!(seen.text(), same, "an approval that is not there looks like one that is");
    for secret in ["core.fs_write", "once", &held.plan_digest, &held.action_id] {
        assert!(!seen.text().contains(secret), "a stranger reads {secret}");
    }
    assert!(seen.text().contains(&format!("tally approve {}", held.approval_id)));
    assert!(seen.text().contains("/auth/login?provider=corp&amp;return_to=%2Fapprovals%2F"));
    assert!(seen.header("content-security-policy").contains("default-src 'none'"));

    // A login that begins at the page ends there.
    let mut ann = Browser::of("ann");
    let back = format!("{}&return_to=/approvals/{}", desk.world.login(), held.approval_id);
    let reply = ann.log_in(&back).await;
    assert_eq!(reply.header("location"), format!("/approvals/{}", held.approval_id));
    let seen = ann.get(&page).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    for shown in ["core.fs_write", "&lt;b&gt;once", "\\u{202e}", &held.plan_digest, "R-ONE"] {
        assert!(seen.text().contains(shown), "{shown} is not in {}", seen.text());
    }
    assert!(!seen.text().contains("<b>once"), "what an agent writes is text");
    assert_eq!(ann.get(&desk.world.url("/approvals/apr_none")).await.status, 404);

    // A viewer sees that it waits, and neither what it is nor a form.
    let bob = desk.browser("bob").await.get(&page).await;
    assert_eq!(bob.status, 200, "{}", bob.text());
    assert!(!bob.text().contains("once") && !bob.text().contains("<form"), "{}", bob.text());

    // Only this session's own form, from our own page, about this plan.
    let good = form(&seen, "approve");
    let mut eve = desk.browser("eve").await;
    for (refused, why) in [
        (ann.submit(&page, "cross-site", &good).await, "of another site"),
        (ann.submit(&page, "same-origin", &good.replace("token=", "token=0")).await, "no token"),
        (eve.submit(&page, "same-origin", &good).await, "of another session"),
        (ann.submit(&page, "same-origin", &good.replace("sha256", "sha257")).await, "no plan"),
    ] {
        assert_eq!(refused.status, 403, "{why}: {}", refused.text());
    }
    assert_eq!(stranger.submit(&page, "same-origin", &good).await.status, 401);
    assert_eq!(desk.written(), None, "nothing has run");

    let done = ann.submit(&page, "same-origin", &good).await;
    assert_eq!(done.status, 303, "{}", done.text());
    reaches(&desk.world.server.owner, &held.action_id, State::Executed).await;
    assert_eq!(desk.written().unwrap(), "<b>once\u{202e}</b>");
    let after = ann.get(&page).await;
    assert!(after.text().contains("approved") && !after.text().contains("<form"));
    let again = ann.submit(&page, "same-origin", &good).await;
    assert_eq!(again.status, 409, "an approval is decided once: {}", again.text());

    let second = desk.held("never").await;
    let page = desk.page(&second);
    let seen = ann.get(&page).await;
    assert_eq!(ann.submit(&page, "same-origin", &form(&seen, "reject")).await.status, 303);
    reaches(&desk.world.server.owner, &second.action_id, State::Denied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_has_no_form_and_a_second_factor_is_asked_for() {
    let desk = Desk::new(ROLES).await;
    desk.world.server.publish(&one_rule("REQUIRE_STEP_UP", ONE)).await;
    // A person asks by their own session, and may approve, but not this.
    let mut eve = desk.browser("eve").await;
    let secret = eve.cookie(&desk.world.server.url, "tally_session").unwrap().to_owned();
    let own = client::Client::new(&desk.world.server.url, &secret).unwrap();
    let path = desk.folder.path().canonicalize().unwrap().join("effects");
    let mut request = action("core.fs_write", &json!({"path": path, "content": "own"}));
    request.wait_ms = Some(0);
    let held = own.submit_action(&request, None).await.unwrap();
    let seen = eve.get(&desk.page(&held)).await;
    assert!(seen.text().contains("You cannot approve this"), "{}", seen.text());
    assert!(!seen.text().contains("<form"), "{}", seen.text());

    let mut ann = desk.browser("ann").await;
    let page = desk.page(&held);
    let seen = ann.get(&page).await;
    assert!(seen.text().contains("name=totp_code"), "{}", seen.text());
    let without = ann.submit(&page, "same-origin", &form(&seen, "approve")).await;
    assert_eq!(without.status, 409, "{}", without.text());
    assert!(without.text().contains("second factor"), "{}", without.text());
    // Nor does what she may post decide her own: the service says no as to the API.
    let forged = format!("{}&", form(&seen, "approve"));
    let refused = eve.submit(&page, "same-origin", &forged).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let agent = desk.world.server.principal(Kind::Agent, &["agent"]).await;
    assert!(approve(&agent, &held).await.is_err(), "{VIEWERS}");
    assert_eq!(desk.written(), None);
}
