//! The commands, each a module.

pub(crate) mod accounts;
pub(crate) mod actions;
pub(crate) mod agents;
pub(crate) mod approvals;
pub(crate) mod attest;
pub(crate) mod attest_verify;
pub(crate) mod connector;
pub(crate) mod cost;
pub(crate) mod demands;
pub(crate) mod dev;
pub(crate) mod evidence;
pub(crate) mod growth;
pub(crate) mod identity;
pub(crate) mod init;
pub(crate) mod ledger;
pub(crate) mod login;
pub(crate) mod mcp;
pub(crate) mod me;
pub(crate) mod migrate;
pub(crate) mod policy;
pub(crate) mod receipts;
pub(crate) mod release;
pub(crate) mod run;
pub(crate) mod runtime;
pub(crate) mod sandbox;
pub(crate) mod secret;
pub(crate) mod serve;
pub(crate) mod signing_keys;
pub(crate) mod token;
pub(crate) mod tools;
pub(crate) mod trigger;
pub(crate) mod use_case;
pub(crate) mod verify;
pub(crate) mod version;
pub(crate) mod witness;
pub(crate) mod workflow;

use clap::Args;

/// Which page of a list.
#[derive(Debug, Args)]
pub(crate) struct Paging {
    /// At most this many; 0 takes the server's default.
    #[arg(long, default_value_t = 0, value_name = "N")]
    page_size: u32,
    /// Read on where the page before ended.
    #[arg(long, default_value = "", value_name = "TOKEN")]
    page_token: String,
}

/// How to read on after a page.
fn next(token: &str) -> String {
    if token.is_empty() { String::new() } else { format!("--page-token {token}") }
}
