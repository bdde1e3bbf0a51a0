//! The ledger through its public surface, on SQLite and on PostgreSQL.

#[cfg(test)]
mod content;
#[cfg(test)]
mod evidence;
#[cfg(test)]
mod fault;
#[cfg(test)]
mod history;
#[cfg(test)]
mod ledger;
#[cfg(test)]
mod postgres;
#[cfg(test)]
mod rotation;
#[cfg(test)]
mod support;
#[cfg(test)]
mod twins;
