//! Accounts: the budgets that actions spend from.

use std::sync::Arc;

use kernel::account::{Account, Purpose};
use kernel::ids::AccountId;
use kernel::machine::{Kind, State};
use kernel::values::{Digest, MicroUsd};
use kernel::{limits as kernel_limits, plan};
use ledger::Batch;
use ledger::store::Class;
use prost::Message;
use proto::accounts::accounts_service_server::AccountsService;
use proto::accounts::{
    Account as WireAccount, CreateAccountRequest, FundAccountRequest, GetAccountRequest,
    ListAccountsRequest, ListAccountsResponse,
};
use tonic::{Request, Response, Status};

use crate::error::{Refused, Result};
use crate::shared::{Caller, Mutated, Shared, new_id};
use crate::{limits, paging};

/// The part of an account's content that is its name.
const NAME: &str = "name";

/// Serves accounts.
pub(crate) struct AccountsApi(pub(crate) Arc<Shared>);

type Reply<T> = std::result::Result<Response<T>, Status>;

/// What an account's content is kept under: ids repeat from workspace to workspace.
fn content_id(caller: &Caller, id: &str) -> String {
    format!("{}/{id}", caller.workspace)
}

impl AccountsApi {
    fn find(&self, caller: &Caller, id: &str) -> Result<Account> {
        match self.0.ledger.read(&caller.log(), Kind::Account, id)? {
            Some(State::Account(account)) => Ok(account),
            _ => Err(Refused::not_found("account")),
        }
    }

    fn wire(&self, caller: &Caller, account: &Account) -> Result<WireAccount> {
        let id = account.id.as_str();
        let name = self.0.vault.open(caller.tenant.as_str(), &content_id(caller, id), NAME)?;
        Ok(WireAccount {
            account_id: id.to_owned(),
            funded_micro_usd: account.credits.0,
            spent_micro_usd: account.debits.0,
            held_micro_usd: account.held.0,
            available_micro_usd: account.available().0,
            frozen: account.frozen,
            receipts: vec![caller.log().receipt_id(account.last_receipt)],
            name: String::from_utf8(name.unwrap_or_default()).map_err(Refused::internal)?,
        })
    }

    /// The account that a mutation was about, as it is now.
    fn answer(&self, caller: &Caller, mutated: &Mutated, id: &str) -> Result<WireAccount> {
        match mutated {
            Mutated::Fresh(committed) => match committed.state(Kind::Account, id) {
                Some(State::Account(account)) => self.wire(caller, account),
                _ => Err(Refused::internal("a change of an account left none behind")),
            },
            Mutated::Repeat(id) => self.wire(caller, &self.find(caller, id)?),
        }
    }

    async fn create(&self, caller: &Caller, wire: CreateAccountRequest) -> Result<WireAccount> {
        let body = Digest::of(&wire.encode_to_vec());
        let id = account_id(&wire.account_id)?;
        if wire.name.len() > limits::TEXT_BYTES_MAX {
            return Err(Refused::invalid("name: at most 2000 characters"));
        }
        let mut batch = Batch::new(caller.log(), plan::open_account(&id));
        if !wire.name.is_empty() {
            let (tenant, now) = (caller.tenant.as_str(), self.0.now());
            let content = content_id(caller, id.as_str());
            let name = wire.name.as_bytes();
            let row = self.0.vault.seal(tenant, &content, NAME, Class::Record, name, now).await?;
            batch.side.push(row);
        }
        let mutated = self.0.mutate(caller, "accounts", body, id.as_str(), batch).await?;
        self.answer(caller, &mutated, id.as_str())
    }

    async fn fund(&self, caller: &Caller, wire: FundAccountRequest) -> Result<WireAccount> {
        let body = Digest::of(&wire.encode_to_vec());
        let amount = wire.amount_micro_usd;
        if !(1..=kernel_limits::AMOUNT_MICRO_USD_MAX).contains(&amount) {
            return Err(Refused::invalid("amount_micro_usd is 1 to 1000000000000000"));
        }
        let account = self.find(caller, &wire.account_id)?;
        if account.purpose != Purpose::Budget {
            return Err(Refused::invalid("only accounts that pay for actions are funded"));
        }
        let batch = Batch::new(caller.log(), plan::fund(&account.id, MicroUsd(amount)));
        let id = account.id.as_str();
        let mutated = self.0.mutate(caller, "account_fund", body, id, batch).await?;
        self.answer(caller, &mutated, id)
    }

    fn list(&self, caller: &Caller, wire: &ListAccountsRequest) -> Result<ListAccountsResponse> {
        let page = paging::page(wire.page_size, &wire.page_token, None);
        let states = self.0.ledger.list(&caller.log(), Kind::Account, &page)?;
        let next_page_token = paging::next(&page, states.len(), || match states.last() {
            Some(State::Account(account)) => account.id.to_string(),
            _ => String::new(),
        });
        let mut accounts = Vec::with_capacity(states.len());
        for state in &states {
            if let State::Account(account) = state {
                accounts.push(self.wire(caller, account)?);
            }
        }
        Ok(ListAccountsResponse { accounts, next_page_token })
    }
}

/// The id that was asked for, or a new one.
fn account_id(asked: &str) -> Result<AccountId> {
    if [plan::SPEND_ACCOUNT, plan::FUNDING_ACCOUNT].contains(&asked) {
        let message = "`spend` and `funding` belong to the log itself: choose another account_id";
        return Err(Refused::invalid(message));
    }
    let id = if asked.is_empty() { new_id("acc") } else { asked.to_owned() };
    AccountId::new(id).map_err(|error| Refused::invalid(error.to_string()))
}

#[tonic::async_trait]
impl AccountsService for AccountsApi {
    async fn create_account(&self, request: Request<CreateAccountRequest>) -> Reply<WireAccount> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.create(&caller, request.into_inner()).await?))
    }

    async fn fund_account(&self, request: Request<FundAccountRequest>) -> Reply<WireAccount> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.fund(&caller, request.into_inner()).await?))
    }

    async fn get_account(&self, request: Request<GetAccountRequest>) -> Reply<WireAccount> {
        let caller = crate::caller(&request)?;
        let account = self.find(&caller, &request.get_ref().account_id)?;
        Ok(Response::new(self.wire(&caller, &account)?))
    }

    async fn list_accounts(
        &self,
        request: Request<ListAccountsRequest>,
    ) -> Reply<ListAccountsResponse> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.list(&caller, request.get_ref())?))
    }
}
