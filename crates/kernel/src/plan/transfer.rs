//! The batches by which money and units go from one log into another: each moves a transfer
//! together with the accounts of its log.
//!
//! In each log the account of all funding is on the other side: what leaves a log is no more
//! funded there, and what reaches one is.

use super::{FUNDING_ACCOUNT, account_command};
use crate::account::{self, Purpose};
use crate::action::FailureCode;
use crate::ids::{AccountId, TransferId};
use crate::machine::{Command, Input, Kind, Refusal};
use crate::transfer::{self, Terms};
use crate::values::Shared;

fn command(id: &TransferId, input: transfer::Input) -> Command {
    Command::new(Kind::Transfer, id.as_str(), Input::Transfer(input))
}

fn ensure() -> Command {
    account_command(FUNDING_ACCOUNT, account::Input::Ensure { purpose: Purpose::Funding })
}

fn funding() -> Result<AccountId, Refusal> {
    AccountId::new(FUNDING_ACCOUNT).map_err(|_| Refusal::InvalidInput("no account of funding"))
}

/// Sends: the payer has it no more. It must send of every unit that it bounds.
pub fn send(id: &TransferId, terms: &Shared<Terms>) -> Result<Vec<Command>, Refusal> {
    let Terms { payer, amount, units, .. } = &**terms;
    let (amount, units, to) = (*amount, *units, funding()?);
    let bounds = units.iter().map(|(unit, _)| unit).collect();
    let allot = account::Input::Allot { amount, units, to, level: u8::MAX, bounds };
    let from = payer.clone();
    Ok(vec![
        command(id, transfer::Input::Send(terms.clone())),
        account_command(payer.as_str(), allot),
        ensure(),
        account_command(FUNDING_ACCOUNT, account::Input::Credit { amount, units, from }),
    ])
}

/// Takes it, in the other log: the receiver has it.
pub fn receive(id: &TransferId, terms: &Shared<Terms>) -> Result<Vec<Command>, Refusal> {
    let Terms { receiver, amount, units, .. } = &**terms;
    let (amount, units, to, from) = (*amount, *units, receiver.clone(), funding()?);
    Ok(vec![
        command(id, transfer::Input::Receive(terms.clone())),
        ensure(),
        account_command(FUNDING_ACCOUNT, account::Input::Debit { amount, units, to }),
        account_command(receiver.as_str(), account::Input::Credit { amount, units, from }),
    ])
}

/// Says in the other log that it is never taken there.
pub fn refuse(id: &TransferId, terms: &Shared<Terms>, failure: FailureCode) -> Vec<Command> {
    let terms = terms.clone();
    vec![command(id, transfer::Input::Refuse { terms, failure })]
}

/// Says in the log that it left that the other one has it.
pub fn arrive(id: &TransferId) -> Vec<Command> {
    vec![command(id, transfer::Input::Arrive {})]
}

/// Takes back what the other log has refused: the payer has it again.
pub fn take_back(
    id: &TransferId,
    terms: &Shared<Terms>,
    failure: FailureCode,
) -> Result<Vec<Command>, Refusal> {
    let Terms { payer, amount, units, .. } = &**terms;
    let (amount, units, to, from) = (*amount, *units, payer.clone(), funding()?);
    Ok(vec![
        command(id, transfer::Input::Return { failure }),
        account_command(FUNDING_ACCOUNT, account::Input::Debit { amount, units, to }),
        account_command(payer.as_str(), account::Input::TakeBack { amount, units, from }),
    ])
}
