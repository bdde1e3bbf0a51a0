//! Actions: submitted, decided, run and shown.

mod demand;
mod gateway;
mod outcome;
mod prepare;
pub(crate) mod queue;
mod run;
mod service;
mod submit;
mod view;

pub(crate) use prepare::{
    Asked, Claims, check_place, parse as parse_json, remaining, unknown_tool,
};
pub(crate) use run::{cancel, check_stored, drop_document};
pub(crate) use service::ActionsApi;
pub(crate) use submit::{Submitted, find, submit};
pub(crate) use view::{Answer, decision, open_document, risk};
