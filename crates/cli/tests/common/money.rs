//! Accounts, and agents that pay from them.

use client::Client;
use proto::accounts::{Account, CreateAccountRequest, FundAccountRequest, GetAccountRequest};
use proto::identity::principal::Kind;
use proto::identity::{CreateKeyRequest, CreatePrincipalRequest};

use super::{Server, WORKSPACE};

impl Server {
    /// A new agent that pays from a new account of `funded` micro-USD.
    pub(crate) async fn paying_agent(&self, account_id: &str, funded: i64) -> Client {
        let account_id = account_id.to_owned();
        let request = CreateAccountRequest {
            account_id: account_id.clone(),
            name: String::new(),
            ..Default::default()
        };
        self.owner.create_account(&request, None).await.unwrap();
        self.fund(&account_id, funded).await;
        self.agent_paying_from(&account_id).await
    }

    /// A new agent that pays from an account that is there.
    pub(crate) async fn agent_paying_from(&self, account_id: &str) -> Client {
        let account_id = account_id.to_owned();
        let request = CreatePrincipalRequest {
            kind: Kind::Agent.into(),
            name: "an agent with a budget".to_owned(),
            roles: vec!["agent".to_owned()],
            account_id,
        };
        let principal = self.owner.create_principal(&request, None).await.unwrap();
        let request = CreateKeyRequest {
            principal_id: principal.principal_id,
            workspace: WORKSPACE.to_owned(),
            environment: "dev".to_owned(),
            ..Default::default()
        };
        let key = self.owner.create_key(&request, None).await.unwrap().key;
        Client::new(&self.url, &key).unwrap()
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
