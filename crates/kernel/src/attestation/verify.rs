//! Checking an attestation document. Nothing in it is believed but for what a trusted key signed.
//!
//! It is read field by field, so that whatever is wrong is wrong with a field that has a name.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::build::{canonical_hash, salted, salted_hash};
use super::{Attestation, Disclosure, Level, Refused};
use crate::action::{self, Outcome};
use crate::bundle::Pinned;
use crate::dsse::Envelope;
use crate::ids::ActionId;
use crate::json::{self, RawJson};
use crate::limits;
use crate::machine::{Change, Kind};
use crate::note::{Checkpoint, VerifierKey};
use crate::pem;
use crate::proof::TlogProof;
use crate::receipt::Statement;
use crate::signing_key::LogKeys;
use crate::values::{Digest, Timestamp};
use crate::verify::{self, Keys, SignatureVerifier, Trust};

/// What a document is checked for.
#[derive(Clone, Debug)]
pub struct Check<'a> {
    /// Keys that whoever verifies got another way. Without them those in the document count, and
    /// the trust is unknown.
    pub pinned: Option<&'a Pinned>,
    /// Now.
    pub now: Timestamp,
    /// How old the end of the execution may be, in microseconds.
    pub max_age_micros: Option<i64>,
    /// By how much the clocks may differ, in microseconds.
    pub skew_micros: i64,
    /// The execution that the document has to be of.
    pub execution_id: Option<ActionId>,
    /// The level that it has to have, or a higher one.
    pub level: Level,
    /// What the code, its input and its output are said to have been.
    pub given: Given<'a>,
}

impl Check<'_> {
    /// Checks by the document's own keys, for any age.
    pub fn at(now: Timestamp) -> Self {
        Self {
            pinned: None,
            now,
            max_age_micros: None,
            skew_micros: limits::CLOCK_SKEW_MICROS,
            execution_id: None,
            level: Level::Basic,
            given: Given::default(),
        }
    }
}

/// What somebody has and wants to see attested.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// The code.
    pub agent: Option<&'a [u8]>,
    /// The input: JSON.
    pub input: Option<&'a [u8]>,
    /// The output: JSON, or why it failed.
    pub output: Option<&'a [u8]>,
}

/// What a document that is believed says.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Verified {
    /// The execution: the action.
    pub execution_id: ActionId,
    /// The log.
    pub origin: String,
    /// Where the receipt of the outcome is in it.
    pub index: u64,
    /// How many receipts the log had under the checkpoint.
    pub size: u64,
    /// The key that signed the receipt.
    pub key_id: Digest,
    /// What vouches for the keys; the weakest counts.
    pub trust: Trust,
    /// What is attested.
    pub attestation: Attestation,
}

const FIELDS: [&str; 12] = [
    "execution_id",
    "attempt",
    "status",
    "receipt",
    "permit_receipt",
    "proof",
    "checkpoint",
    "receipt_key",
    "permit_receipt_key",
    "log_key",
    "attestation",
    "disclosure",
];

/// Checks an attestation document.
pub fn verify(
    document: &[u8],
    check: &Check<'_>,
    verifier: &dyn SignatureVerifier,
) -> Result<Verified, Refused> {
    let shown = Shown::read(document)?;
    let id: ActionId = shown.get("execution_id")?;
    if check.execution_id.as_ref().is_some_and(|asked| *asked != id) {
        let message = format!("it is of {id}");
        return Err(Refused::new("attestation_other_execution", "execution_id", message));
    }
    let receipt = shown.text("receipt")?;
    let (signed, statement) = shown.receipt("receipt", "receipt_key", check.pinned, verifier)?;
    let (attempt, outcome) = finished(&statement, &id)?;
    shown.same("attempt", &attempt)?;
    shown.same("status", &outcome.status)?;
    shown.permitted(&statement, &id, attempt, check.pinned, verifier)?;
    let (checkpoint, trust) = shown.proven(receipt, &statement, check.pinned, verifier)?;
    let attestation = outcome.attestation.as_deref().ok_or_else(|| {
        Refused::new("attestation_absent", "receipt", "its outcome attests nothing")
    })?;
    shown.same("attestation", attestation)?;
    timely(attestation, &statement, check)?;
    complete(attestation, check.level)?;
    let disclosure = shown.disclosure()?;
    disclosed(attestation, &disclosure)?;
    given(attestation, &disclosure, &check.given)?;
    Ok(Verified {
        execution_id: id.clone(),
        index: statement.predicate.log.index,
        origin: statement.predicate.log.origin.clone(),
        size: checkpoint.size,
        key_id: signed.key_id,
        trust: signed.trust.min(trust),
        attestation: attestation.clone(),
    })
}

/// A document as it was handed over.
struct Shown(Map<String, Value>);

impl Shown {
    fn read(document: &[u8]) -> Result<Self, Refused> {
        let text = str::from_utf8(document)
            .map_err(|_| Refused::malformed("", "the document is not UTF-8"))?;
        json::check(text, limits::ATTESTATION_BYTES_MAX).map_err(|e| Refused::json(&e))?;
        let fields: Map<String, Value> = serde_json::from_str(text)
            .map_err(|_| Refused::malformed("", "the document is not a JSON object"))?;
        match fields.keys().find(|name| !FIELDS.contains(&name.as_str())) {
            Some(name) => Err(Refused::malformed(name, "no attestation has this field")),
            None => Ok(Self(fields)),
        }
    }

    fn value(&self, field: &str) -> Result<&Value, Refused> {
        self.0.get(field).ok_or_else(|| Refused::malformed(field, "it is missing"))
    }

    fn get<T: DeserializeOwned>(&self, field: &str) -> Result<T, Refused> {
        let value = self.value(field)?;
        T::deserialize(value).map_err(|e| Refused::malformed(field, e.to_string()))
    }

    fn text(&self, field: &str) -> Result<&str, Refused> {
        let text = self.value(field)?.as_str();
        text.ok_or_else(|| Refused::malformed(field, "it is no text"))
    }

    /// What is shown is what was signed.
    fn same<T: Serialize + ?Sized>(&self, field: &str, signed: &T) -> Result<(), Refused> {
        let signed = serde_json::to_value(signed)
            .map_err(|e| Refused::malformed("receipt", e.to_string()))?;
        match difference(field, &signed, self.value(field)?) {
            Some(field) => Err(Refused::differs(field)),
            None => Ok(()),
        }
    }

    /// A receipt, signed by a trusted key, or without any by the one that is shown.
    fn receipt(
        &self,
        field: &str,
        key_field: &str,
        pinned: Option<&Pinned>,
        verifier: &dyn SignatureVerifier,
    ) -> Result<(verify::Verified, Statement), Refused> {
        let pem = self.text(key_field)?;
        let shown = pem::decode(pem).filter(|spki| pem::encode(spki) == pem);
        let shown = shown.ok_or_else(|| Refused::malformed(key_field, "it is no key in PEM"))?;
        let mut keys = Keys::default();
        let given = pinned.filter(|pinned| !pinned.keys.is_empty());
        for spki in given.iter().flat_map(|pinned| &pinned.keys) {
            keys.insert(spki, given.map_or(Trust::Unknown, |pinned| pinned.trust));
        }
        if given.is_none() {
            keys.insert(&shown, Trust::Unknown);
        }
        let bytes = self.text(field)?.as_bytes();
        let envelope = Envelope::parse(bytes).map_err(|e| Refused::receipt(field, &e.into()))?;
        if envelope.key_id != Digest::of(&shown) {
            // Which of the two was changed, the signature knows.
            let message = crate::dsse::pae(&envelope.payload);
            let signed = verifier.p256_sha256(&shown, &message, &envelope.signature);
            let field = if signed { field } else { key_field };
            let message = "it is not the key that the receipt names";
            return Err(Refused::new("attestation_other_key", field, message));
        }
        let none = LogKeys::default();
        let logs = pinned.map_or(&none, |pinned| &pinned.logs);
        verify::verify_receipt(bytes, &keys, logs, verifier)
            .map_err(|error| Refused::receipt(field, &error))
    }

    /// A permit was drawn for the attempt, in the same log and before.
    fn permitted(
        &self,
        finished: &Statement,
        id: &ActionId,
        attempt: u32,
        pinned: Option<&Pinned>,
        verifier: &dyn SignatureVerifier,
    ) -> Result<(), Refused> {
        const FIELD: &str = "permit_receipt";
        let key = match self.0.contains_key("permit_receipt_key") {
            true => "permit_receipt_key",
            false => "receipt_key",
        };
        let (_, permit) = self.receipt(FIELD, key, pinned, verifier)?;
        let (drawn, ended) = (&permit.predicate, &finished.predicate);
        let started = changes(&permit, id).any(
            |change| matches!(change, action::Change::Started(begun) if begun.number == attempt),
        );
        let before = drawn.log.origin == ended.log.origin && drawn.log.index < ended.log.index;
        match started && before {
            true => Ok(()),
            false => {
                let message = "it is not the receipt that drew the permit for this attempt";
                Err(Refused::new("attestation_other_permit", FIELD, message))
            }
        }
    }

    /// The receipt is in the log.
    fn proven(
        &self,
        receipt: &str,
        statement: &Statement,
        pinned: Option<&Pinned>,
        verifier: &dyn SignatureVerifier,
    ) -> Result<(Checkpoint, Trust), Refused> {
        let text = self.text("log_key")?;
        let shown: VerifierKey = text
            .parse()
            .map_err(|e: crate::note::Error| Refused::new(e.code(), "log_key", e.to_string()))?;
        let given = pinned.and_then(|pinned| pinned.vkey.as_ref().map(|key| (key, pinned.trust)));
        let (key, trust) = given.unwrap_or((&shown, Trust::Unknown));
        if shown != *key || shown.to_string() != text {
            let message = "it is not the key of the log that is trusted";
            return Err(Refused::new("attestation_other_log_key", "log_key", message));
        }
        let text = self.text("proof")?;
        let proof = TlogProof::parse(text.as_bytes()).map_err(|e| Refused::proof(&e))?;
        if !proof.extra.is_empty() || proof.to_string() != text {
            return Err(Refused::malformed("proof", "it has more than the proof"));
        }
        let checkpoint =
            proof.verify(receipt.as_bytes(), key, verifier).map_err(|e| Refused::proof(&e))?;
        let log = &statement.predicate.log;
        if proof.index != log.index || checkpoint.origin != log.origin {
            let message = "it is of another place than the receipt says";
            return Err(Refused::new("attestation_other_place", "proof", message));
        }
        if proof.checkpoint.to_string() != self.text("checkpoint")? {
            let message = "it is not the checkpoint of the proof";
            return Err(Refused::new("attestation_differs", "checkpoint", message));
        }
        Ok((checkpoint, trust))
    }

    fn disclosure(&self) -> Result<Disclosure, Refused> {
        let Some(fields) = self.value("disclosure")?.as_object() else {
            return Err(Refused::malformed("disclosure", "it is no object"));
        };
        let mut disclosure = Disclosure::default();
        for (name, value) in fields {
            let field = format!("disclosure.{name}");
            match name.as_str() {
                "salt" => disclosure.salt = read(&field, value)?,
                "capabilities" => disclosure.capabilities = read(&field, value)?,
                "denials" => disclosure.denials = read(&field, value)?,
                "files" => disclosure.files = read(&field, value)?,
                "tools" => disclosure.tools = read(&field, value)?,
                "tool_calls" => disclosure.tool_calls = read(&field, value)?,
                _ => return Err(Refused::malformed(&field, "no disclosure has this field")),
            }
        }
        Ok(disclosure)
    }
}

fn read<T: DeserializeOwned>(field: &str, value: &Value) -> Result<Option<T>, Refused> {
    T::deserialize(value).map(Some).map_err(|e| Refused::malformed(field, e.to_string()))
}

/// The first place where what is shown is not what was signed.
fn difference(at: &str, signed: &Value, shown: &Value) -> Option<String> {
    match (signed, shown) {
        (Value::Object(signed), Value::Object(shown)) => {
            let names = signed.keys().chain(shown.keys().filter(|n| !signed.contains_key(*n)));
            names.into_iter().find_map(|name| {
                let field = format!("{at}.{name}");
                match (signed.get(name), shown.get(name)) {
                    (Some(signed), Some(shown)) => difference(&field, signed, shown),
                    _ => Some(field),
                }
            })
        }
        (Value::Array(signed), Value::Array(shown)) => {
            let items = signed.iter().zip(shown).enumerate();
            let differs = |(index, (signed, shown)): (usize, (&Value, &Value))| {
                difference(&format!("{at}.{index}"), signed, shown)
            };
            let lengths = (signed.len() != shown.len()).then(|| at.to_owned());
            items.into_iter().find_map(differs).or(lengths)
        }
        (signed, shown) => (signed != shown).then(|| at.to_owned()),
    }
}

/// The changes of an action in a receipt.
fn changes<'a>(
    statement: &'a Statement,
    id: &'a ActionId,
) -> impl Iterator<Item = &'a action::Change> {
    let ours = statement.predicate.transitions.iter().filter(move |transition| {
        transition.stream.kind == Kind::Action && *transition.stream.id == *id.as_str()
    });
    ours.filter_map(|transition| match &transition.change {
        Change::Action(change) => Some(change),
        _ => None,
    })
}

/// How the receipt says that the execution ended.
fn finished<'a>(statement: &'a Statement, id: &'a ActionId) -> Result<(u32, &'a Outcome), Refused> {
    let ended = changes(statement, id).find_map(|change| match change {
        action::Change::Finished { attempt, outcome } => Some((*attempt, outcome)),
        _ => None,
    });
    ended.ok_or_else(|| {
        // Another receipt of the execution stands in, or the receipt is of another one.
        let ours = changes(statement, id).next().is_some();
        let field = if ours { "receipt" } else { "execution_id" };
        let message = "the receipt is not of the outcome of this execution";
        Refused::new("attestation_other_execution", field, message)
    })
}

fn timely(
    attestation: &Attestation,
    statement: &Statement,
    check: &Check<'_>,
) -> Result<(), Refused> {
    let Attestation { started_at, ended_at, not_after, .. } = attestation;
    let latest = check.now.plus_micros(check.skew_micros);
    for (field, time) in [
        ("attestation.started_at", *started_at),
        ("attestation.ended_at", *ended_at),
        ("receipt", statement.predicate.time_us),
    ] {
        if time > latest {
            let message = "its time is in the future: check the clocks";
            return Err(Refused::new("attestation_from_the_future", field, message));
        }
    }
    if ended_at < started_at {
        let message = "it ended before it began";
        return Err(Refused::new("attestation_times", "attestation.ended_at", message));
    }
    if check.now > *not_after {
        let message = "it is not to be relied on any more";
        return Err(Refused::new("attestation_expired", "attestation.not_after", message));
    }
    let age = check.now.0.saturating_sub(ended_at.0);
    if check.max_age_micros.is_some_and(|max| age > max) {
        let message = "the execution is longer ago than is allowed";
        return Err(Refused::new("attestation_too_old", "attestation.ended_at", message));
    }
    Ok(())
}

/// The attestation has what its level says, and agrees with itself.
fn complete(attestation: &Attestation, asked: Level) -> Result<(), Refused> {
    if attestation.level == Level::Basic {
        return match asked {
            Level::Basic => Ok(()),
            Level::Full => {
                let message = "it is basic, and full is asked for";
                Err(Refused::new("attestation_level", "attestation.level", message))
            }
        };
    }
    let there = [
        ("attestation.limits", attestation.limits.is_some()),
        ("attestation.fuel_used", attestation.fuel_used.is_some()),
        ("attestation.memory_peak_bytes", attestation.memory_peak_bytes.is_some()),
        ("attestation.capabilities_hash", attestation.capabilities_hash.is_some()),
        ("attestation.denials_hash", attestation.denials_hash.is_some()),
        ("attestation.files_hash", attestation.files_hash.is_some()),
        ("attestation.runtime", attestation.runtime.is_some()),
        ("attestation.tools_hash", attestation.tools_hash.is_some()),
        ("attestation.tool_calls_made", attestation.tool_calls_made.is_some()),
        ("attestation.tool_calls_hash", attestation.tool_calls_hash.is_some()),
    ];
    if let Some((field, _)) = there.into_iter().find(|(_, there)| !there) {
        return Err(Refused::incomplete(field));
    }
    let told = attestation.tool_calls.len();
    let made = attestation.tool_calls_made.and_then(|made| usize::try_from(made).ok());
    if made.is_some_and(|made| told != made.min(limits::ATTESTED_CALLS_MAX)) {
        return Err(Refused::incomplete("attestation.tool_calls"));
    }
    if made == Some(told) {
        hashes("attestation.tool_calls", attestation.tool_calls_hash, || {
            canonical_hash(&attestation.tool_calls)
        })?;
    }
    if attestation.tool_hashes.len() < limits::ATTESTED_TOOLS_MAX {
        hashes("attestation.tool_hashes", attestation.tools_hash, || {
            canonical_hash(&attestation.tool_hashes)
        })?;
    }
    Ok(())
}

/// What is disclosed hashes to what was signed.
fn hashes(
    field: &str,
    signed: Option<Digest>,
    shown: impl FnOnce() -> Result<Digest, json::Error>,
) -> Result<(), Refused> {
    let shown = shown().map_err(|e| Refused::new(e.code(), field, e.to_string()))?;
    match signed == Some(shown) {
        true => Ok(()),
        false => {
            let message = "it does not hash to what the receipt says";
            Err(Refused::new("attestation_hash", field, message))
        }
    }
}

fn disclosed(attestation: &Attestation, disclosure: &Disclosure) -> Result<(), Refused> {
    let Disclosure { salt, capabilities, denials, files, tools, tool_calls } = disclosure;
    if let Some(salt) = salt {
        let digits = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if salt.len() != limits::SALT_HEX_DIGITS || !digits(salt) {
            return Err(Refused::malformed("disclosure.salt", "it is not 32 hex digits"));
        }
        let hash = Digest::of(salt.as_bytes());
        hashes("disclosure.salt", Some(attestation.salt_hash), || Ok(hash))?;
    }
    if let Some(shown) = capabilities {
        let signed = attestation.capabilities_hash;
        hashes("disclosure.capabilities", signed, || canonical_hash(shown))?;
    }
    if let Some(shown) = tools {
        hashes("disclosure.tools", attestation.tools_hash, || canonical_hash(shown))?;
    }
    if let Some(shown) = tool_calls {
        let signed = attestation.tool_calls_hash;
        hashes("disclosure.tool_calls", signed, || canonical_hash(shown))?;
    }
    if denials.is_none() && files.is_none() {
        return Ok(());
    }
    let salt = salt.as_deref().ok_or_else(salt_missing)?;
    if let Some(shown) = denials {
        let signed = attestation.denials_hash;
        hashes("disclosure.denials", signed, || salted_hash(salt, shown))?;
    }
    if let Some(shown) = files {
        hashes("disclosure.files", attestation.files_hash, || salted_hash(salt, shown))?;
    }
    Ok(())
}

fn salt_missing() -> Refused {
    let message = "without the salt nothing can be compared with a salted hash";
    Refused::new("attestation_salt_missing", "disclosure.salt", message)
}

/// What somebody has is what ran.
fn given(
    attestation: &Attestation,
    disclosure: &Disclosure,
    given: &Given<'_>,
) -> Result<(), Refused> {
    let other = |field: &str, what: &str| {
        Err(Refused::new("attestation_other_content", field, format!("it is of another {what}")))
    };
    if given.agent.is_some_and(|agent| Digest::of(agent) != attestation.agent_hash) {
        return other("attestation.agent_hash", "agent");
    }
    for (content, hash, field, what) in [
        (given.input, attestation.input_hash, "attestation.input_hash", "input"),
        (given.output, attestation.output_hash, "attestation.output_hash", "output"),
    ] {
        let Some(content) = content else { continue };
        let salt = disclosure.salt.as_deref().ok_or_else(salt_missing)?;
        if !spellings(content).iter().any(|bytes| salted(salt, bytes) == hash) {
            return other(field, what);
        }
    }
    Ok(())
}

/// The same JSON as it was written, without white space around it, and in canonical form: a file
/// that was saved from one of them may be any other.
fn spellings(content: &[u8]) -> Vec<Vec<u8>> {
    let trimmed = content.trim_ascii();
    let text = str::from_utf8(trimmed).ok();
    let canonical = text.and_then(|text| json::canonical(&RawJson::parse(text).ok()?).ok());
    [content.to_vec(), trimmed.to_vec()].into_iter().chain(canonical).collect()
}
