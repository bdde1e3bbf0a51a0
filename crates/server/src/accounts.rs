//! Accounts: the budgets that actions spend from.

use std::collections::BTreeSet;
use std::sync::Arc;

use kernel::account::{Account, Opening, Passed, Purpose};
use kernel::ids::AccountId;
use kernel::machine::{Kind, Refusal, State};
use kernel::receipt::LogId;
use kernel::units::{Unit, Units};
use kernel::values::{Digest, MicroUsd};
use kernel::{limits as kernel_limits, plan};
use ledger::store::Class;
use ledger::{Batch, Committed};
use prost::Message;
use proto::accounts::accounts_service_server::AccountsService;
use proto::accounts::{
    Account as WireAccount, AccountAlert, AllotAccountRequest, CreateAccountRequest,
    FundAccountRequest, GetAccountRequest, GetTransferRequest, GiveBackAccountRequest,
    ListAccountsRequest, ListAccountsResponse, SetAccountAlertsRequest, ThawAccountRequest,
    Transfer as WireTransfer, TransferAccountRequest, UnitBalance,
};
use proto::types::Units as WireUnits;
use proto::wire::Timestamp;
use tonic::{Request, Response, Status};

use crate::error::{Refused, Result};
use crate::shared::{Caller, Mutated, Shared, new_id};
use crate::{limits, paging, transfers};

/// The part of an account's content that is its name.
const NAME: &str = "name";

/// The code of a refusal because something has changed since it was read.
const MOVED: &str = "version_conflict";

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
            spent_micro_usd: account.spent().0,
            held_micro_usd: account.held.0,
            available_micro_usd: account.available().0,
            frozen: account.frozen,
            parent_account_id: account
                .parent
                .as_ref()
                .map_or_else(String::new, |id| id.to_string()),
            allotted_micro_usd: account.allotted.0,
            closed: account.closed,
            units: balances(account),
            alert_at_percent: account.alert_at.iter().map(|percent| (*percent).into()).collect(),
            alerts: account.alerts.iter().map(|passed| alert(&caller.log(), passed)).collect(),
            receipts: vec![caller.log().receipt_id(account.last_receipt)],
            name: String::from_utf8(name.unwrap_or_default()).map_err(Refused::internal)?,
        })
    }

    /// The account that a mutation was about, as it is now.
    fn answer(&self, caller: &Caller, mutated: &Mutated, id: &str) -> Result<WireAccount> {
        match mutated {
            Mutated::Fresh(committed) => match told(&self.0, committed).state(Kind::Account, id) {
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
        let mut opening = Opening::of(Purpose::Budget);
        if !wire.parent_account_id.is_empty() {
            let parent = self.find(caller, &wire.parent_account_id)?;
            if parent.purpose != Purpose::Budget || parent.closed {
                return Err(Refused::invalid("parent_account_id: it allots to nobody"));
            }
            opening = plan::under(&parent);
        }
        opening.alert_at = percents(&wire.alert_at_percent)?;
        let mut batch = Batch::new(caller.log(), plan::open_with(&id, opening));
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
        let (amount, units) = amounts(wire.amount_micro_usd, wire.units)?;
        let account = self.budget(caller, &wire.account_id)?;
        if let Some(parent) = &account.parent {
            let message = format!("account `{parent}` is above it: allot from that one");
            return Err(Refused::invalid(message));
        }
        let batch = Batch::new(caller.log(), plan::fund_units(&account.id, amount, &units));
        let id = account.id.as_str();
        let mutated = self.0.mutate(caller, "account_fund", body, id, batch).await?;
        self.answer(caller, &mutated, id)
    }

    async fn allot(&self, caller: &Caller, wire: AllotAccountRequest) -> Result<WireAccount> {
        let body = Digest::of(&wire.encode_to_vec());
        let (amount, units) = amounts(wire.amount_micro_usd, wire.units)?;
        let account = self.budget(caller, &wire.account_id)?;
        if account.parent.is_none() {
            return Err(Refused::invalid("no account is above it: fund it"));
        }
        if account.closed {
            return Err(Refusal::AccountClosed { account: account.id }.into());
        }
        let batch = Batch::new(caller.log(), plan::allot_more(&account, amount, &units));
        let id = account.id.as_str();
        let mutated = self.0.mutate(caller, "account_allot", body, id, batch).await?;
        self.answer(caller, &mutated, id)
    }

    async fn give_back(
        &self,
        caller: &Caller,
        wire: GiveBackAccountRequest,
    ) -> Result<WireAccount> {
        let body = Digest::of(&wire.encode_to_vec());
        for _ in 0..limits::DECIDE_AGAIN_MAX {
            let account = self.budget(caller, &wire.account_id)?;
            let batch = Batch::new(caller.log(), plan::give_back(&account));
            let id = account.id.as_str();
            match self.0.mutate(caller, "account_give_back", body, id, batch).await {
                // Something was held or settled between reading and here.
                Err(Refused(failure)) if failure.code == MOVED => {}
                mutated => {
                    let mutated = mutated?;
                    self.0.queue.notify_one();
                    return self.answer(caller, &mutated, id);
                }
            }
        }
        Err(Refusal::Moved.into())
    }

    async fn alerts(&self, caller: &Caller, wire: SetAccountAlertsRequest) -> Result<WireAccount> {
        let body = Digest::of(&wire.encode_to_vec());
        let alert_at = percents(&wire.alert_at_percent)?;
        let account = self.budget(caller, &wire.account_id)?;
        let id = account.id.as_str();
        let batch = Batch::new(caller.log(), plan::watch(&account.id, alert_at));
        let mutated = self.0.mutate(caller, "account_alerts", body, id, batch).await?;
        self.answer(caller, &mutated, id)
    }

    async fn thaw(&self, caller: &Caller, wire: ThawAccountRequest) -> Result<WireAccount> {
        let body = Digest::of(&wire.encode_to_vec());
        let account = self.budget(caller, &wire.account_id)?;
        let id = account.id.as_str();
        let batch = Batch::new(caller.log(), plan::thaw(&account.id));
        let mutated = self.0.mutate(caller, "account_thaw", body, id, batch).await?;
        self.answer(caller, &mutated, id)
    }

    fn budget(&self, caller: &Caller, id: &str) -> Result<Account> {
        let account = self.find(caller, id)?;
        if account.purpose != Purpose::Budget {
            return Err(Refused::invalid("only accounts that pay for actions are managed"));
        }
        Ok(account)
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

/// Settles a closed account with the one above it, now that something that was held for it is
/// settled.
pub(crate) async fn settle(shared: &Shared, log: &LogId, account: &Account) -> Result<()> {
    let committed = shared.ledger.commit(Batch::new(log.clone(), plan::give_back(account))).await?;
    told(shared, &committed);
    Ok(())
}

/// Raises the alerts that a commit has recorded.
pub(crate) fn told<'a>(shared: &Shared, committed: &'a Committed) -> &'a Committed {
    for (_, state) in &committed.states {
        let State::Account(account) = state.as_ref() else { continue };
        let new = |passed: &&Passed| Some(passed.receipt) == committed.index;
        for Passed { alert, .. } in account.alerts.iter().filter(new) {
            let (measure, percent) = (alert.measure.as_str(), alert.percent);
            shared.metrics.budget_alert(measure);
            tracing::warn!(account = %account.id, measure, percent, "a budget runs low");
        }
    }
    committed
}

fn balances(account: &Account) -> Vec<UnitBalance> {
    let books = &account.units;
    let (used, available) = (account.used(), books.available());
    let balance = |unit: &Unit| UnitBalance {
        unit: unit.to_string(),
        funded: books.credits.get(*unit),
        used: used.get(*unit),
        allotted: books.allotted.get(*unit),
        held: books.held.get(*unit),
        available: available.get(*unit),
    };
    books.bounds.iter().map(balance).collect()
}

fn alert(log: &LogId, passed: &Passed) -> AccountAlert {
    AccountAlert {
        measure: passed.alert.measure.as_str().to_owned(),
        percent: passed.alert.percent.into(),
        passed_at: Some(Timestamp::from_micros(passed.at.0)),
        receipt_id: log.receipt_id(passed.receipt),
    }
}

/// Money and units of a request: at least one of them.
pub(crate) fn amounts(amount: i64, units: Option<WireUnits>) -> Result<(MicroUsd, Units)> {
    let WireUnits { tokens, calls, writes, cpu_ms } = units.unwrap_or_default();
    let units: Units = Unit::ALL.into_iter().zip([tokens, calls, writes, cpu_ms]).collect();
    if !(0..=kernel_limits::AMOUNT_MICRO_USD_MAX).contains(&amount)
        || (amount == 0 && units.is_empty())
    {
        return Err(Refused::invalid("amount_micro_usd is 1 to 1000000000000000"));
    }
    if units.iter().any(|(_, n)| n > kernel_limits::AMOUNT_UNITS_MAX) {
        return Err(Refused::invalid("units: each is at most 1000000000000000"));
    }
    Ok((MicroUsd(amount), units))
}

fn percents(wire: &[u32]) -> Result<BTreeSet<u8>> {
    let fits = |percent: &u32| u8::try_from(*percent).ok().filter(|p| (1..=100).contains(p));
    let percents: Option<BTreeSet<u8>> = wire.iter().map(fits).collect();
    let percents = percents.filter(|p| p.len() <= kernel_limits::ALERTS_PER_ACCOUNT_MAX);
    percents.ok_or_else(|| Refused::invalid("alert_at_percent: at most 4 from 1 to 100"))
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

    async fn allot_account(&self, request: Request<AllotAccountRequest>) -> Reply<WireAccount> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.allot(&caller, request.into_inner()).await?))
    }

    async fn give_back_account(
        &self,
        request: Request<GiveBackAccountRequest>,
    ) -> Reply<WireAccount> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.give_back(&caller, request.into_inner()).await?))
    }

    async fn set_account_alerts(
        &self,
        request: Request<SetAccountAlertsRequest>,
    ) -> Reply<WireAccount> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.alerts(&caller, request.into_inner()).await?))
    }

    async fn thaw_account(&self, request: Request<ThawAccountRequest>) -> Reply<WireAccount> {
        let caller = crate::caller(&request)?;
        Ok(Response::new(self.thaw(&caller, request.into_inner()).await?))
    }

    async fn transfer_account(
        &self,
        request: Request<TransferAccountRequest>,
    ) -> Reply<WireTransfer> {
        let (caller, wire) = (crate::caller(&request)?, request.into_inner());
        self.budget(&caller, &wire.account_id)?;
        Ok(Response::new(transfers::send(&self.0, &caller, wire).await?))
    }

    async fn get_transfer(&self, request: Request<GetTransferRequest>) -> Reply<WireTransfer> {
        let caller = crate::caller(&request)?;
        let id = &request.get_ref().transfer_id;
        Ok(Response::new(transfers::show(&self.0, &caller, id)?))
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
