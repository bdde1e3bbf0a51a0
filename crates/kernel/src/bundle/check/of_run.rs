//! Whether a bundle about a run has all of it, and says of it what the receipts say.

use std::collections::BTreeMap;

use super::super::run::{self, Told};
use super::super::{RUN, receipt_path};
use super::control::Control;
use super::{Check, Error, Receipt};
use crate::machine::Stream;
use crate::receipt::{Statement, Transition};

impl Check<'_> {
    pub(super) fn run(
        &mut self,
        receipts: &BTreeMap<u64, Receipt>,
        origin: &str,
        control: Option<Control>,
    ) {
        let Some(bytes) = self.files.get(RUN) else { return self.needless() };
        let governing = control
            .as_ref()
            .map(|control| run::Control { origin: &control.origin, told: told(&control.receipts) });
        match run::check(bytes, origin, &told(receipts), governing.as_ref()) {
            Ok((teller, needs)) => {
                self.needed(&needs, control.as_ref());
                let streams = receipts.values().flat_map(|receipt| &receipt.transitions);
                let streams = streams.map(|transition| &transition.stream);
                let of_run: Vec<Stream> = streams.filter(|s| teller.is_about(s)).cloned().collect();
                self.of_run.extend(of_run);
            }
            Err(error) => self.error(Error::Run(error)),
        }
    }

    /// Where all of the log is here, so is every receipt that tells of the run.
    pub(super) fn not_omitted(&self, index: u64, statement: &Statement) -> Result<(), Error> {
        let about = |transition: &&Transition| self.of_run.contains(&transition.stream);
        let told = statement.predicate.transitions.iter().find(about);
        match told.filter(|_| !self.files.contains_key(receipt_path(index).as_str())) {
            Some(Transition { stream, .. }) => {
                Err(Error::Run(run::Error::Omitted { index, stream: stream.clone() }))
            }
            None => Ok(()),
        }
    }
}

/// What receipts say, in the order of their log.
fn told(receipts: &BTreeMap<u64, Receipt>) -> Vec<Told<'_>> {
    let told = receipts.iter().map(|(index, receipt)| Told {
        index: *index,
        time: receipt.time,
        transitions: &receipt.transitions,
    });
    told.collect()
}
