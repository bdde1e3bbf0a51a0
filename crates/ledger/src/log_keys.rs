//! Which key of a tenant signs a log, as the log's own states say, and handing logs over to
//! another.

use kernel::dsse::Envelope;
use kernel::machine::{Command, Input, Kind, State};
use kernel::receipt::{LogId, Statement};
use kernel::signing_key::{self, Handover, KeyRanges, SigningKey};
use kernel::values::Digest;

use crate::keys::{P256Signer, Purpose};
use crate::store::{Page, Store};
use crate::{Batch, Committed, Error, Ledger, decode};

/// States read at a time.
const PAGE: u32 = 256;

/// The keys of a log and what each is valid for: none where it has no receipt yet.
///
/// The first key is the one that signed receipt 0; each later one is a state of the log. Nothing is
/// verified here: [`crate::rebuild::verify_log`] does that, from the receipts alone.
pub fn of_log(store: &dyn Store, log: &LogId) -> Result<Option<KeyRanges>, Error> {
    // The states first: a receipt that comes meanwhile brings no state that is read here.
    let handovers = handovers(store, log)?;
    let Some(first) = store.receipts(log, 0, 1)?.pop() else { return Ok(None) };
    let corrupt = |error: &dyn std::fmt::Display| Error::Corrupt(format!("{log:?}: {error}"));
    let first = Envelope::parse(&first.envelope).map_err(|error| corrupt(&error))?;
    let mut ranges = KeyRanges::start(first.key_id);
    for key in handovers {
        let key_id = Digest::parse(&key.id).ok_or_else(|| corrupt(&"a signing key without id"))?;
        let handover =
            Handover { index: key.index, replaces: key.replaces, key_id, spki_der: Vec::new() };
        ranges.hand_over(&handover).map_err(|error| corrupt(&error))?;
    }
    Ok(Some(ranges))
}

/// The keys that took a log over, in its order.
fn handovers(store: &dyn Store, log: &LogId) -> Result<Vec<SigningKey>, Error> {
    let mut found: Vec<SigningKey> = Vec::new();
    let mut page = Page { before: None, status: None, limit: PAGE };
    loop {
        let rows = store.entities(log, Kind::SigningKey, &page)?;
        let Some(last) = rows.last() else { break };
        page.before = Some(last.stream.id.to_string());
        for row in &rows {
            match decode(row)? {
                State::SigningKey(key) => found.push(key),
                _ => return Err(Error::Corrupt(format!("state of {}", row.stream))),
            }
        }
    }
    found.sort_by_key(|key| key.index);
    Ok(found)
}

/// The keys of every log of a tenant in this ledger.
pub fn of_tenant(ledger: &Ledger, tenant: &str) -> Result<Vec<(LogId, KeyRanges)>, Error> {
    let mut logs = ledger.store().logs()?;
    logs.retain(|log| log.tenant() == tenant);
    let mut found = Vec::new();
    for log in logs {
        if let Some(ranges) = of_log(ledger.store().as_ref(), &log)? {
            found.push((log, ranges));
        }
    }
    Ok(found)
}

/// What has a log sign with `new` from the next receipt on. It is refused where `replaces` is not
/// the key that signs the log then.
pub fn activate(new: &dyn P256Signer, replaces: Digest) -> Command {
    let input = signing_key::Input { spki_der: new.spki_der().to_vec(), replaces };
    Command::new(Kind::SigningKey, new.key_id().hex(), Input::SigningKey(input))
}

/// Has every log of a tenant in this ledger sign with the key `new`, and so every log that is begun
/// from now on. What was cut off goes on where this is called again; a log that signs with it
/// already is left alone.
pub async fn hand_over(ledger: &Ledger, tenant: &str, new: &Digest) -> Result<(), Error> {
    let key = ledger.keys().p256_by_id(tenant, Purpose::Receipt, new)?;
    ledger.begin_logs_with(tenant, *new);
    // Whatever was chained before with another key is durable once this is answered, so that no
    // log that has just begun is passed over.
    ledger.commit(Batch::side(LogId::System, Vec::new())).await?;
    for (log, ranges) in of_tenant(ledger, tenant)? {
        let Some(current) = ranges.current().filter(|current| current != new) else { continue };
        let batch = Batch::new(log, vec![activate(key.as_ref(), current)]);
        let _committed: Committed = ledger.commit(batch).await?;
    }
    Ok(())
}

/// The handovers that a receipt's transitions hold, checked against the log's keys so far.
pub(crate) fn next(
    ranges: &KeyRanges,
    statement: &Statement,
) -> Result<Option<(KeyRanges, Handover)>, signing_key::Error> {
    let predicate = &statement.predicate;
    let Some(handover) = Handover::read(predicate.log.index, &predicate.transitions)? else {
        return Ok(None);
    };
    let mut ranges = ranges.clone();
    ranges.hand_over(&handover)?;
    Ok(Some((ranges, handover)))
}
