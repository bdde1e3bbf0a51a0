//! Actions: submitted, decided, run and shown.

mod demand;
mod outcome;
mod prepare;
pub(crate) mod queue;
mod run;
mod service;
mod submit;
mod view;

pub(crate) use prepare::{Claims, check_place, parse as parse_json, remaining, unknown_tool};
pub(crate) use run::{check_stored, drop_document};
pub(crate) use service::ActionsApi;
pub(crate) use submit::find;
pub(crate) use view::{decision, open_document, risk};
