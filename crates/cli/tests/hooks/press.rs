//! What people press on Slack decides, by the same rules as everywhere.

use proto::actions::Action;
use proto::actions::action::State;
use proto::approvals::approval::State as ApprovalState;
use proto::approvals::{Approval, GetApprovalRequest};
use proto::identity::principal::Kind;
use proto::identity::{LinkPrincipalRequest, UnlinkPrincipalRequest};
use serde_json::{Value, json};

use super::{Place, TEAM, form, now, principal};
use crate::common::desk::{ONE, TWO, held_by, one_rule};
use crate::common::wire::Reply;
use crate::common::{action, reaches};

/// A place where an agent's actions wait for people.
struct Desk {
    place: Place,
    agent: client::Client,
}

impl Desk {
    async fn new(policy: &policy::Source) -> Self {
        let place = Place::with(policy).await.with_slack().await;
        let agent = place.server.principal(Kind::Agent, &["agent"]).await;
        Self { place, agent }
    }

    async fn held(&self) -> Action {
        self.held_for(&self.agent).await
    }

    async fn held_for(&self, who: &client::Client) -> Action {
        let path = self.place.files.path().canonicalize().unwrap().join("effects");
        let params = json!({"path": path, "content": "once\n", "mode": "append"});
        let mut request = action("core.fs_write", &params);
        request.wait_ms = Some(0);
        let held = who.submit_action(&request, None).await.unwrap();
        assert_eq!(held.state(), State::AwaitingApproval, "{held:?}");
        held
    }

    fn effects(&self) -> usize {
        let path = self.place.files.path().join("effects");
        std::fs::read_to_string(path).unwrap_or_default().lines().count()
    }

    /// A person with this Slack user.
    async fn person(&self, user: &str, roles: &[&str]) -> String {
        let id = principal(&self.place.server, Kind::User, roles).await;
        self.link(&id, user).await;
        id
    }

    async fn link(&self, id: &str, user: &str) {
        let request = LinkPrincipalRequest {
            principal_id: id.to_owned(),
            provider: format!("slack:{TEAM}"),
            subject: user.to_owned(),
        };
        self.place.owner().link_principal(&request, None).await.unwrap();
    }

    async fn approval(&self, on: &Action) -> Approval {
        let request = GetApprovalRequest { approval_id: on.approval_id.clone() };
        self.place.owner().get_approval(&request).await.unwrap()
    }

    async fn press(&self, user: &str, button: &str, on: &Action) -> Reply {
        self.place.pressed(&payload(user, button, &value_of(on))).send().await
    }

    /// What is said to who pressed.
    async fn told(&self, user: &str, on: &Action) -> String {
        said(&self.press(user, "tally_approve", on).await)
    }
}

fn said(reply: &Reply) -> String {
    let answer = reply.good();
    assert_eq!(answer["response_type"], "ephemeral", "{answer}");
    assert_eq!(answer["replace_original"], false, "{answer}");
    answer["text"].as_str().unwrap().to_owned()
}

fn value_of(on: &Action) -> String {
    format!("{}:{}", on.approval_id, on.plan_digest.trim_start_matches("sha256:"))
}

fn payload(user: &str, button: &str, value: &str) -> Value {
    json!({
        "type": "block_actions",
        "user": {"id": user, "username": "somebody", "team_id": TEAM},
        "team": {"id": TEAM, "domain": "acme"},
        "api_app_id": "A0APP",
        "trigger_id": "12466734323.1395872398",
        "container": {"type": "message", "message_ts": "1548261231.000200"},
        "response_url": "https://hooks.slack.com/actions/T0TEAM/1/x",
        "actions": [{
            "type": "button",
            "action_id": button,
            "block_id": "tally:x",
            "value": value,
            "action_ts": "1548426417.840180",
        }],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_approver_approves_once() {
    let desk = Desk::new(&held_by(ONE)).await;
    let ann = desk.person("U0ANN", &["approver"]).await;
    let held = desk.held().await;
    let body = form(&payload("U0ANN", "tally_approve", &value_of(&held)));
    let time = now().to_string();
    let press = || {
        let ask = desk.place.slack_at(&time, &body);
        ask.header("content-type", "application/x-www-form-urlencoded").send()
    };
    let reply = press().await;
    assert_eq!((reply.status, reply.text().as_str()), (200, ""), "nothing is to be said");
    reaches(desk.place.owner(), &held.action_id, State::Executed).await;
    let approval = desk.approval(&held).await;
    assert_eq!(
        (approval.approvals.len(), approval.approvals[0].principal_id.as_str()),
        (1, ann.as_str())
    );
    // The very same request again does nothing.
    let again = said(&press().await);
    assert!(again.starts_with("Not decided: "), "{again}");
    assert_eq!(desk.approval(&held).await.approvals.len(), 1);
    assert_eq!(desk.effects(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_no_ends_it() {
    let desk = Desk::new(&held_by(ONE)).await;
    desk.person("U0ANN", &["approver"]).await;
    let held = desk.held().await;
    assert_eq!(desk.press("U0ANN", "tally_reject", &held).await.status, 200);
    reaches(desk.place.owner(), &held.action_id, State::Denied).await;
    assert_eq!(desk.approval(&held).await.state(), ApprovalState::Rejected);
    let late = desk.told("U0ANN", &held).await;
    assert!(late.starts_with("Not decided: "), "{late}");
    assert_eq!(desk.effects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_is_told_so_and_nothing_happens() {
    let desk = Desk::new(&held_by(ONE)).await;
    let held = desk.held().await;
    // Nobody here has this Slack user.
    let told = desk.told("U0NOBODY", &held).await;
    assert!(told.contains("tally principal link"), "{told}");
    assert!(told.contains(&format!("slack:{TEAM}")), "{told}");
    // Somebody without the role.
    desk.person("U0OPS", &["operator"]).await;
    assert!(desk.told("U0OPS", &held).await.contains("your roles"), "no approver");
    desk.person("U0ADMIN", &["admin"]).await;
    assert!(desk.told("U0ADMIN", &held).await.contains("your roles"), "no approver");
    // Somebody whose login was taken away, and who is disabled.
    let gone = desk.person("U0GONE", &["approver"]).await;
    let unlink = UnlinkPrincipalRequest {
        principal_id: gone.clone(),
        provider: format!("slack:{TEAM}"),
        subject: "U0GONE".to_owned(),
    };
    desk.place.owner().unlink_principal(&unlink, None).await.unwrap();
    assert!(desk.told("U0GONE", &held).await.contains("tally principal link"));
    let off = desk.person("U0OFF", &["approver"]).await;
    let disable = proto::identity::DisablePrincipalRequest { principal_id: off };
    desk.place.owner().disable_principal(&disable, None).await.unwrap();
    assert!(desk.told("U0OFF", &held).await.contains("tally principal link"));
    // Another plan than the one that is waited for.
    desk.person("U0ANN", &["approver"]).await;
    let other = format!("{}:{}", held.approval_id, "0".repeat(64));
    let reply = desk.place.pressed(&payload("U0ANN", "tally_approve", &other)).send().await;
    assert!(said(&reply).contains("plan digest"), "{}", reply.text());
    // Another approval, and none.
    let none = format!("apr_none:{}", "0".repeat(64));
    let reply = desk.place.pressed(&payload("U0ANN", "tally_approve", &none)).send().await;
    assert!(said(&reply).contains("no such approval"), "{}", reply.text());
    for value in ["", "apr_1", "apr_1:zz", "APR:00"] {
        let reply = desk.place.pressed(&payload("U0ANN", "tally_approve", value)).send().await;
        assert_eq!((reply.status, reply.code().as_str()), (400, "payload_invalid"), "{value}");
    }
    // Another team's person who has the same id there.
    let mut foreign = payload("U0ANN", "tally_approve", &value_of(&held));
    foreign["user"]["team_id"] = json!("T0OTHER");
    let reply = desk.place.pressed(&foreign).send().await;
    assert_eq!((reply.status, reply.code().as_str()), (400, "payload_invalid"));
    // What is not our button is nothing to us.
    let reply = desk.place.pressed(&payload("U0ANN", "tally_open", &value_of(&held))).send().await;
    assert_eq!((reply.status, reply.text().as_str()), (200, ""));
    let approval = desk.approval(&held).await;
    assert_eq!((approval.state(), approval.approvals.len()), (ApprovalState::Requested, 0));
    assert_eq!(desk.effects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_people_are_two_people() {
    let desk = Desk::new(&held_by(TWO)).await;
    desk.person("U0ANN", &["approver"]).await;
    desk.person("U0BEN", &["approver"]).await;
    let held = desk.held().await;
    assert_eq!(desk.press("U0ANN", "tally_approve", &held).await.text(), "");
    let twice = desk.told("U0ANN", &held).await;
    assert!(twice.contains("already decided"), "{twice}");
    assert_eq!(desk.approval(&held).await.state(), ApprovalState::Requested);
    assert_eq!(desk.effects(), 0);
    assert_eq!(desk.press("U0BEN", "tally_approve", &held).await.text(), "");
    reaches(desk.place.owner(), &held.action_id, State::Executed).await;
    assert_eq!(desk.effects(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asked_does_not_approve() {
    let desk = Desk::new(&held_by(ONE)).await;
    let key = desk.place.server.key(Kind::User, &["operator", "approver"], "dev").await;
    let who = client::Client::new(&desk.place.server.url, &key).unwrap();
    let me = who.get_me(&proto::me::GetMeRequest {}).await.unwrap().principal_id;
    desk.link(&me, "U0SELF").await;
    let held = desk.held_for(&who).await;
    let told = desk.told("U0SELF", &held).await;
    assert!(told.contains("who asked for an action may not approve it"), "{told}");
    assert_eq!(desk.effects(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_factor_is_shown_elsewhere() {
    let desk = Desk::new(&one_rule("REQUIRE_STEP_UP", "{}")).await;
    desk.person("U0ANN", &["approver"]).await;
    let held = desk.held().await;
    let told = desk.told("U0ANN", &held).await;
    let page = format!("{}/approvals/{}", desk.place.server.url, held.approval_id);
    assert!(told.contains(&page), "{told}");
    assert!(told.contains(&format!("tally approve {}", held.approval_id)), "{told}");
    assert_eq!(desk.approval(&held).await.state(), ApprovalState::Requested);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_an_owner_says_who_an_approver_is_on_slack() {
    let desk = Desk::new(&held_by(ONE)).await;
    let admin = desk.place.server.principal(Kind::User, &["admin"]).await;
    let approver = principal(&desk.place.server, Kind::User, &["approver"]).await;
    let request = |provider: &str, subject: &str| LinkPrincipalRequest {
        principal_id: approver.clone(),
        provider: provider.to_owned(),
        subject: subject.to_owned(),
    };
    let own = format!("slack:{TEAM}");
    let refused = crate::common::refusal(admin.link_principal(&request(&own, "U0ANN"), None).await);
    assert_eq!(refused, (403, "permission_denied".to_owned()));
    let owner = desk.place.owner();
    for (provider, subject, expect) in [
        (own.as_str(), "ann", (400, "invalid_argument")),
        ("slack:team", "U0ANN", (404, "not_found")),
        ("slack:", "U0ANN", (404, "not_found")),
    ] {
        let refused = owner.link_principal(&request(provider, subject), None).await;
        let (status, code) = crate::common::refusal(refused);
        assert_eq!((status, code.as_str()), expect, "{provider} {subject}");
    }
    owner.link_principal(&request(&own, "U0ANN"), None).await.unwrap();
    let other = principal(&desk.place.server, Kind::User, &["approver"]).await;
    let taken = LinkPrincipalRequest { principal_id: other, ..request(&own, "U0ANN") };
    let refused = crate::common::refusal(owner.link_principal(&taken, None).await);
    assert_eq!(refused, (409, "already_exists".to_owned()));
}
