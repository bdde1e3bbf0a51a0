//! `tally account`.

use clap::{Args, Subcommand};
use proto::accounts::{
    Account as Entry, AccountAlert, AllotAccountRequest, CreateAccountRequest, FundAccountRequest,
    GetAccountRequest, GetTransferRequest, GiveBackAccountRequest, ListAccountsRequest,
    SetAccountAlertsRequest, ThawAccountRequest, Transfer, TransferAccountRequest, UnitBalance,
};
use proto::types::Units;

use super::{Paging, next};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{fields, page, usd, when, yes};

/// `tally account`.
#[derive(Debug, Subcommand)]
pub(crate) enum Account {
    /// Create an account with nothing in it.
    Create {
        /// Its name, for people.
        #[arg(long, default_value = "")]
        name: String,
        /// The id that it is to have; without it the server chooses.
        #[arg(long, default_value = "")]
        id: String,
        /// The account that allots to it; without it, it stands alone.
        #[arg(long, value_name = "ID", default_value = "")]
        parent: String,
        /// At which shares of what it is funded with it raises an alert, such as `50,80,100`.
        #[arg(long, value_name = "PERCENT", value_delimiter = ',')]
        alert_at: Vec<u32>,
    },
    /// Add money and units to an account. It bounds the units from then on.
    Fund(Sum),
    /// Move money and units into an account from the one above it.
    Allot(Sum),
    /// Send money and units to an account of another workspace.
    Transfer {
        #[command(flatten)]
        sum: Sum,
        /// The workspace that they are for.
        #[arg(long, value_name = "WORKSPACE")]
        to_workspace: String,
        /// The account there; without it the one of the same id.
        #[arg(long, value_name = "ID", default_value = "")]
        to_account: String,
    },
    /// Show a transfer from or to this workspace.
    ShowTransfer {
        /// The id of the transfer.
        id: String,
    },
    /// Close an account; what it has left goes back to the one above it.
    GiveBack {
        /// The id of the account.
        id: String,
    },
    /// Say at which shares of what it was funded with an account raises an alert.
    Alerts {
        /// The id of the account.
        id: String,
        /// Such as `50,80,100`; without it at none.
        #[arg(long, value_name = "PERCENT", value_delimiter = ',')]
        at: Vec<u32>,
    },
    /// Let an account pay again that an overrun has frozen.
    Thaw {
        /// The id of the account.
        id: String,
    },
    /// List the accounts of the workspace.
    List(Paging),
    /// Show one account.
    Show {
        /// The id of the account.
        id: String,
    },
}

/// Money and units, and where they go.
#[derive(Debug, Args)]
pub(crate) struct Sum {
    /// The id of the account.
    id: String,
    /// How much, in millionths of a US dollar.
    #[arg(long, value_name = "N", default_value_t = 0)]
    amount_micro_usd: i64,
    /// Tokens that models read and write.
    #[arg(long, value_name = "N", default_value_t = 0)]
    tokens: u64,
    /// Attempts at actions.
    #[arg(long, value_name = "N", default_value_t = 0)]
    calls: u64,
    /// Attempts that change something.
    #[arg(long, value_name = "N", default_value_t = 0)]
    writes: u64,
    /// Milliseconds in which code runs.
    #[arg(long, value_name = "N", default_value_t = 0)]
    cpu_ms: u64,
    /// A key of your own: a repetition with the same key adds nothing.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

impl Sum {
    fn units(&self) -> Option<Units> {
        let Self { tokens, calls, writes, cpu_ms, .. } = *self;
        let units = Units { tokens, calls, writes, cpu_ms };
        (units != Units::default()).then_some(units)
    }
}

impl Account {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::Create { name, id: account_id, parent, alert_at } => {
                let request = CreateAccountRequest {
                    account_id,
                    name,
                    parent_account_id: parent,
                    alert_at_percent: alert_at,
                };
                output.show(&client.create_account(&request, None).await?, describe)?;
            }
            Self::Fund(sum) => {
                let units = sum.units();
                let Sum { id: account_id, amount_micro_usd, idempotency_key, .. } = sum;
                let request = FundAccountRequest { account_id, amount_micro_usd, units };
                let key = idempotency_key.as_deref();
                output.show(&client.fund_account(&request, key).await?, describe)?;
            }
            Self::Allot(sum) => {
                let units = sum.units();
                let Sum { id: account_id, amount_micro_usd, idempotency_key, .. } = sum;
                let request = AllotAccountRequest { account_id, amount_micro_usd, units };
                let key = idempotency_key.as_deref();
                output.show(&client.allot_account(&request, key).await?, describe)?;
            }
            Self::Transfer { sum, to_workspace, to_account } => {
                return transfer(context, sum, to_workspace, to_account).await;
            }
            Self::ShowTransfer { id: transfer_id } => {
                let request = GetTransferRequest { transfer_id };
                output.show(&client.get_transfer(&request).await?, describe_transfer)?;
            }
            Self::GiveBack { id: account_id } => {
                let request = GiveBackAccountRequest { account_id };
                output.show(&client.give_back_account(&request, None).await?, describe)?;
            }
            Self::Alerts { id: account_id, at: alert_at_percent } => {
                let request = SetAccountAlertsRequest { account_id, alert_at_percent };
                output.show(&client.set_account_alerts(&request, None).await?, describe)?;
            }
            Self::Thaw { id: account_id } => {
                let request = ThawAccountRequest { account_id };
                output.show(&client.thaw_account(&request, None).await?, describe)?;
            }
            Self::List(Paging { page_size, page_token }) => {
                let request = ListAccountsRequest { page_size, page_token };
                let list = client.list_accounts(&request).await?;
                output.show(&list, |list| {
                    let header = ["id", "name", "available", "held", "spent", "frozen"];
                    let rows = list.accounts.iter().map(row);
                    page(header, rows, &next(&list.next_page_token))
                })?;
            }
            Self::Show { id: account_id } => {
                let account = client.get_account(&GetAccountRequest { account_id }).await?;
                output.show(&account, describe)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn row(account: &Entry) -> [String; 6] {
    let money = [account.available_micro_usd, account.held_micro_usd, account.spent_micro_usd];
    let [available, held, spent] = money.map(usd);
    let Entry { account_id, name, frozen, .. } = account.clone();
    [account_id, name, available, held, spent, yes(frozen)]
}

fn balance(balance: &UnitBalance) -> String {
    let UnitBalance { unit, funded, used, allotted, held, available } = balance;
    format!("{available} of {funded} {unit} left ({used} used, {allotted} allotted, {held} held)")
}

fn alert(alert: &AccountAlert) -> String {
    let AccountAlert { measure, percent, passed_at, .. } = alert;
    format!("{percent} % of {measure} since {}", when(*passed_at))
}

async fn transfer(
    context: &Context,
    sum: Sum,
    to_workspace: String,
    to_account_id: String,
) -> anyhow::Result<Exit> {
    let units = sum.units();
    let Sum { id: account_id, amount_micro_usd, idempotency_key, .. } = sum;
    let request =
        TransferAccountRequest { account_id, to_workspace, to_account_id, amount_micro_usd, units };
    let key = idempotency_key.as_deref();
    let sent = context.client()?.transfer_account(&request, key).await?;
    context.output().show(&sent, describe_transfer)?;
    Ok(match sent.state.as_str() {
        "arrived" => Exit::Done,
        "returned" => Exit::NotExecuted,
        _ => Exit::Pending,
    })
}

fn describe_transfer(sent: &Transfer) -> String {
    let Units { tokens, calls, writes, cpu_ms } = sent.units.unwrap_or_default();
    let units = [("tokens", tokens), ("calls", calls), ("writes", writes), ("cpu_ms", cpu_ms)];
    let units = units.iter().filter(|(_, n)| *n > 0).map(|(unit, n)| format!("{n} {unit}"));
    let error = sent.error.as_ref();
    fields([
        ("transfer", sent.transfer_id.clone()),
        ("state", sent.state.clone()),
        ("why", error.map_or_else(String::new, |e| format!("{}: {}", e.code, e.message))),
        ("from", format!("{}/{}", sent.from_workspace, sent.from_account_id)),
        ("to", format!("{}/{}", sent.to_workspace, sent.to_account_id)),
        ("amount", usd(sent.amount_micro_usd)),
        ("units", units.collect::<Vec<_>>().join("; ")),
        ("receipt", sent.receipt_id.clone()),
    ])
}

fn describe(account: &Entry) -> String {
    let each = |texts: Vec<String>| texts.join("; ");
    let alert_at = account.alert_at_percent.iter().map(|percent| format!("{percent} %"));
    fields([
        ("account", account.account_id.clone()),
        ("name", account.name.clone()),
        ("funded", usd(account.funded_micro_usd)),
        ("spent", usd(account.spent_micro_usd)),
        ("held", usd(account.held_micro_usd)),
        ("allotted", usd(account.allotted_micro_usd)),
        ("available", usd(account.available_micro_usd)),
        ("units", each(account.units.iter().map(balance).collect())),
        ("parent", account.parent_account_id.clone()),
        ("frozen", yes(account.frozen)),
        ("closed", yes(account.closed)),
        ("alert at", each(alert_at.collect())),
        ("alerts", each(account.alerts.iter().map(alert).collect())),
        ("receipts", account.receipts.join(" ")),
    ])
}
