//! Rotating the key that signs receipts: no gap, one key for each index, and what an older key
//! signed stays good.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::ledger::evidence::{
    ExportRequest, Pinned, Selection, export, verify_bundle, verify_path, verify_receipt,
};
use ::ledger::keys::{KeyProvider, NoteSigner, P256Signer, Purpose, public_keys};
use ::ledger::rebuild::{diff, rebuild, verify_log};
use ::ledger::{Batch, Error, Ledger, log_keys};
use kernel::dsse::{self, Envelope};
use kernel::machine::Refusal;
use kernel::receipt::LogId;
use kernel::signing_key::{KeyRanges, LogKeys};
use kernel::values::Digest;
use kernel::verify::Trust;
use zeroize::Zeroizing;

use crate::evidence::{refused, unpack};
use crate::fault::FaultStore;
use crate::ledger::check_whole;
use crate::support::*;

on_both! {
    a_rotation_under_load_leaves_no_gap,
    what_a_log_says_counts_and_not_what_keys_there_are,
    a_handover_that_may_or_may_not_be_stored_is_read_anew,
    bundles_are_followed_from_the_first_key,
    a_bundle_with_a_retired_key_outside_its_range_is_refused,
    a_log_that_a_retired_key_goes_on_to_sign_is_refused,
}

const TENANT: &str = "acme";

fn new_key(ledger: &Ledger) -> Digest {
    ledger.keys().create_p256(TENANT, Purpose::Receipt).unwrap().key_id()
}

async fn rotate(ledger: &Ledger) -> Digest {
    let new = new_key(ledger);
    log_keys::hand_over(ledger, TENANT, &new).await.unwrap();
    new
}

fn ranges(ledger: &Ledger, log: &LogId) -> KeyRanges {
    log_keys::of_log(ledger.store().as_ref(), log).unwrap().unwrap()
}

/// Who signed each receipt of a log.
fn signers(ledger: &Ledger, log: &LogId, size: u32) -> Vec<Digest> {
    let rows = ledger.store().receipts(log, 0, size).unwrap();
    rows.iter().map(|row| Envelope::parse(&row.envelope).unwrap().key_id).collect()
}

fn request(from: u64, to: u64, full_log: bool) -> ExportRequest {
    ExportRequest {
        log: log("ops"),
        selection: Selection::Range { from, to },
        full_log,
        policies: Vec::new(),
        cost: serde_json::json!({}),
        run: None,
        workflow: None,
        control: std::collections::BTreeMap::new(),
    }
}

/// Trusts one receipt key and the log's.
fn pinned(ledger: &Ledger, key: &Digest, logs: LogKeys) -> Pinned {
    let key = ledger.keys().p256_by_id(TENANT, Purpose::Receipt, key).unwrap();
    let vkey = ledger.keys().note(TENANT, "tally.example/acme/ops").unwrap();
    Pinned {
        keys: vec![key.spki_der().to_vec()],
        vkey: Some(vkey.verifier_key().clone()),
        trust: Trust::Pinned,
        logs,
    }
}

async fn a_rotation_under_load_leaves_no_gap(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open();
    let logs = [log("ops"), log("shop")];
    for log in &logs {
        grow(&ledger, log, 1).await;
    }
    let first = ranges(&ledger, &logs[0]).current().unwrap();
    let load: Vec<_> = (0..16)
        .map(|task| {
            let (ledger, log) = (ledger.clone(), logs[task % 2].clone());
            tokio::spawn(async move {
                for _ in 0..20 {
                    commit(&ledger, &log, fund("budget", 1)).await.unwrap();
                }
            })
        })
        .collect();
    let mut expected = vec![first];
    for _ in 0..3 {
        expected.push(rotate(&ledger).await);
    }
    for task in load {
        task.await.unwrap();
    }
    for log in &logs {
        // 161 receipts of the load and one for each handover.
        check_whole(&place, &ledger, log, 164);
        let ranges = ranges(&ledger, log);
        let keys: Vec<_> = ranges.as_slice().iter().map(|range| range.key_id).collect();
        assert_eq!(keys, expected);
        for (index, signer) in signers(&ledger, log, 164).iter().enumerate() {
            assert_eq!(ranges.at(index as u64), Some(*signer), "receipt {index}");
        }
        rebuild(place.store().as_ref(), log).unwrap();
        assert_eq!(diff(place.store().as_ref(), log).unwrap(), []);
    }
    drop(ledger);
    let ledger = place.open();
    commit(&ledger, &logs[0], fund("budget", 1)).await.unwrap();
    assert_eq!(signers(&ledger, &logs[0], 165).last(), expected.last(), "after a restart");
    check_whole(&place, &ledger, &logs[0], 165);
}

async fn what_a_log_says_counts_and_not_what_keys_there_are(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open();
    grow(&ledger, &log("ops"), 1).await;
    let first = ranges(&ledger, &log("ops")).current().unwrap();
    // As after a crash between making a key and the commit.
    let unused = new_key(&ledger);
    drop(ledger);
    let ledger = place.open();
    grow(&ledger, &log("ops"), 1).await;
    assert_eq!(signers(&ledger, &log("ops"), 2), [first, first]);

    let new = rotate(&ledger).await;
    grow(&ledger, &log("begun-later"), 2).await;
    assert_eq!(signers(&ledger, &log("begun-later"), 2), [new, new]);
    check_whole(&place, &ledger, &log("begun-later"), 2);

    let activate = |new: &Digest, replaces| {
        let new = ledger.keys().p256_by_id(TENANT, Purpose::Receipt, new).unwrap();
        Batch::new(log("ops"), vec![log_keys::activate(new.as_ref(), replaces)])
    };
    for (batch, expect) in [
        (activate(&unused, first), Refusal::Moved),
        (activate(&new, new), Refusal::Exists),
        (activate(&first, new), Refusal::Exists),
    ] {
        match ledger.commit(batch).await {
            Err(Error::Refused(refusal)) => assert_eq!(refusal, expect),
            other => panic!("{other:?}"),
        }
    }
    // A key that the provider does not have is not handed over to.
    let elsewhere = Place::new(engine);
    let foreign = elsewhere.keys().create_p256(TENANT, Purpose::Receipt).unwrap();
    let batch = Batch::new(log("ops"), vec![log_keys::activate(foreign.as_ref(), new)]);
    assert!(matches!(ledger.commit(batch).await, Err(Error::Key { .. })));
    grow(&ledger, &log("ops"), 1).await;
    check_whole(&place, &ledger, &log("ops"), 4);
}

async fn a_handover_that_may_or_may_not_be_stored_is_read_anew(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open_on(Arc::new(FaultStore::new(place.store())));
    let log = log("ops");
    let mut handed_over = 0;
    for round in 0..30 {
        let _may_fail = commit(&ledger, &log, fund("budget", 1)).await;
        if ledger.store().head(&log).unwrap().is_none() {
            continue;
        }
        let current = ranges(&ledger, &log).current().unwrap();
        let new = ledger.keys().create_p256(TENANT, Purpose::Receipt).unwrap();
        let batch = Batch::new(log.clone(), vec![log_keys::activate(new.as_ref(), current)]);
        let committed = ledger.commit(batch).await.is_ok();
        let now = ranges(&ledger, &log).current().unwrap();
        assert!(!committed || now == new.key_id(), "round {round}");
        handed_over += u32::from(now == new.key_id());
    }
    assert!(handed_over > 10);
    let size = ledger.store().head(&log).unwrap().unwrap().frontier.size();
    check_whole(&place, &ledger, &log, size);
}

async fn bundles_are_followed_from_the_first_key(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open();
    let ops = log("ops");
    grow(&ledger, &ops, 5).await;
    let first = ranges(&ledger, &ops).current().unwrap();
    let old = export(&ledger, &request(0, 5, true)).unwrap();
    let second = rotate(&ledger).await;
    grow(&ledger, &ops, 3).await;
    let between = export(&ledger, &request(6, 8, false)).unwrap();
    let third = rotate(&ledger).await;
    grow(&ledger, &ops, 2).await;
    let selected = export(&ledger, &request(11, 12, false)).unwrap();
    let full = export(&ledger, &request(0, 12, true)).unwrap();

    let mut logs = LogKeys::default();
    logs.insert("tally.example/acme/ops", ranges(&ledger, &ops));
    // One receipt was selected; two more hand over.
    for (bundle, receipts) in [(&old, 5), (&between, 3), (&selected, 3), (&full, 12)] {
        let known = pinned(&ledger, &first, logs.clone());
        for pinned in [pinned(&ledger, &first, LogKeys::default()), known] {
            let report = verify_bundle(bundle, Some(&pinned));
            assert_eq!(report.errors, [""; 0]);
            assert_eq!((report.receipts, report.trust), (receipts, Trust::Pinned));
        }
        assert!(verify_bundle(bundle, None).valid);
    }
    // Nothing leads back from a later key to an earlier one.
    let later = pinned(&ledger, &third, LogKeys::default());
    refused(&verify_bundle(&full, Some(&later)), &format!("no key {first} is known"));

    let published = public_keys(&ledger, TENANT).unwrap();
    let told: Vec<_> = published
        .iter()
        .filter(|key| key.purpose == "receipt")
        .map(|key| (key.range.unwrap().key_id, key.range.unwrap().from, key.range.unwrap().to))
        .collect();
    assert_eq!(told, [(first, 0, Some(6)), (second, 6, Some(10)), (third, 10, None)]);
}

async fn a_bundle_with_a_retired_key_outside_its_range_is_refused(engine: Engine) {
    let place = Place::new(engine);
    let ledger = place.open();
    let ops = log("ops");
    grow(&ledger, &ops, 3).await;
    let first = ranges(&ledger, &ops).current().unwrap();
    rotate(&ledger).await;
    grow(&ledger, &ops, 3).await;
    let bundle = export(&ledger, &request(0, 7, false)).unwrap();
    let dir = place.path("bundle");
    unpack(&bundle, &dir);
    let path = dir.join("receipts/5.dsse.json");
    let payload = Envelope::parse(&std::fs::read(&path).unwrap()).unwrap().payload;
    let old = ledger.keys().p256_by_id(TENANT, Purpose::Receipt, &first).unwrap();
    let forged = dsse::envelope(&payload, &first, &old.sign(&dsse::pae(&payload)).unwrap());
    std::fs::write(&path, &forged).unwrap();
    let message = "may not sign receipt 5: it is valid from 0 up to, not including, 4";
    let bare = pinned(&ledger, &first, LogKeys::default());
    refused(&verify_path(&dir, Some(&bare)), message);
    // By itself the receipt is good, unless it is known what its key is valid for.
    assert!(verify_receipt(&forged, Some(&bare)).valid);
    let mut logs = LogKeys::default();
    logs.insert("tally.example/acme/ops", ranges(&ledger, &ops));
    let known = pinned(&ledger, &first, logs);
    refused(&verify_receipt(&forged, Some(&known)), message);

    // A bundle that keeps the handover from its reader.
    unpack(&bundle, &place.path("cut"));
    for name in ["receipts/3.dsse.json", "receipts/3.sigstore.json", "proofs/3.tlog-proof"] {
        std::fs::remove_file(place.path("cut").join(name)).unwrap();
    }
    let report = verify_path(&place.path("cut"), None);
    refused(&report, "may not sign receipt 4: it is valid for no index of this log");
    refused(&report, "the manifest says that the log has other receipt keys");
}

/// A provider whose log goes on signing with the old key once this is set.
struct Stubborn {
    inner: Arc<dyn KeyProvider>,
    first: Digest,
    stubborn: AtomicBool,
}

impl KeyProvider for Stubborn {
    fn p256(&self, tenant: &str, purpose: Purpose) -> Result<Arc<dyn P256Signer>, Error> {
        self.inner.p256(tenant, purpose)
    }

    fn p256_by_id(
        &self,
        tenant: &str,
        purpose: Purpose,
        key_id: &Digest,
    ) -> Result<Arc<dyn P256Signer>, Error> {
        let old = self.stubborn.load(Ordering::Relaxed);
        self.inner.p256_by_id(tenant, purpose, if old { &self.first } else { key_id })
    }

    fn create_p256(&self, tenant: &str, purpose: Purpose) -> Result<Arc<dyn P256Signer>, Error> {
        self.inner.create_p256(tenant, purpose)
    }

    fn note(&self, tenant: &str, origin: &str) -> Result<Arc<dyn NoteSigner>, Error> {
        self.inner.note(tenant, origin)
    }

    fn wrap(&self, tenant: &str, label: &str, secret: &[u8]) -> Result<Vec<u8>, Error> {
        self.inner.wrap(tenant, label, secret)
    }

    fn unwrap(
        &self,
        tenant: &str,
        label: &str,
        wrapped: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, Error> {
        self.inner.unwrap(tenant, label, wrapped)
    }
}

async fn a_log_that_a_retired_key_goes_on_to_sign_is_refused(engine: Engine) {
    let place = Place::new(engine);
    let first = place.keys().p256(TENANT, Purpose::Receipt).unwrap().key_id();
    let keys = Arc::new(Stubborn { inner: place.keys(), first, stubborn: AtomicBool::new(false) });
    let ledger = Ledger::start(place.store(), keys.clone(), clock(), HOST).unwrap();
    let ops = log("ops");
    grow(&ledger, &ops, 2).await;
    let new = ledger.keys().create_p256(TENANT, Purpose::Receipt).unwrap();
    keys.stubborn.store(true, Ordering::Relaxed);
    let batch = Batch::new(ops.clone(), vec![log_keys::activate(new.as_ref(), first)]);
    ledger.commit(batch).await.unwrap();
    grow(&ledger, &ops, 1).await;
    // The chain, the tree, the checkpoint and every signature are good.
    let report = verify_log(ledger.store().as_ref(), HOST, place.keys().as_ref(), &ops).unwrap();
    let message = format!(
        "receipt 3: key {first} may not sign receipt 3: it is valid from 0 up to, not including, 3"
    );
    assert_eq!((report.first_bad_index, report.errors), (Some(3), vec![message]));
}
