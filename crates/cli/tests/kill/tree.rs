//! The log as a client sees it: every receipt read once, and the tree built over them.

use std::collections::HashMap;

use client::Client;
use kernel::note::{Checkpoint, Note};
use kernel::tree::{Frontier, empty_root, leaf_hash};
use kernel::values::Digest;
use proto::ledger::GetCheckpointRequest;
use proto::receipts::{ListReceiptsRequest, Receipt};
use serde_json::Value;

use crate::common::WORKSPACE;

/// What was read so far.
#[derive(Default)]
pub(crate) struct Tree {
    frontier: Frontier,
    /// The root at each size, from 1.
    roots: Vec<Digest>,
    /// The ids of the receipts that change each stream.
    pub(crate) receipts: HashMap<String, Vec<String>>,
}

impl Tree {
    /// Reads on, and checks that the log's present checkpoint is of exactly this tree: so no
    /// receipt that was read before is another one now.
    pub(crate) async fn grow(&mut self, owner: &Client) {
        loop {
            let after_index = self.frontier.size().checked_sub(1);
            let page = ListReceiptsRequest { after_index, page_size: 200, ..Default::default() };
            let page = owner.list_receipts(&page).await.unwrap();
            page.receipts.iter().for_each(|receipt| self.push(receipt));
            if page.next_after_index.is_none() {
                break;
            }
        }
        let request = GetCheckpointRequest { workspace: WORKSPACE.to_owned(), cosigned: false };
        let note = owner.get_checkpoint(&request).await.unwrap().data;
        let now = self.check(&String::from_utf8(note).unwrap());
        assert_eq!(now, self.frontier.size(), "nothing was written meanwhile");
    }

    fn push(&mut self, receipt: &Receipt) {
        assert_eq!(receipt.index, self.frontier.size(), "receipts are dense");
        let leaf = leaf_hash(receipt.envelope.as_ref().unwrap().text.as_bytes());
        assert_eq!(receipt.leaf_hash, leaf.hex());
        self.frontier.push(leaf);
        self.roots.push(self.frontier.root());
        let statement: Value = receipt.statement.as_ref().unwrap().decode().unwrap();
        for transition in statement["predicate"]["transitions"].as_array().unwrap() {
            let stream = transition["stream"].as_str().unwrap().to_owned();
            let receipts = self.receipts.entry(stream).or_default();
            if receipts.last() != Some(&receipt.receipt_id) {
                receipts.push(receipt.receipt_id.clone());
            }
        }
    }

    /// Checks that a checkpoint is of a prefix of this tree, and returns its size.
    pub(crate) fn check(&self, note: &str) -> u64 {
        let note = Note::parse(note.as_bytes()).unwrap();
        let checkpoint = Checkpoint::parse(note.text()).unwrap();
        assert!(checkpoint.size <= self.frontier.size(), "the log lost receipts: {checkpoint:?}");
        let root = match usize::try_from(checkpoint.size).unwrap() {
            0 => empty_root(),
            size => self.roots[size - 1],
        };
        assert_eq!(checkpoint.root, root, "the log forked below {}", checkpoint.size);
        checkpoint.size
    }
}
