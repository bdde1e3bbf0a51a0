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

pub(crate) use gateway::Ended;
pub(crate) use prepare::{
    Asked, Claims, Document, Plan, check_place, parse as parse_json, present_caller, remaining,
    unknown_tool,
};
pub(crate) use run::{cancel, check_stored, drop_document};
pub(crate) use service::{ActionsApi, Patience, STATUSES, own_or_operated, payer};
pub(crate) use submit::{READ, Submitted, find, submit};
pub(crate) use view::{Answer, Body, decision, effect, open_document, risk, wire_state};
