//! What a stranger is shown of a run and of a period, what runs cost, and what is left of them.

mod bundle;
mod coverage;
mod reports;
mod retention;
