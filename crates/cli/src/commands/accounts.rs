//! `tally account`.

use clap::Subcommand;
use proto::accounts::{
    Account as Entry, CreateAccountRequest, FundAccountRequest, GetAccountRequest,
    ListAccountsRequest,
};

use super::{Paging, next};
use crate::context::Context;
use crate::exit::Exit;
use crate::output::{fields, page, usd, yes};

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
    },
    /// Add money to an account.
    Fund {
        /// The id of the account.
        id: String,
        /// How much, in millionths of a US dollar.
        #[arg(long, value_name = "N")]
        amount_micro_usd: i64,
        /// A key of your own: a repetition with the same key adds nothing.
        #[arg(long, value_name = "KEY")]
        idempotency_key: Option<String>,
    },
    /// List the accounts of the workspace.
    List(Paging),
    /// Show one account.
    Show {
        /// The id of the account.
        id: String,
    },
}

impl Account {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::Create { name, id: account_id } => {
                let request = CreateAccountRequest { account_id, name };
                output.show(&client.create_account(&request, None).await?, describe)?;
            }
            Self::Fund { id: account_id, amount_micro_usd, idempotency_key } => {
                let request = FundAccountRequest { account_id, amount_micro_usd };
                let key = idempotency_key.as_deref();
                output.show(&client.fund_account(&request, key).await?, describe)?;
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

fn describe(account: &Entry) -> String {
    fields([
        ("account", account.account_id.clone()),
        ("name", account.name.clone()),
        ("funded", usd(account.funded_micro_usd)),
        ("spent", usd(account.spent_micro_usd)),
        ("held", usd(account.held_micro_usd)),
        ("available", usd(account.available_micro_usd)),
        ("frozen", yes(account.frozen)),
        ("receipts", account.receipts.join(" ")),
    ])
}
