//! Cards: posted once for each approval, changed with it, through every crash.

use std::collections::BTreeMap;

use kernel::dsse::Envelope;
use proto::actions::action::State;
use proto::actions::{Action, CancelActionRequest};
use proto::approvals::{Choice, DecideApprovalRequest, ListApprovalsRequest};
use proto::connectors::{
    ConfigureConnectorRequest, ConnectorConfig, ConnectorCredential, InstallConnectorRequest,
};
use proto::identity::LinkPrincipalRequest;
use proto::identity::principal::Kind;
use proto::secrets::PutSecretRequest;
use proto::triggers::{CreateTriggerRequest, Slack as SlackSettings};
use rusqlite::Connection;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::slack::{Message, Mood, Slack};
use super::{CHANNEL, Place, TEAM, principal};
use crate::common::wire::Wire;
use crate::common::{LOOK_EVERY, PATIENCE, action, reaches, rego};

/// The connector that is shipped.
const DEFINITION: &str = include_str!("../../../../catalog/connectors/slack.yaml");
const BOT: &str = "xoxb-bot-token-of-a-test-Wn55";

struct Desk {
    slack: Slack,
    place: Place,
    agent: client::Client,
    file: String,
}

fn policy(obligations: &str) -> policy::Source {
    rego(&format!(
        r#"decisions contains {{"effect": "ALLOW", "rule": "R-ALL", "reason": "all"}} if true

        decisions contains {{
            "effect": "REQUIRE_APPROVAL", "rule": "R-HELD", "reason": "held",
            "obligations": {obligations},
        }} if input.tool.id == "core.fs_write""#
    ))
}

impl Desk {
    async fn new(obligations: &str, cards: &str) -> Self {
        Self::with(obligations, cards, "").await
    }

    /// The same, with more of a configuration.
    async fn with(obligations: &str, cards: &str, more: &str) -> Self {
        let slack = Slack::start().await;
        let place = Place::configured(&policy(obligations), Some(slack.address), more).await;
        let secret = PutSecretRequest { name: "slack-bot".to_owned(), value: BOT.to_owned() };
        let owner = place.owner();
        owner.put_secret(&secret, None).await.unwrap();
        let install = InstallConnectorRequest {
            definition: DEFINITION.to_owned(),
            ..InstallConnectorRequest::default()
        };
        owner.install_connector(&install, None).await.unwrap();
        let token = ConnectorCredential { role: "token".into(), secret: "slack-bot".into() };
        let config = ConnectorConfig {
            base_url: format!("http://{}", slack.address),
            credentials: vec![token],
            ..ConnectorConfig::default()
        };
        let configure = ConfigureConnectorRequest {
            name: "slack".to_owned(),
            config: Some(config),
            ..ConfigureConnectorRequest::default()
        };
        owner.configure_connector(&configure, None).await.unwrap();
        let settings = SlackSettings {
            team: TEAM.to_owned(),
            channel: CHANNEL.to_owned(),
            cards: cards.to_owned(),
            ..SlackSettings::default()
        };
        let trigger = CreateTriggerRequest {
            workflow: String::new(),
            slack: Some(settings),
            ..place.trigger("slack", &[])
        };
        place.create(&trigger).await;
        let agent = place.server.principal(Kind::Agent, &["agent"]).await;
        let file = place.files.path().canonicalize().unwrap().join("effects");
        let file = file.to_str().unwrap().to_owned();
        Self { slack, place, agent, file }
    }

    async fn held(&self) -> Action {
        let params = json!({"path": self.file, "content": "once\n", "mode": "append"});
        let mut request = action("core.fs_write", &params);
        request.wait_ms = Some(0);
        let held = self.agent.submit_action(&request, None).await.unwrap();
        assert_eq!(held.state(), State::AwaitingApproval, "{held:?}");
        held
    }

    /// The messages about an approval, once `is` holds of them.
    async fn cards(&self, on: &Action, is: impl Fn(&[Message]) -> bool) -> Vec<Message> {
        let end = Instant::now() + PATIENCE;
        loop {
            let of = |message: &Message| {
                message.body["metadata"]["event_payload"]["approval"] == on.approval_id.as_str()
            };
            let cards: Vec<Message> = self.slack.messages().into_iter().filter(of).collect();
            if is(&cards) {
                return cards;
            }
            assert!(Instant::now() < end, "it never comes: {cards:?}");
            sleep(LOOK_EVERY).await;
        }
    }

    async fn card(&self, on: &Action, heading: &str) -> Value {
        let starts = |message: &Message| heading_of(&message.body).starts_with(heading);
        let cards = self.cards(on, |cards| cards.iter().any(starts)).await;
        cards.into_iter().find(starts).unwrap().body
    }

    /// Waits until `is` holds.
    async fn until(&self, what: &str, is: impl AsyncFn() -> bool) {
        let end = Instant::now() + PATIENCE;
        while !is().await {
            assert!(Instant::now() < end, "{what} never comes");
            sleep(LOOK_EVERY).await;
        }
    }

    /// The receipts of the workspace that have this change, as they are stored.
    async fn receipts(&self, change: &str) -> Vec<String> {
        let store = Connection::open(self.place.server.data.join("runtime.sqlite")).unwrap();
        let mut rows = store.prepare("SELECT envelope FROM receipt").unwrap();
        let rows = rows.query_map([], |row| row.get::<_, Vec<u8>>(0)).unwrap();
        let payloads = rows.map(|row| Envelope::parse(&row.unwrap()).unwrap().payload);
        let texts = payloads.map(|payload| String::from_utf8(payload).unwrap());
        texts.filter(|text| text.contains(&format!("\"{change}\""))).collect()
    }

    /// What cards say is deleted once they say it for good.
    async fn keeps_nothing(&self) {
        let store = Connection::open(self.place.server.data.join("runtime.sqlite")).unwrap();
        self.until("the end of what a card keeps", async || {
            let count = "SELECT count(*) FROM content WHERE part = 'card'";
            store.query_row(count, [], |row| row.get::<_, i64>(0)).unwrap() == 0
        })
        .await;
    }

    async fn link(&self, user: &str, roles: &[&str]) -> String {
        let principal_id = principal(&self.place.server, Kind::User, roles).await;
        let link = LinkPrincipalRequest {
            principal_id: principal_id.clone(),
            provider: format!("slack:{TEAM}"),
            subject: user.to_owned(),
        };
        self.place.owner().link_principal(&link, None).await.unwrap();
        principal_id
    }

    /// Presses a button of a card, as Slack tells of it.
    async fn press(&self, user: &str, card: &Value, button: &str) -> u16 {
        let action = buttons(card).into_iter().find(|one| one["action_id"] == button).unwrap();
        let payload = json!({
            "type": "block_actions",
            "user": {"id": user, "team_id": TEAM},
            "team": {"id": TEAM},
            "actions": [action],
        });
        self.place.pressed(&payload).send().await.status
    }
}

fn blocks(card: &Value) -> &[Value] {
    card["blocks"].as_array().unwrap()
}

fn heading_of(card: &Value) -> String {
    let header = blocks(card).iter().find(|block| block["type"] == "header").unwrap();
    header["text"]["text"].as_str().unwrap().to_owned()
}

fn buttons(card: &Value) -> Vec<Value> {
    let of = |block: &Value| block["elements"].as_array().cloned().unwrap();
    blocks(card).iter().filter(|block| block["type"] == "actions").flat_map(of).collect()
}

/// A press by somebody who may not decide is told to them alone, where they pressed.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_decide_is_told_so_in_the_channel() {
    let desk = Desk::new(ONE, "full").await;
    desk.link("U0OPS", &["operator"]).await;
    let held = desk.held().await;
    let card = desk.card(&held, "Approval needed").await;
    for user in ["U0OPS", "U0NOBODY"] {
        assert_eq!(desk.press(user, &card, "tally_approve").await, 200);
    }
    let end = Instant::now() + PATIENCE;
    let told = loop {
        let told = desk.slack.whispers();
        if told.len() >= 2 {
            break told;
        }
        assert!(Instant::now() < end, "they are not told: {told:?}");
        sleep(LOOK_EVERY).await;
    };
    let said = |user: &str| {
        let mine = told.iter().find(|one| one["user"] == user).unwrap();
        assert_eq!(mine["channel"], CHANNEL);
        mine["text"].as_str().unwrap().to_owned()
    };
    assert!(said("U0OPS").contains("your roles do not let you decide this"), "{told:?}");
    assert!(said("U0NOBODY").contains("tally principal link"), "{told:?}");
    assert_eq!(told.len(), 2, "once each");
    assert_eq!(heading_of(&desk.card(&held, "Approval needed").await), heading_of(&card));
}

/// The next try of a card that failed once waits for people itself: then no time is due, and
/// nothing is said again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_card_whose_posting_waits_for_people_is_not_looked_at_meanwhile() {
    let mut desk = Desk::new(ONE, "full").await;
    desk.slack.set(Mood::Forbids(1), true);
    let held = desk.held().await;
    desk.until("a refused try", async || {
        desk.receipts("card.missed").await.iter().any(|text| text.contains("credential_refused"))
    })
    .await;
    let posting = r#"decisions contains {
        "effect": "REQUIRE_APPROVAL", "rule": "R-POST", "reason": "post",
        "obligations": {"approval": {"quorum": 1}},
    } if input.tool.id == "slack.post_approval_request""#;
    desk.place.server.publish(&rego(posting)).await;
    desk.until("a try that waits", async || !desk.receipts("card.asked").await.is_empty()).await;
    // It survives a crash, and goes on when the posting is approved.
    desk.place.server.kill();
    let before = desk.place.server.log();
    desk.place.server.restart();
    let waiting = ListApprovalsRequest::default();
    let waiting = desk.place.owner().list_approvals(&waiting).await.unwrap().approvals;
    let posting = waiting.iter().find(|one| one.approval_id != held.approval_id).unwrap();
    let approver = desk.place.server.principal(Kind::User, &["approver"]).await;
    let approve = DecideApprovalRequest {
        approval_id: posting.approval_id.clone(),
        plan_digest: posting.plan_digest.clone(),
        decision: Choice::Approve.into(),
        ..DecideApprovalRequest::default()
    };
    approver.decide_approval(&approve, None).await.unwrap();
    desk.card(&held, "Approval needed: core.fs_write").await;
    assert_eq!(desk.slack.messages().len(), 1);
    assert!(desk.place.server.terminate().success());
    for log in [before, desk.place.server.log()] {
        assert!(!log.contains("left for later"), "{log}");
    }
}

/// Slack says 200 and means that it is not well.
#[tokio::test(flavor = "multi_thread")]
async fn what_slack_says_of_itself_opens_its_circuit() {
    let circuits = "circuits: {failures: 1, ratio_percent: 100, ratio_calls: 1000, \
                    window_ms: 60000, open_ms: 3600000, open_max_ms: 3600000}";
    let desk = Desk::with(ONE, "full", circuits).await;
    desk.slack.set(Mood::Refuses(usize::MAX), true);
    desk.held().await;
    let open = r#"tally_connector_circuit{tenant="main",instance="slack",state="open"} 1"#;
    let wire = Wire::new(&desk.place.server.url);
    desk.until("an open circuit", async || {
        wire.ask("GET", "/metrics").send().await.text().lines().any(|line| line == open)
    })
    .await;
    assert_eq!(desk.slack.tokens().len(), 1, "it is left alone");
}

const ONE: &str = r#"{"approval": {"quorum": 1}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_card_asks_and_shows_what_was_answered() {
    let desk = Desk::new(r#"{"approval": {"quorum": 2}}"#, "full").await;
    desk.link("U0ANN", &["approver"]).await;
    let ben = desk.link("U0BEN", &["approver"]).await;
    let held = desk.held().await;
    let card = desk.card(&held, "Approval needed: core.fs_write").await;
    let text = card.to_string();
    for shown in ["content: once", "Risk: ", "Cost: at most $0.000000", "Until: ", "0 of 2"] {
        assert!(text.contains(shown), "{shown}: {text}");
    }
    let long = card["blocks"].to_string();
    assert!(!long.contains(&desk.file) || desk.file.len() <= 50, "values are cut: {long}");
    assert_eq!(desk.press("U0ANN", &card, "tally_approve").await, 200);
    let half = |cards: &[Message]| cards[0].body.to_string().contains("1 of 2");
    desk.cards(&held, half).await;
    assert_eq!(desk.press("U0BEN", &card, "tally_approve").await, 200);
    reaches(desk.place.owner(), &held.action_id, State::Executed).await;
    let after = desk.card(&held, "Approved: core.fs_write").await;
    assert!(buttons(&after).is_empty(), "{after}");
    // The action has ended and its document is gone; what was decided is still to be read.
    assert!(after.to_string().contains("content: once"), "{after}");
    desk.keeps_nothing().await;
    assert!(after.to_string().contains(&format!("{ben} approved")), "{after}");
    assert_eq!(desk.slack.messages().len(), 1);
    assert!(desk.slack.tokens().iter().all(|token| token == &format!("Bearer {BOT}")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_ends_with_its_approval() {
    let desk = Desk::new(ONE, "full").await;
    desk.link("U0ANN", &["approver"]).await;
    let rejected = desk.held().await;
    let card = desk.card(&rejected, "Approval needed").await;
    assert_eq!(desk.press("U0ANN", &card, "tally_reject").await, 200);
    assert!(buttons(&desk.card(&rejected, "Rejected").await).is_empty());
    let canceled = desk.held().await;
    desk.card(&canceled, "Approval needed").await;
    let cancel =
        CancelActionRequest { action_id: canceled.action_id.clone(), ..Default::default() };
    desk.agent.cancel_action(&cancel, None).await.unwrap();
    assert!(buttons(&desk.card(&canceled, "Canceled").await).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_card_expires_while_nobody_is_there() {
    let mut desk = Desk::new(r#"{"approval": {"quorum": 1, "expires_s": 3}}"#, "full").await;
    let held = desk.held().await;
    desk.card(&held, "Approval needed").await;
    desk.place.server.kill();
    desk.place.server.restart();
    assert!(buttons(&desk.card(&held, "Expired").await).is_empty());
    assert_eq!(desk.slack.messages().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_alone_has_nothing_that_anybody_wrote() {
    let desk = Desk::new(ONE, "metadata").await;
    let held = desk.held().await;
    let card = desk.card(&held, "Approval needed: core.fs_write").await;
    let text = card.to_string();
    assert!(!text.contains("once") && !text.contains("effects"), "{text}");
    assert_eq!(buttons(&card).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_slack_does_not_take_is_tried_again() {
    let desk = Desk::new(ONE, "full").await;
    desk.slack.set(Mood::Refuses(2), true);
    let held = desk.held().await;
    desk.card(&held, "Approval needed").await;
    assert_eq!(desk.slack.messages().len(), 1);
}

/// A post whose answer is lost is found again in the channel.
#[tokio::test(flavor = "multi_thread")]
async fn a_post_in_doubt_is_looked_up() {
    let desk = Desk::new(ONE, "full").await;
    desk.slack.set(Mood::Drops(1), true);
    desk.link("U0ANN", &["approver"]).await;
    let held = desk.held().await;
    let card = desk.card(&held, "Approval needed").await;
    assert_eq!(desk.press("U0ANN", &card, "tally_approve").await, 200);
    desk.card(&held, "Approved").await;
    assert_eq!(desk.slack.messages().len(), 1);
}

/// Where the channel cannot be read, another card says that it takes the place of the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_post_that_stays_in_doubt_is_replaced() {
    let desk = Desk::new(ONE, "full").await;
    desk.slack.set(Mood::Drops(1), false);
    desk.link("U0ANN", &["approver"]).await;
    let held = desk.held().await;
    let cards = desk.cards(&held, |cards| cards.len() == 2).await;
    let says = |card: &Message| card.body.to_string().contains("takes the place of an earlier one");
    assert_eq!(cards.iter().map(says).collect::<Vec<_>>(), [false, true]);
    // The buttons of both are good, once.
    assert_eq!(desk.press("U0ANN", &cards[0].body, "tally_approve").await, 200);
    reaches(desk.place.owner(), &held.action_id, State::Executed).await;
    assert_eq!(desk.press("U0ANN", &cards[1].body, "tally_approve").await, 200);
    desk.cards(&held, |cards| heading_of(&cards[1].body).starts_with("Approved")).await;
    assert_eq!(std::fs::read_to_string(&desk.file).unwrap(), "once\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_posts_no_second_card() {
    let mut desk = Desk::new(ONE, "full").await;
    desk.link("U0ANN", &["approver"]).await;
    let mut all = Vec::new();
    for _ in 0..4 {
        for _ in 0..3 {
            all.push(desk.held().await);
        }
        desk.place.server.kill();
        desk.place.server.restart();
    }
    for held in &all {
        desk.card(held, "Approval needed").await;
    }
    let card = desk.card(&all[0], "Approval needed").await;
    assert_eq!(desk.press("U0ANN", &card, "tally_approve").await, 200);
    desk.place.server.kill();
    desk.place.server.restart();
    desk.card(&all[0], "Approved").await;
    let mut times: BTreeMap<String, usize> = BTreeMap::new();
    for message in desk.slack.messages() {
        let of = message.body["metadata"]["event_payload"]["approval"].to_string();
        *times.entry(of).or_default() += 1;
    }
    assert_eq!(times.len(), all.len());
    assert!(times.values().all(|times| *times == 1), "{times:?}");
}
