//! Accounts, agents that pay from them, and tenants.

use client::Client;
use proto::accounts::{Account, CreateAccountRequest, FundAccountRequest, GetAccountRequest};
use proto::identity::principal::Kind;
use proto::identity::{CreateKeyRequest, CreatePrincipalRequest};
use proto::policies::{CreatePolicyDraftRequest, PublishPolicyRequest};
use serde_json::json;

use super::wire::Wire;
use super::{Server, WORKSPACE, allow_all};

impl Server {
    /// A new agent that pays from a new account of `funded` micro-USD.
    pub(crate) async fn paying_agent(&self, account_id: &str, funded: i64) -> Client {
        self.paying_agent_of(&self.owner, account_id, funded).await
    }

    /// The same in the tenant of `owner`.
    pub(crate) async fn paying_agent_of(
        &self,
        owner: &Client,
        account_id: &str,
        amount_micro_usd: i64,
    ) -> Client {
        let account_id = account_id.to_owned();
        let request = CreateAccountRequest {
            account_id: account_id.clone(),
            name: String::new(),
            ..Default::default()
        };
        owner.create_account(&request, None).await.unwrap();
        let agent = self.agent_of(owner, &account_id).await;
        let request = FundAccountRequest { account_id, amount_micro_usd, units: None };
        owner.fund_account(&request, None).await.unwrap();
        agent
    }

    /// A new agent that pays from an account that is there.
    pub(crate) async fn agent_paying_from(&self, account_id: &str) -> Client {
        self.agent_of(&self.owner, account_id).await
    }

    /// A new agent in the tenant of `owner`, which pays from `account_id`, or from none where that
    /// is empty.
    pub(crate) async fn agent_of(&self, owner: &Client, account_id: &str) -> Client {
        let request = CreatePrincipalRequest {
            kind: Kind::Agent.into(),
            name: "an agent with a budget".to_owned(),
            roles: vec!["agent".to_owned()],
            account_id: account_id.to_owned(),
        };
        let principal = owner.create_principal(&request, None).await.unwrap();
        let request = CreateKeyRequest {
            principal_id: principal.principal_id,
            workspace: WORKSPACE.to_owned(),
            environment: "dev".to_owned(),
            ..Default::default()
        };
        let key = owner.create_key(&request, None).await.unwrap().key;
        Client::new(&self.url, &key).unwrap()
    }

    /// The key of the owner of a new tenant, whose policy allows everything.
    pub(crate) async fn tenant(&self, name: &str) -> String {
        let ask = Wire::new(&self.url).ask_as(&self.owner_key(), "POST", "/v1/tenants");
        let made = ask.json(&json!({"tenant": name})).send().await.good();
        let key = made["owner"]["key"].as_str().unwrap().to_owned();
        let owner = Client::new(&self.url, &key).unwrap();
        let bundle = allow_all().pack_unsigned().unwrap();
        let draft = CreatePolicyDraftRequest { bundle, description: String::new() };
        let policy_id = owner.create_policy_draft(&draft, None).await.unwrap().policy_id;
        owner.publish_policy(&PublishPolicyRequest { policy_id }, None).await.unwrap();
        key
    }

    pub(crate) async fn fund(&self, account_id: &str, amount_micro_usd: i64) {
        let account_id = account_id.to_owned();
        let request = FundAccountRequest { account_id, amount_micro_usd, units: None };
        self.owner.fund_account(&request, None).await.unwrap();
    }

    /// An account as it is, after checking that it was not overdrawn.
    pub(crate) async fn account(&self, account_id: &str) -> Account {
        let request = GetAccountRequest { account_id: account_id.to_owned() };
        let account = self.owner.get_account(&request).await.unwrap();
        let Account { funded_micro_usd, spent_micro_usd, held_micro_usd, .. } = account;
        assert!(spent_micro_usd >= 0 && held_micro_usd >= 0, "{account:?}");
        let gone = spent_micro_usd + held_micro_usd + account.allotted_micro_usd;
        let left = funded_micro_usd - gone;
        assert!(left >= 0 && account.available_micro_usd == left, "{account:?}");
        account
    }
}
