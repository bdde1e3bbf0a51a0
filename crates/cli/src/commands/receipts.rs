//! `tally receipts`.

use clap::Subcommand;
use proto::receipts::{GetReceiptRequest, ListReceiptsRequest, Receipt};

use crate::context::Context;
use crate::exit::Exit;
use crate::output::{fields, page, pretty};

/// `tally receipts`.
#[derive(Debug, Subcommand)]
pub(crate) enum Receipts {
    /// List the receipts of the workspace in the order of the log.
    List {
        /// Only those of this action.
        #[arg(long, default_value = "", value_name = "ID")]
        action: String,
        /// Only those after this index.
        #[arg(long, value_name = "INDEX")]
        after: Option<u64>,
        /// At most this many; 0 takes the server's default.
        #[arg(long, default_value_t = 0, value_name = "N")]
        page_size: u32,
    },
    /// Show one receipt: its envelope's statement, decoded.
    Show {
        /// The id of the receipt.
        id: String,
    },
}

impl Receipts {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let (client, output) = (context.client()?, context.output());
        match self {
            Self::List { action: action_id, after: after_index, page_size } => {
                let request = ListReceiptsRequest { action_id, after_index, page_size };
                let list = client.list_receipts(&request).await?;
                output.show(&list, |list| {
                    let rows = list.receipts.iter().map(|receipt| {
                        let Receipt { receipt_id, index, leaf_hash, .. } = receipt.clone();
                        [index.to_string(), receipt_id, leaf_hash]
                    });
                    let next = list.next_after_index.map(|index| format!("--after {index}"));
                    page(["index", "id", "leaf hash"], rows, &next.unwrap_or_default())
                })?;
            }
            Self::Show { id: receipt_id } => {
                let receipt = client.get_receipt(&GetReceiptRequest { receipt_id }).await?;
                output.show(&receipt, describe)?;
            }
        }
        Ok(Exit::Done)
    }
}

fn describe(receipt: &Receipt) -> String {
    let head = fields([
        ("receipt", receipt.receipt_id.clone()),
        ("index", receipt.index.to_string()),
        ("leaf hash", receipt.leaf_hash.clone()),
    ]);
    let statement = receipt.statement.as_ref().map(|json| pretty(&json.text));
    format!("{head}statement\n{}", statement.unwrap_or_default())
}
