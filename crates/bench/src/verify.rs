//! Offline verification of a log against the bare verification of the same signatures.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ParsedPublicKey};
use kernel::dsse::{self, Envelope};
use ledger::keys::Purpose;
use ledger::rebuild::verify_log;

use crate::report::{Report, Table};
use crate::stats::{self, figure, length};
use crate::workload::{HOST, Workload};

const RECEIPTS: u64 = 20_000;
const WRITERS: usize = 256;
const ROUNDS: usize = 5;

/// What a signature is over, and the signature.
type Signed = (Vec<u8>, Vec<u8>);

pub(crate) fn run(dir: &Path) -> anyhow::Result<Report> {
    let mut report = Report::new("verify");
    let dir = tempfile::tempdir_in(dir)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let workload = Workload::new(dir.path())?;
    runtime.block_on(workload.run(WRITERS, |receipts| receipts < RECEIPTS))?;
    let (signed, bytes) = signatures(&workload)?;
    let signer = workload.ledger.keys().p256(workload.log.tenant(), Purpose::Receipt)?;
    let key = ParsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, signer.spki_der())
        .context("the receipts' key")?;
    let cores = thread::available_parallelism()?.get();
    let [mut whole, mut all, mut one] = [const { Vec::new() }; 3];
    for _ in 0..ROUNDS {
        let started = Instant::now();
        verify_whole(&workload)?;
        whole.push(length(&signed) / started.elapsed().as_secs_f64());
        all.push(raw(&key, &signed, cores)?);
        one.push(raw(&key, &signed, 1)?);
    }
    let [whole, all, one] = [whole, all, one].map(stats::median);
    let mut table = Table::new("receipts or signatures a second", &["", "1/s", "of raw"]);
    table.row(["verify_log, all cores".into(), whole.into(), (whole / all).into()]);
    table.row([format!("raw P-256, {cores} threads").into(), all.into(), 1.0.into()]);
    table.row(["raw P-256, 1 thread".into(), one.into(), (one / all).into()]);
    report.table(table);
    report.at_least("verify_log / raw on all cores", whole / all, 0.7);
    let size = figure(bytes) / length(&signed);
    report.note(format!("{} receipts of {size:.0} bytes each.", signed.len()));
    report.note(format!(
        "Raw is the check of the same signatures over the same bytes with the key read once; \
         all threads together reach {:.2} times one thread.",
        all / one
    ));
    Ok(report)
}

fn verify_whole(workload: &Workload) -> anyhow::Result<()> {
    let Workload { ledger, log, .. } = workload;
    let found = verify_log(ledger.store().as_ref(), HOST, ledger.keys().as_ref(), log)?;
    ensure!(found.valid(), "the log does not verify: {:?}", found.errors);
    ensure!(found.size >= RECEIPTS, "only {} receipts were verified", found.size);
    Ok(())
}

/// Every signature of the log, and the bytes of all its receipts.
fn signatures(workload: &Workload) -> anyhow::Result<(Vec<Signed>, u64)> {
    let rows = workload.ledger.store().receipts(&workload.log, 0, u32::MAX)?;
    let bytes = rows.iter().map(|row| row.envelope.len()).sum::<usize>();
    let signed = rows.iter().map(|row| {
        let Envelope { payload, signature, .. } = Envelope::parse(&row.envelope)?;
        Ok((dsse::pae(&payload), signature))
    });
    Ok((signed.collect::<anyhow::Result<_>>()?, u64::try_from(bytes)?))
}

/// Signatures a second on `threads` threads.
fn raw(key: &ParsedPublicKey, signed: &[Signed], threads: usize) -> anyhow::Result<f64> {
    let good = AtomicU64::new(0);
    let started = Instant::now();
    thread::scope(|scope| {
        for share in signed.chunks(signed.len().div_ceil(threads)) {
            let good = &good;
            scope.spawn(move || {
                let valid = share.iter().filter(|(text, sig)| key.verify_sig(text, sig).is_ok());
                good.fetch_add(valid.count().try_into().unwrap_or(0), Ordering::Relaxed);
            });
        }
    });
    let seconds = started.elapsed().as_secs_f64();
    let good = figure(good.into_inner());
    ensure!(good >= length(signed), "a signature does not verify");
    Ok(good / seconds)
}
