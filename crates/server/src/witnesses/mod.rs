//! The witnesses that this server asks to cosign the checkpoints of its logs (C2SP tlog-witness).
//!
//! It happens in the background: no answer waits for it. A witness that says that one of our logs
//! was cut off or rewritten is never passed over in silence.

mod ask;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kernel::cosignature::{CosignerKey, count_cosigners};
use kernel::note::{Checkpoint, Note, NoteSignature};
use kernel::receipt::LogId;
use ledger::content::Vault;
use ledger::keys::NativeVerifier;
use ledger::store::Class;
use ledger::{Batch, Ledger};
use parking_lot::RwLock;
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use self::ask::{Http, Trouble};
use crate::shared::Shared;
use crate::{Config, ConfigError};

/// The part of content under which a cosigned checkpoint is kept.
const PART: &str = "cosigned";
/// Seconds between two rounds where the configuration does not say.
pub(crate) const EVERY_S_DEFAULT: u32 = 10;

/// One witness.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WitnessConfig {
    /// Where it is: its submission prefix, without `/add-checkpoint`.
    pub url: String,
    /// Its key, `name+id+key`, as `tally witness key` prints it.
    pub vkey: String,
}

/// A witness as it is asked.
#[derive(Clone, Debug)]
struct Party {
    url: String,
    key: CosignerKey,
}

/// What is known of the cosignatures.
pub(crate) struct Witnesses {
    parties: Vec<Party>,
    quorum: usize,
    /// The newest cosigned checkpoint of each log that was asked for.
    cosigned: RwLock<BTreeMap<LogId, Arc<Note>>>,
    /// The last refusal of a witness that stands against one of our logs.
    refusals: RwLock<BTreeMap<(LogId, String), Trouble>>,
}

/// Checks the settings and reads the keys.
fn parties(config: &Config) -> Result<Vec<Party>, ConfigError> {
    let bad = |reason: String| ConfigError::Value { key: "witnesses", reason };
    let most = kernel::limits::WITNESSES_MAX;
    if config.witnesses.len() > most {
        return Err(bad(format!("name at most {most} witnesses")));
    }
    if config.witness_quorum > config.witnesses.len() {
        return Err(bad("the quorum is larger than the number of witnesses".to_owned()));
    }
    if config.witness_every_s == 0 {
        return Err(bad("witness_every_s is at least 1".to_owned()));
    }
    let mut parties: Vec<Party> = Vec::new();
    for WitnessConfig { url, vkey } in &config.witnesses {
        ask::check_url(url).map_err(|reason| bad(format!("`{url}`: {reason}")))?;
        let key: CosignerKey =
            vkey.parse().map_err(|error: kernel::note::Error| bad(format!("`{vkey}`: {error}")))?;
        if parties.iter().any(|known| known.key.public() == key.public()) {
            return Err(bad(format!("`{}`: two witnesses have the same key", key.name())));
        }
        parties.push(Party { url: url.trim_end_matches('/').to_owned(), key });
    }
    Ok(parties)
}

/// Refuses settings that cannot be.
pub(crate) fn check(config: &Config) -> Result<(), ConfigError> {
    parties(config).map(drop)
}

/// The plane that a log is in.
fn plane<'a>(shared: &'a Shared, log: &LogId) -> (&'a Ledger, &'a Vault) {
    match log {
        LogId::Workspace(..) => (&shared.ledger, &shared.vault),
        _ => (&shared.control.ledger, &shared.control.vault),
    }
}

/// Under which id a log's cosigned checkpoint is kept.
fn content_id(log: &LogId) -> String {
    format!("checkpoint/{}", log.name())
}

impl Witnesses {
    pub(crate) fn new(config: &Config) -> Result<Self, ConfigError> {
        Ok(Self {
            parties: parties(config)?,
            quorum: config.witness_quorum.max(1),
            cosigned: RwLock::default(),
            refusals: RwLock::default(),
        })
    }

    /// The newest checkpoint of the log that enough witnesses cosigned, with the log's signature
    /// and theirs. None where there is none yet.
    pub(crate) fn cosigned(
        &self,
        shared: &Shared,
        log: &LogId,
    ) -> Result<Option<Arc<Note>>, ledger::Error> {
        if let Some(note) = self.cosigned.read().get(log) {
            return Ok(Some(note.clone()));
        }
        let (_, vault) = plane(shared, log);
        let Some(kept) = vault.open(log.tenant(), &content_id(log), PART)? else {
            return Ok(None);
        };
        let note = Note::parse(&kept).map_err(|error| {
            ledger::Error::Corrupt(format!("the cosigned checkpoint of {log:?}: {error}"))
        })?;
        let note = Arc::new(note);
        self.cosigned.write().entry(log.clone()).or_insert_with(|| note.clone());
        Ok(Some(note))
    }

    /// `checkpoint` with the cosignatures of the same tree, where there are any.
    pub(crate) fn dressed(
        &self,
        shared: &Shared,
        log: &LogId,
        checkpoint: String,
    ) -> Result<String, ledger::Error> {
        let cosigned = self.cosigned(shared, log)?;
        let same = |note: &Arc<Note>| {
            checkpoint.strip_prefix(note.text()).is_some_and(|rest| rest.starts_with('\n'))
        };
        Ok(cosigned.filter(same).map_or(checkpoint, |note| note.to_string()))
    }

    /// Whether a witness stands against one of our logs.
    pub(crate) fn accused(&self) -> bool {
        self.refusals.read().values().any(Trouble::accuses)
    }

    /// Whether witnesses are asked at all.
    pub(crate) fn asked(&self) -> bool {
        !self.parties.is_empty()
    }
}

/// Asks the witnesses, round after round.
pub(crate) async fn serve(shared: Arc<Shared>, stop: CancellationToken) {
    if !shared.witnesses.asked() {
        return;
    }
    let http = match Http::new(&shared.config) {
        Ok(http) => http,
        Err(reason) => {
            tracing::error!(reason, "witnesses cannot be asked");
            return;
        }
    };
    let every = Duration::from_secs(shared.config.witness_every_s.into());
    // What each witness cosigned last, by log; asked for anew after a start.
    let mut sizes: BTreeMap<(LogId, String), u64> = BTreeMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = round(&shared, &http, &mut sizes) => {}
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(every) => {}
        }
    }
}

/// Shows every log that has grown to every witness.
async fn round(shared: &Arc<Shared>, http: &Http, sizes: &mut BTreeMap<(LogId, String), u64>) {
    for ledger in [&shared.control.ledger, &shared.ledger] {
        let logs = match ledger.store().logs() {
            Ok(logs) => logs,
            Err(error) => {
                tracing::error!(%error, "the logs to be witnessed cannot be read");
                continue;
            }
        };
        for log in logs {
            if let Err(error) = witness(shared, http, ledger, &log, sizes).await {
                tracing::error!(%error, ?log, "a log could not be shown to its witnesses");
            }
        }
    }
}

/// Shows the newest checkpoint of one log to each witness that has not cosigned it.
async fn witness(
    shared: &Arc<Shared>,
    http: &Http,
    ledger: &Ledger,
    log: &LogId,
    sizes: &mut BTreeMap<(LogId, String), u64>,
) -> Result<(), ledger::Error> {
    let Some(head) = ledger.store().head(log)? else { return Ok(()) };
    let corrupt = |error| ledger::Error::Corrupt(format!("checkpoint of {log:?}: {error}"));
    let mut note = Note::parse(head.checkpoint.as_bytes()).map_err(corrupt)?;
    let size = head.frontier.size();
    let known = shared.witnesses.cosigned(shared, log)?;
    if let Some(known) = known.as_ref().filter(|known| known.text() == note.text()) {
        note = known.as_ref().clone();
    }
    let (shown, mut asking) = (note.clone(), JoinSet::new());
    for party in &shared.witnesses.parties {
        // Every witness is asked once after a start, whatever is remembered here: a log that was
        // restored from a copy believes that it is cosigned.
        let from = sizes.get(&(log.clone(), party.key.name().to_owned())).copied();
        if from == Some(size) {
            continue;
        }
        let (http, party, ledger) = (http.clone(), party.clone(), ledger.clone());
        let (log, note) = (log.clone(), note.clone());
        asking.spawn(async move {
            let answer = ask::ask(&http, &party, &ledger, &log, &note, size, from).await;
            (party.key.name().to_owned(), answer)
        });
    }
    let mut signatures = Vec::new();
    while let Some(asked) = asking.join_next().await {
        match asked {
            Ok((name, answer)) => {
                signatures.extend(heard(shared, log, name, size, answer, sizes));
            }
            Err(error) => tracing::error!(%error, "asking a witness failed"),
        }
    }
    let note = note.with(&signatures).map_err(corrupt)?;
    if note == shown {
        return Ok(());
    }
    keep(shared, log, known.as_deref(), note).await
}

/// Takes note of what a witness answered; gives its signature, where it is one.
fn heard(
    shared: &Shared,
    log: &LogId,
    witness: String,
    size: u64,
    answer: Result<NoteSignature, Trouble>,
    sizes: &mut BTreeMap<(LogId, String), u64>,
) -> Option<NoteSignature> {
    let origin = log.origin(shared.ledger.host());
    let key = (log.clone(), witness);
    let outcome = answer.as_ref().err().map_or("cosigned", Trouble::as_str);
    shared.metrics.witness(&key.1, outcome);
    match answer {
        Ok(signature) => {
            if shared.witnesses.refusals.write().remove(&key).is_some() {
                tracing::info!(origin, witness = key.1, "the witness cosigns again");
            }
            sizes.insert(key, size);
            Some(signature)
        }
        Err(trouble) => {
            sizes.remove(&key);
            let mut refusals = shared.witnesses.refusals.write();
            let again = refusals.get(&key) == Some(&trouble);
            // What a witness has against a log stands until it cosigns, whatever comes between.
            let accused = refusals.get(&key).is_some_and(Trouble::accuses);
            if trouble.accuses() {
                tracing::error!(
                    origin, witness = key.1, size, %trouble,
                    "ALARM: a witness says that this log was cut off or rewritten"
                );
            } else if !again {
                tracing::warn!(origin, witness = key.1, size, %trouble, "not cosigned");
            }
            if trouble.accuses() || !accused {
                refusals.insert(key, trouble);
            }
            None
        }
    }
}

/// Keeps a checkpoint that enough witnesses cosigned, and shows it from then on.
async fn keep(
    shared: &Arc<Shared>,
    log: &LogId,
    known: Option<&Note>,
    note: Note,
) -> Result<(), ledger::Error> {
    let keys: Vec<CosignerKey> =
        shared.witnesses.parties.iter().map(|party| party.key.clone()).collect();
    let signed = count_cosigners(&note, &keys, &NativeVerifier)
        .map_err(|error| ledger::Error::Corrupt(error.to_string()))?;
    if signed < shared.witnesses.quorum {
        return Ok(());
    }
    let size = |note: &Note| Checkpoint::parse(note.text()).map_or(0, |c| c.size);
    if known.is_some_and(|known| size(known) > size(&note)) {
        return Ok(());
    }
    let (ledger, vault) = plane(shared, log);
    let text = note.to_string();
    let (id, now) = (content_id(log), shared.now());
    let row = vault.seal(log.tenant(), &id, PART, Class::Record, text.as_bytes(), now).await?;
    ledger.commit(Batch::side(log.clone(), vec![row])).await?;
    tracing::debug!(size = size(&note), signed, ?log, "a checkpoint is cosigned");
    shared.witnesses.cosigned.write().insert(log.clone(), Arc::new(note));
    Ok(())
}
