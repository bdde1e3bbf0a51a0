//! What a bundle brings along of the control log, and the files that are named by their digests.
//!
//! It is checked as a log of its own: signatures, proofs, one checkpoint. Its keys come with it.
//! They count as far as whoever signed the manifest does, who names them by their digests; a key
//! that is pinned counts by itself.

use std::collections::BTreeMap;

use super::super::{CONTROL, VKEY, key_path, policy_path, workflow_path};
use super::{Check, Error, Files, Pinned, Receipt, is_key};
use crate::pem;
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
        let mut check = Check::new(&files, None, self.verifier);
        check.errors.clear();
        (check.keys, check.logs, check.tells) = (self.keys.clone(), self.logs.clone(), true);
        for (path, bytes) in files.iter().filter(|(path, _)| is_key(path)) {
            match str::from_utf8(bytes).ok().and_then(pem::decode) {
                Some(spki) if key_path(&Digest::of(&spki)) == **path => {
                    check.keys.insert(&spki, trust);
                }
                _ => check.error(Error::KeyName((*path).to_owned())),
            }
        }
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

    pub(super) fn policies(&mut self) {
        let policies = self.files.iter().filter(|(path, _)| path.starts_with("policy/"));
        let changed: Vec<&str> = policies
            .filter(|(path, bytes)| policy_path(&Digest::of(bytes)) != **path)
            .map(|(path, _)| *path)
            .collect();
        for path in changed {
            self.error(Error::Policy(path.to_owned()));
        }
    }

    /// The text of the workflow is there, and is the one whose digest the run was bound to.
    pub(super) fn workflow(&mut self, due: Option<Digest>) {
        let texts = self.files.iter().filter(|(path, _)| path.starts_with("workflow/"));
        let found: Vec<(&str, Digest)> =
            texts.map(|(path, bytes)| (*path, Digest::of(bytes))).collect();
        let due: Vec<(String, Digest)> =
            due.iter().map(|digest| (workflow_path(digest), *digest)).collect();
        if !found
            .iter()
            .map(|(path, digest)| (*path, digest))
            .eq(due.iter().map(|(path, digest)| (path.as_str(), digest)))
        {
            self.error(Error::Workflow);
        }
    }
}
