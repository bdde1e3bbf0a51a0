//! Actions: submitted, decided, run and shown.

mod demand;
mod gateway;
mod outcome;
mod prepare;
pub(crate) mod queue;
mod reverse;
mod run;
mod service;
mod submit;
mod underway;
mod view;

pub(crate) use gateway::Ended;
pub(crate) use outcome::keep;
pub(crate) use prepare::{
    AsStep, Asked, Claims, Document, Plan, check_place, decide as decide_plan, parse as parse_json,
    prepare, present, present_caller, remaining, unknown_tool,
};
pub(crate) use run::{attempt, cancel, check_stored, drop_document, drop_result, withdraw};
pub(crate) use service::{ActionsApi, Patience, STATUSES, own_or_operated, payer};
pub(crate) use submit::{ENDPOINT, Keyed, Made, READ, Submitted, find, make, submit};
pub(crate) use underway::Underway;
pub(crate) use view::{
    Answer, Body, actors, decision, effect, open_document, open_result, risk, sentence, wire_state,
};
