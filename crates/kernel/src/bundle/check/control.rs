//! What a bundle brings along of the control log, and the files that are named by their digests.
//!
//! It is checked as a log of its own: signatures, proofs, one checkpoint. Its keys come with it.
//! They count as far as whoever signed the manifest does, who names them by their digests; a key
//! that is pinned counts by itself.

use std::collections::{BTreeMap, BTreeSet};

use super::super::run::Needs;
use super::super::{CONTROL, VKEY, policy_path, workflow_path};
use super::{Check, Error, Files, Pinned, Receipt};
use crate::receipt::control_origin;
use crate::values::Digest;
use crate::verify::Trust;

/// Receipts of the control log that are signed and in it.
pub(super) struct Control {
    pub(super) origin: String,
    pub(super) receipts: BTreeMap<u64, Receipt>,
}

impl Check<'_> {
    /// Checks what is of the control log of `origin`. `signer`: what vouches for the manifest.
    pub(super) fn control(&mut self, origin: &str, signer: Option<Trust>) -> Option<Control> {
        let own = self.files.iter();
        let own = own.filter_map(|(path, bytes)| Some((path.strip_prefix(CONTROL)?, *bytes)));
        let files: Files<'_> = own.collect();
        if files.is_empty() {
            return None;
        }
        let trust = signer.unwrap_or(Trust::Unknown);
        let brought = files.get(VKEY).and_then(|text| str::from_utf8(text).ok());
        let vkey = brought.and_then(|text| text.trim_end().parse().ok());
        let pinned = Pinned { keys: Vec::new(), vkey, trust, logs: self.logs.clone() };
        let known = (self.keys.clone(), self.logs.clone());
        let mut check = Check::with_keys(&files, self.verifier, known, Some(trust));
        check.tells = true;
        let log = check.log(Some(&pinned));
        let receipts = check.receipts(log.as_ref());
        check.chain(&receipts);
        check.ranges(&receipts, log.as_ref());
        let trusted = check.trust;
        let errors = std::mem::take(&mut check.errors);
        trusted.into_iter().for_each(|trust| self.rests_on(trust));
        for error in errors {
            self.error(Error::Control(Box::new(error)));
        }
        let found = log.map(|log| log.checkpoint.origin)?;
        if control_origin(origin).as_ref() != Some(&found) {
            self.error(Error::ControlLog(found));
            return None;
        }
        Some(Control { origin: found, receipts })
    }

    /// What is named by its digest has it: policies and the text of a workflow.
    pub(super) fn digests(&mut self) {
        for (path, bytes) in self.files {
            let digest = Digest::of(bytes);
            if path.starts_with("policy/") && policy_path(&digest) != *path {
                self.error(Error::Policy((*path).to_owned()));
            }
            if path.starts_with("workflow/") && workflow_path(&digest) != *path {
                self.error(Error::Workflow);
            }
        }
    }

    /// Where a bundle is about a run, it has what the run needs and nothing else: the text of the
    /// workflow that it was bound to, the policies that decided, and receipts of the control log
    /// that tell of either.
    pub(super) fn needed(&mut self, needs: &Needs, control: Option<&Control>) {
        if !self.has_exactly("workflow/", needs.document().iter().map(workflow_path)) {
            self.error(Error::Workflow);
        }
        if !self.has_exactly("policy/", needs.policies().map(|digest| policy_path(&digest))) {
            self.error(Error::Policies);
        }
        let receipts = control.iter().flat_map(|control| &control.receipts);
        let mut surplus = receipts.filter(|(_, receipt)| {
            let told = receipt.transitions.iter().any(|change| needs.has(change, receipt.time));
            !told && receipt.handover.is_none()
        });
        if surplus.next().is_some() || (control.is_some() && needs.is_empty()) {
            self.error(Error::ControlSurplus);
        }
    }

    /// Where it is about no run, nothing of a workflow or of the control log.
    pub(super) fn needless(&mut self) {
        if !self.has_exactly("workflow/", std::iter::empty()) {
            self.error(Error::Workflow);
        }
        if self.files.keys().any(|path| path.starts_with(CONTROL)) {
            self.error(Error::ControlSurplus);
        }
    }

    /// Whether these are the files of a folder.
    fn has_exactly(&self, folder: &str, due: impl Iterator<Item = String>) -> bool {
        let due: BTreeSet<String> = due.collect();
        let found = self.files.keys().copied().filter(|path| path.starts_with(folder));
        found.eq(due.iter().map(String::as_str))
    }
}
