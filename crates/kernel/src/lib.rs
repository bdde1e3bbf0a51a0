//! The rules of Tally, pure: time, ids, entropy, prices, policy results and outcomes are
//! arguments; receipts and effects are results.

pub mod account;
pub mod action;
pub mod approval;
pub mod bundle;
pub mod control;
pub mod cosignature;
pub mod decision;
pub mod delegation;
pub mod demand;
pub mod dsse;
pub mod factor;
pub mod failure;
pub mod history;
pub mod ids;
pub mod json;
pub mod limits;
pub mod machine;
pub mod note;
pub mod pem;
pub mod permit;
pub mod plan;
pub mod principal;
pub mod proof;
pub mod receipt;
pub mod reservation;
pub mod risk;
pub mod session;
pub mod signer;
pub mod signing_key;
pub mod tile;
pub mod tool;
pub mod tree;
pub mod values;
pub mod verify;
pub mod witness;
