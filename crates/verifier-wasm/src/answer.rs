//! Questions answered.

use kernel::attestation::{self, Check, Given, Verified};
use kernel::bundle::{self, BundleReport, Files, Pinned, archive};
use kernel::history::{self, Demands};
use kernel::ids::{ActionId, InvalidId};
use kernel::note::{self, Checkpoint, Note, VerifierKey};
use kernel::pem;
use kernel::proof::{self, TlogProof};
use kernel::signing_key::{self, KeyRange, LogKeys};
use kernel::tree;
use kernel::values::{Digest, Timestamp};
use kernel::verify::{self, Keys, Trust, verify_checkpoint, verify_receipt};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::crypto::PureVerifier;
use crate::limits::{KEYS_MAX, PUBLISHED_KEYS_MAX};
use crate::question::{Attestation, Bytes, Published, Question};

/// Why nothing could be verified.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("the question is malformed: {0}")]
    Question(String),
    #[error("key {0} is no public key in PEM")]
    Key(usize),
    #[error(transparent)]
    LogKey(#[from] note::Error),
    #[error(transparent)]
    Verify(#[from] verify::Error),
    #[error(transparent)]
    Receipt(#[from] kernel::receipt::Error),
    #[error(transparent)]
    Proof(#[from] proof::Error),
    #[error(transparent)]
    Tree(#[from] tree::Error),
    #[error("the published keys: {0}")]
    Ranges(#[from] signing_key::Error),
    #[error(transparent)]
    Execution(#[from] InvalidId),
    #[error(transparent)]
    Attestation(#[from] attestation::Refused),
}

impl Error {
    fn code(&self) -> &'static str {
        match self {
            Self::Question(_) => "question_malformed",
            Self::Key(_) => "question_key",
            Self::LogKey(error) => error.code(),
            Self::Verify(error) => error.code(),
            Self::Receipt(error) => error.code(),
            Self::Proof(error) => error.code(),
            Self::Tree(error) => error.code(),
            Self::Ranges(error) => error.code(),
            Self::Execution(_) => "question_execution",
            Self::Attestation(refused) => refused.code,
        }
    }
}

/// One thing that is wrong.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// A stable code.
    pub code: &'static str,
    /// What to change, in a sentence.
    pub message: String,
}

/// A receipt whose signature is right.
#[derive(Debug, Serialize)]
pub struct SignedReceipt {
    id: String,
    origin: String,
    index: u64,
    prev: Digest,
    time_us: i64,
    /// The key that signed it.
    key_id: Digest,
    /// The signed statement, as it was signed.
    statement: Box<RawValue>,
}

/// A checkpoint whose signature is right.
#[derive(Debug, Serialize)]
pub struct SignedCheckpoint {
    origin: String,
    size: u64,
    root: Digest,
}

/// The answer to a question.
#[derive(Debug, Serialize)]
pub struct Answer {
    /// Whether nothing is wrong. Says nothing of whose keys signed: see `trust`.
    pub valid: bool,
    /// What vouches for the keys; the weakest counts.
    pub trust: Trust,
    /// What is wrong.
    pub errors: Vec<Finding>,
    /// The receipt asked about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipt: Option<SignedReceipt>,
    /// The checkpoint asked about, or the newer one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<SignedCheckpoint>,
    /// How many receipts a bundle has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipts: Option<u64>,
    /// The log of a bundle.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// How many receipts the log of a bundle has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    /// What is attested of an execution.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attestation: Option<Verified>,
}

impl Answer {
    fn valid(trust: Trust) -> Self {
        Self {
            valid: true,
            trust,
            errors: Vec::new(),
            receipt: None,
            checkpoint: None,
            receipts: None,
            origin: None,
            size: None,
            attestation: None,
        }
    }

    fn refused(error: &Error) -> Self {
        let finding = Finding { code: error.code(), message: error.to_string() };
        Self { valid: false, errors: vec![finding], ..Self::valid(Trust::Unknown) }
    }
}

impl From<BundleReport> for Answer {
    fn from(report: BundleReport) -> Self {
        let errors = report.codes.into_iter().zip(report.errors);
        Self {
            valid: report.valid,
            errors: errors.map(|(code, message)| Finding { code, message }).collect(),
            receipts: Some(report.receipts),
            origin: report.origin,
            size: report.size,
            ..Self::valid(report.trust)
        }
    }
}

/// The answer where none can be written: serialising needs no more than memory.
const UNWRITTEN: &[u8] = br#"{"valid":false,"trust":"unknown",
"errors":[{"code":"answer_unwritten","message":"the answer could not be written"}]}"#;

/// Answers the question in `json`, in JSON.
pub fn answer(json: &[u8]) -> Vec<u8> {
    let question = serde_json::from_slice(json);
    let answered = question.map_err(|error| Error::Question(error.to_string())).and_then(check);
    let answer = answered.unwrap_or_else(|error| Answer::refused(&error));
    serde_json::to_vec(&answer).unwrap_or_else(|_| UNWRITTEN.to_vec())
}

fn check(question: Question) -> Result<Answer, Error> {
    match question {
        Question::Receipt { envelope, keys, published, trust } => {
            let (keys, logs) = given(&keys, published.as_ref())?;
            receipt(&envelope.0, &keys, &logs, trust.into())
        }
        Question::Checkpoint { checkpoint, log_key, trust } => {
            let checkpoint = read_checkpoint(&checkpoint.0, &log_key.parse()?)?;
            Ok(Answer { checkpoint: Some(checkpoint.into()), ..Answer::valid(trust.into()) })
        }
        Question::Inclusion { envelope, proof, log_key, trust } => {
            let proof = TlogProof::parse(&proof.0)?;
            let checkpoint = proof.verify(&envelope.0, &log_key.parse()?, &PureVerifier)?;
            Ok(Answer { checkpoint: Some(checkpoint.into()), ..Answer::valid(trust.into()) })
        }
        Question::Consistency { old, new, hashes, log_key, trust } => {
            let checkpoint = consistency(&old.0, &new.0, &hashes, &log_key.parse()?)?;
            Ok(Answer { checkpoint: Some(checkpoint.into()), ..Answer::valid(trust.into()) })
        }
        Question::Attestation(question) => attested(&question),
        Question::Bundle {
            tar,
            files,
            keys,
            published,
            log_key,
            trust,
            since,
            witnesses,
            quorum,
        } => {
            let vkey = log_key.map(|key| key.parse()).transpose()?;
            let (keys, logs) = given(&keys, published.as_ref())?;
            let pinned = Pinned { keys, vkey, trust: trust.into(), logs };
            let witnesses = witnesses.iter().map(|key| key.parse()).collect::<Result<_, _>>()?;
            let demands = Demands { since: since.map(|since| since.0), witnesses, quorum };
            match (tar, files) {
                (Some(tar), None) => match archive::read(&tar.0) {
                    Ok(files) => Ok(bundle(&files, &pinned, &demands)),
                    Err(error) => Ok(BundleReport::refused(&error).into()),
                },
                (None, Some(files)) => {
                    let files = files.iter().map(|(path, file)| (path.as_str(), &*file.0));
                    Ok(bundle(&files.collect(), &pinned, &demands))
                }
                _ => Err(Error::Question("name tar or files, and not both".to_owned())),
            }
        }
    }
}

fn bytes(bytes: Option<&Bytes>) -> Option<&[u8]> {
    bytes.map(|bytes| bytes.0.as_slice())
}

fn attested(question: &Attestation) -> Result<Answer, Error> {
    let vkey = question.log_key.as_ref().map(|key| key.parse()).transpose()?;
    let (keys, logs) = given(&question.keys, question.published.as_ref())?;
    let pinned = Pinned { keys, vkey, trust: question.trust.into(), logs };
    let check = Check {
        pinned: Some(&pinned).filter(|p| !p.keys.is_empty() || p.vkey.is_some()),
        max_age_micros: question.max_age_s.map(|seconds| i64::from(seconds) * 1_000_000),
        execution_id: question.execution_id.as_ref().map(ActionId::new).transpose()?,
        level: question.level,
        given: Given {
            agent: bytes(question.agent.as_ref()),
            input: bytes(question.input.as_ref()),
            output: bytes(question.output.as_ref()),
        },
        ..Check::at(Timestamp(question.now_us))
    };
    let verified = attestation::verify(&question.document.0, &check, &PureVerifier)?;
    let trust = verified.trust;
    Ok(Answer { attestation: Some(verified), ..Answer::valid(trust) })
}

fn bundle(files: &Files<'_>, pinned: &Pinned, demands: &Demands) -> Answer {
    let given = !pinned.keys.is_empty() || pinned.vkey.is_some();
    let report = bundle::verify_files(files, given.then_some(pinned), &PureVerifier);
    let mut answer = Answer::from(report);
    let brought = || str::from_utf8(files.get(bundle::VKEY)?).ok()?.trim_end().parse().ok();
    // Without any key, the report says so already.
    if let Some(key) = pinned.vkey.clone().or_else(brought).filter(|_| !demands.is_empty()) {
        let met = history::verify_bundle_demands(files, &key, demands, &PureVerifier);
        if let Err(error) = met {
            answer.valid = false;
            answer.errors.push(Finding { code: error.code(), message: error.to_string() });
        }
    }
    answer
}

fn decode_keys(keys: &[String]) -> Result<Vec<Vec<u8>>, Error> {
    if keys.len() > KEYS_MAX {
        return Err(Error::Question(format!("at most {KEYS_MAX} keys")));
    }
    let decoded = keys.iter().enumerate();
    decoded.map(|(at, key)| pem::decode(key).ok_or(Error::Key(at))).collect()
}

/// The receipt keys of a question, and what they are valid for as far as it says so.
fn given(keys: &[String], published: Option<&Published>) -> Result<(Vec<Vec<u8>>, LogKeys), Error> {
    let Some(Published { keys: published }) = published else {
        return Ok((decode_keys(keys)?, LogKeys::default()));
    };
    let malformed = |reason: &str| Error::Question(reason.to_owned());
    if !keys.is_empty() {
        return Err(malformed("name keys or published, and not both"));
    }
    if published.len() > PUBLISHED_KEYS_MAX {
        return Err(Error::Question(format!("at most {PUBLISHED_KEYS_MAX} published keys")));
    }
    let (mut decoded, mut ranges) = (Vec::new(), Vec::new());
    for (at, key) in published.iter().enumerate().filter(|(_, key)| key.purpose == "receipt") {
        let spki = pem::decode(&key.public_key_pem).ok_or(Error::Key(at))?;
        let (key_id, to) = (Digest::of(&spki), key.to_index.map(|to| to.0));
        ranges.push((key.origin.as_str(), KeyRange { key_id, from: key.from_index.0, to }));
        decoded.push(spki);
    }
    // Without any, the keys that a bundle brings would count.
    if decoded.is_empty() {
        return Err(malformed("published names no receipt key"));
    }
    Ok((decoded, LogKeys::of_ranges(ranges)?))
}

fn receipt(
    envelope: &[u8],
    keys: &[Vec<u8>],
    logs: &LogKeys,
    trust: Trust,
) -> Result<Answer, Error> {
    let mut known = Keys::default();
    for spki in keys {
        known.insert(spki, trust);
    }
    let checked = verify_receipt(envelope, &known, logs, &PureVerifier);
    let (verified, statement) = checked.map_err(|error| match error {
        verify::Error::Receipt(error) => Error::Receipt(error),
        error => Error::Verify(error),
    })?;
    let predicate = statement.predicate;
    let malformed = |error: &dyn std::fmt::Display| {
        Error::Receipt(kernel::receipt::Error::Malformed(error.to_string()))
    };
    let statement = String::from_utf8(verified.payload).map_err(|error| malformed(&error))?;
    let receipt = SignedReceipt {
        id: predicate.id,
        origin: predicate.log.origin,
        index: predicate.log.index,
        prev: predicate.log.prev,
        time_us: predicate.time_us.0,
        key_id: verified.key_id,
        statement: RawValue::from_string(statement).map_err(|error| malformed(&error))?,
    };
    Ok(Answer { receipt: Some(receipt), ..Answer::valid(verified.trust) })
}

fn read_checkpoint(bytes: &[u8], key: &VerifierKey) -> Result<Checkpoint, Error> {
    let note = Note::parse(bytes).map_err(verify::Error::from)?;
    Ok(verify_checkpoint(&note, key, &PureVerifier)?)
}

impl From<Checkpoint> for SignedCheckpoint {
    fn from(checkpoint: Checkpoint) -> Self {
        let Checkpoint { origin, size, root } = checkpoint;
        Self { origin, size, root }
    }
}

fn consistency(
    old: &[u8],
    new: &[u8],
    hashes: &[Bytes],
    key: &VerifierKey,
) -> Result<Checkpoint, Error> {
    let (old, new) = (read_checkpoint(old, key)?, read_checkpoint(new, key)?);
    let hashes: Option<Vec<Digest>> =
        hashes.iter().map(|hash| hash.0.as_slice().try_into().ok().map(Digest)).collect();
    let hashes = hashes.ok_or_else(|| Error::Question("a hash has 32 bytes".to_owned()))?;
    tree::verify_consistency(old.size, new.size, &old.root, &new.root, &hashes)?;
    Ok(new)
}
