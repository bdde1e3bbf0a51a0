//! What a stranger is shown of a run and of a period, what runs cost, and what is left of them.

pub(crate) mod bundle;
mod coverage;
mod governed;
mod reports;
mod retention;
