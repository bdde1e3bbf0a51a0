//! Who decides about what an agent asks on behalf of a user: the user may, unless policy is strict;
//! no agent of the chain ever does.

use client::Client;
use proto::actions::action::State;
use proto::actions::{Action, SubmitActionRequest};
use proto::identity::principal::Kind;
use proto::receipts::GetReceiptRequest;
use serde_json::{Value, json};

use crate::common::desk::{approve, held_by};
use crate::common::phone::Phone;
use crate::common::{reaches, refusal};
use crate::emergency::{REASONS, break_glass};
use crate::tokens::{Desk, Who, oauth_error};

const NORMAL: &str = r#"{"approval": {"quorum": 1}}"#;
const STRICT: &str = r#"{"approval": {"quorum": 1}, "sod": "strict"}"#;

impl Desk {
    fn of(&self, who: &Who) -> Client {
        self.client(&who.key)
    }

    /// Who may submit, decide and break glass.
    async fn delegator(&self) -> Who {
        self.enrol(Kind::User, &["operator", "approver", "responder"]).await
    }

    /// An agent with every role that an agent may have.
    async fn wide_agent(&self) -> Who {
        self.enrol(Kind::Agent, &["agent", "viewer", "auditor"]).await
    }

    /// What the bearer of `token` submits, held for people.
    async fn held(&self, token: &str) -> Action {
        let request = SubmitActionRequest { wait_ms: Some(0), ..self.write() };
        let held = self.client(token).submit_action(&request, None).await.unwrap();
        assert_eq!(held.state(), State::AwaitingApproval, "{held:?}");
        held
    }

    /// The effect happened once, and each chain in the action's receipts is this one.
    async fn executed_for(&self, held: &Action, chain: &[(&Who, &str)]) {
        let done = reaches(&self.server.owner, &held.action_id, State::Executed).await;
        assert_eq!(std::fs::read_to_string(&self.file).unwrap(), "once\n");
        let chain: Vec<Value> =
            chain.iter().map(|(who, kind)| json!({"id": who.id, "kind": kind})).collect();
        let mut chains = Vec::new();
        for receipt_id in &done.receipts {
            let request = GetReceiptRequest { receipt_id: receipt_id.clone() };
            let receipt = self.server.owner.get_receipt(&request).await.unwrap();
            chains_of(&receipt.statement.unwrap().decode().unwrap(), &mut chains);
        }
        assert!(!chains.is_empty(), "a receipt says who acts for whom");
        assert!(chains.iter().all(|found| *found == json!(chain)), "{chains:?}");
    }
}

/// Every chain of actors in a statement.
fn chains_of(statement: &Value, found: &mut Vec<Value>) {
    match statement {
        Value::Object(fields) => {
            let own = fields.get("actors").filter(|actors| actors[0].is_object());
            found.extend(own.cloned());
            fields.values().for_each(|value| chains_of(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| chains_of(value, found)),
        _ => {}
    }
}

fn forbidden(code: &str) -> (u16, String) {
    (403, code.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_decides_what_their_agent_asks() {
    let desk = Desk::new(&held_by(NORMAL)).await;
    let (user, agent) = (desk.delegator().await, desk.wide_agent().await);
    let token = desk.token(&user.key, &agent.key, &[]).await;
    let held = desk.held(&token).await;
    assert_eq!(refusal(approve(&desk.of(&agent), &held).await), forbidden("permission_denied"));
    let granted = approve(&desk.of(&user), &held).await.unwrap();
    assert_eq!((&granted.approvals[0].principal_id, granted.sod.as_str()), (&user.id, "normal"));
    desk.executed_for(&held, &[(&user, "user"), (&agent, "agent")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strict_policy_wants_somebody_else() {
    let desk = Desk::new(&held_by(STRICT)).await;
    let (user, agent) = (desk.delegator().await, desk.wide_agent().await);
    let other = desk.enrol(Kind::User, &["approver"]).await;
    let token = desk.token(&user.key, &agent.key, &[]).await;
    let held = desk.held(&token).await;
    assert_eq!(refusal(approve(&desk.of(&user), &held).await), forbidden("self_approval"));
    assert_eq!(refusal(approve(&desk.of(&agent), &held).await), forbidden("permission_denied"));
    assert!(!desk.file.exists());
    let granted = approve(&desk.of(&other), &held).await.unwrap();
    assert_eq!((&granted.approvals[0].principal_id, granted.sod.as_str()), (&other.id, "strict"));
    desk.executed_for(&held, &[(&user, "user"), (&agent, "agent")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_agent_of_a_chain_decides_whatever_it_holds() {
    let desk = Desk::new(&held_by(NORMAL)).await;
    let user = desk.delegator().await;
    let (first, second) = (desk.wide_agent().await, desk.wide_agent().await);
    let one = desk.token(&user.key, &first.key, &[]).await;
    let two = desk.token(&one, &second.key, &[]).await;
    let held = desk.held(&two).await;
    // By what was delegated, by their own keys, and by tokens of their own.
    let own = [desk.token(&first.key, "", &[]).await, desk.token(&second.key, "", &[]).await];
    for credential in [&one, &two, &first.key, &second.key, &own[0], &own[1]] {
        let refused = refusal(approve(&desk.client(credential), &held).await);
        assert_eq!(refused, forbidden("permission_denied"));
    }
    let wanted = [("scope", "approvals:decide approvals:read")];
    for (subject, actor) in
        [(&user.key, &first.key), (&one, &second.key), (&first.key, &String::new())]
    {
        let reply = desk.exchanged(subject, actor, &wanted).await;
        assert_eq!(oauth_error(&reply), (400, "invalid_scope".to_owned()), "no token says so");
    }
    // Nor can an agent be given the role.
    let path = format!("/v1/principals/{}/roles", first.id);
    let roles = json!({"roles": ["agent", "approver"]});
    let given = desk.wire.ask_as(&desk.server.owner_key(), "POST", &path).json(&roles).send().await;
    assert_eq!((given.status, given.code().as_str()), (400, "invalid_argument"));
    assert!(!desk.file.exists());
    approve(&desk.of(&user), &held).await.unwrap();
    let chain = [(&user, "user"), (&first, "agent"), (&second, "agent")];
    desk.executed_for(&held, &chain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_delegated_breaks_no_glass() {
    for policy in [NORMAL, STRICT] {
        let desk = Desk::new(&held_by(policy)).await;
        let (user, agent) = (desk.delegator().await, desk.wide_agent().await);
        let mut phone = Phone::of(&desk.of(&user)).await;
        let token = desk.token(&user.key, &agent.key, &[]).await;
        let held = desk.held(&token).await;
        let code = phone.code().await;
        let refused = refusal(break_glass(&desk.of(&user), &held, &REASONS, &code).await);
        assert_eq!(refused, forbidden("self_approval"), "{policy}");
        let refused = refusal(break_glass(&desk.client(&token), &held, &REASONS, &code).await);
        assert_eq!(refused, forbidden("permission_denied"), "{policy}");
        assert!(!desk.file.exists());
        // Somebody who takes no part may.
        let other = desk.enrol(Kind::User, &["responder"]).await;
        let mut phone = Phone::of(&desk.of(&other)).await;
        let code = phone.code().await;
        break_glass(&desk.of(&other), &held, &REASONS, &code).await.unwrap();
        desk.executed_for(&held, &[(&user, "user"), (&agent, "agent")]).await;
    }
}
