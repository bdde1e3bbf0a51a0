//! The keys that sign a log's receipts. A log has one at a time: a receipt that the old key signs
//! brings the new one in, and every later receipt is signed by that.
//!
//! So a log says itself which key is valid for which of its indices, and whoever trusts its first
//! key can follow it to the last.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use crate::limits;
use crate::machine::{self, Applied, Kind, Refusal};
use crate::receipt::Transition;
use crate::values::{Digest, Timestamp};

/// The signature algorithm of a receipt key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Algorithm {
    /// ECDSA on P-256 over SHA-256.
    #[serde(rename = "ecdsa-p256-sha256")]
    EcdsaP256Sha256,
}

/// What changes a signing key. The stream's id is the id of the key: SHA-256 of its SPKI in hex.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub enum Change {
    /// The key signs every later receipt of the log.
    #[serde(rename = "signing_key.activated")]
    Activated {
        /// The key: SubjectPublicKeyInfo in DER, as base64.
        public_key: String,
        /// What it signs with.
        algorithm: Algorithm,
        /// The key that signs this receipt, and none after it.
        replaces: Digest,
    },
}

/// What is asked of a signing key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    /// The key: SubjectPublicKeyInfo in DER.
    pub spki_der: Vec<u8>,
    /// The key that it takes over from.
    pub replaces: Digest,
}

/// A key that took over a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SigningKey {
    /// SHA-256 of its SPKI in hex.
    pub id: String,
    /// SubjectPublicKeyInfo in DER, as base64.
    pub public_key: String,
    /// What it signs with.
    pub algorithm: Algorithm,
    /// The key that it took over from.
    pub replaces: Digest,
    /// The index of the receipt that says so.
    pub index: u64,
    /// When.
    pub activated_at: Timestamp,
}

/// A key takes over once: what was replaced does not come back.
pub fn step(state: Option<&SigningKey>, input: Input) -> Result<Change, Refusal> {
    if state.is_some() {
        return Err(Refusal::Exists);
    }
    let Input { spki_der, replaces } = input;
    if Digest::of(&spki_der) == replaces {
        return Err(Refusal::InvalidInput("a key does not replace itself"));
    }
    let public_key = BASE64.encode(spki_der);
    Ok(Change::Activated { public_key, algorithm: Algorithm::EcdsaP256Sha256, replaces })
}

/// Folds one change into the state. Total.
pub fn apply(state: &mut Option<SigningKey>, change: &Change, applied: &Applied<'_>) {
    let Change::Activated { public_key, algorithm, replaces } = change;
    if state.is_none() {
        *state = Some(SigningKey {
            id: applied.id.to_owned(),
            public_key: public_key.clone(),
            algorithm: *algorithm,
            replaces: *replaces,
            index: applied.index,
            activated_at: applied.time,
        });
    }
}

/// Why a key does not sign a log, or does not take it over.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A receipt is signed by a key that is not the log's at that index.
    #[error(
        "key {key} may not sign receipt {index}: it is valid {}",
        range.map_or_else(|| "for no index of this log".to_owned(), |range| range.to_string())
    )]
    OutsideRange {
        /// The key.
        key: Digest,
        /// What it signed.
        index: u64,
        /// What it may sign, if anything.
        range: Option<KeyRange>,
    },
    /// The transition names another key than the one whose public key it brings.
    #[error("receipt {0} activates a key that is not the one it names")]
    OtherKey(u64),
    /// The new key takes over from a key that is not the log's.
    #[error("receipt {0} replaces a key that is not the log's")]
    NotCurrent(u64),
    /// The key was the log's before.
    #[error("receipt {0} activates a key that was replaced before")]
    Returned(u64),
    /// One receipt brings in one key.
    #[error("receipt {0} activates more than one key")]
    Twice(u64),
    /// Ranges that do not begin at 0, have a gap, or name a key twice.
    #[error("the ranges do not cover the log from 0 on, each index by one key")]
    Ranges,
    /// There is an end to it.
    #[error("a log has at most {max} signing keys", max = limits::SIGNING_KEYS_PER_LOG_MAX)]
    TooMany,
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OutsideRange { .. } => "key_outside_range",
            Self::OtherKey(_) => "key_mismatch",
            Self::NotCurrent(_) => "key_not_current",
            Self::Returned(_) => "key_returned",
            Self::Twice(_) => "key_activated_twice",
            Self::Ranges => "key_ranges_invalid",
            Self::TooMany => "too_many_keys",
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        match error {
            Error::NotCurrent(_) => Self::Moved,
            Error::Returned(_) => Self::Exists,
            Error::TooMany => Self::InvalidInput("the log has as many signing keys as it can"),
            Error::OtherKey(_) => Self::InvalidInput("the stream is not named like the key"),
            Error::Twice(_) => Self::InvalidInput("a commit activates one signing key"),
            Error::OutsideRange { .. } | Error::Ranges => {
                Self::InvalidInput("the key is not valid here")
            }
        }
    }
}

/// The indices of a log that a key is valid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyRange {
    /// The key.
    pub key_id: Digest,
    /// The first index.
    pub from: u64,
    /// The index after the last; none while it signs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
}

impl KeyRange {
    /// Whether the key may sign the receipt at `index`.
    pub fn covers(&self, index: u64) -> bool {
        self.from <= index && self.to.is_none_or(|to| index < to)
    }
}

impl std::fmt::Display for KeyRange {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.to {
            Some(to) => write!(f, "from {} up to, not including, {to}", self.from),
            None => write!(f, "from {} on", self.from),
        }
    }
}

/// A key that a receipt brings in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Handover {
    /// The index of the receipt.
    pub index: u64,
    /// The key that it replaces.
    pub replaces: Digest,
    /// The new key's id.
    pub key_id: Digest,
    /// The new key: SubjectPublicKeyInfo in DER.
    pub spki_der: Vec<u8>,
}

impl Handover {
    /// The key that the receipt at `index` brings in, if any.
    pub fn read(index: u64, transitions: &[Transition]) -> Result<Option<Self>, Error> {
        let mut found = None;
        for Transition { stream, change, .. } in transitions {
            let machine::Change::SigningKey(change) = change else { continue };
            let Change::Activated { public_key, replaces, .. } = change;
            let spki_der = BASE64.decode(public_key).map_err(|_| Error::OtherKey(index))?;
            let key_id = Digest::of(&spki_der);
            if stream.kind != Kind::SigningKey || *stream.id != *key_id.hex() {
                return Err(Error::OtherKey(index));
            }
            let handover = Self { index, replaces: *replaces, key_id, spki_der };
            if found.replace(handover).is_some() {
                return Err(Error::Twice(index));
            }
        }
        Ok(found)
    }
}

/// The keys of one log and what each is valid for: from index 0 on, without a gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<KeyRange>", into = "Vec<KeyRange>")]
pub struct KeyRanges {
    ranges: Vec<KeyRange>,
    places: BTreeMap<Digest, usize>,
}

impl KeyRanges {
    /// A log that `first` signs.
    pub fn start(first: Digest) -> Self {
        let range = KeyRange { key_id: first, from: 0, to: None };
        Self { ranges: vec![range], places: [(first, 0)].into() }
    }

    /// The ranges in the order of the log.
    pub fn as_slice(&self) -> &[KeyRange] {
        &self.ranges
    }

    /// What a key is valid for.
    pub fn of(&self, key_id: &Digest) -> Option<&KeyRange> {
        self.ranges.get(*self.places.get(key_id)?)
    }

    /// The key that signs now.
    pub fn current(&self) -> Option<Digest> {
        self.ranges.last().map(|range| range.key_id)
    }

    /// The key that is valid at `index`.
    pub fn at(&self, index: u64) -> Option<Digest> {
        let after = self.ranges.partition_point(|range| range.from <= index);
        self.ranges.get(after.checked_sub(1)?).map(|range| range.key_id)
    }

    /// Checks that `key` may sign the receipt at `index`.
    pub fn check(&self, index: u64, key: &Digest) -> Result<(), Error> {
        let range = self.of(key).copied();
        if range.is_some_and(|range| range.covers(index)) {
            return Ok(());
        }
        Err(Error::OutsideRange { key: *key, index, range })
    }

    /// Takes in the key that a receipt brings. Nothing changes where it is refused.
    pub fn hand_over(&mut self, handover: &Handover) -> Result<(), Error> {
        let Handover { index, replaces, key_id, .. } = handover;
        let full = self.ranges.len() >= limits::SIGNING_KEYS_PER_LOG_MAX;
        let known = self.places.contains_key(key_id);
        let current = self.ranges.last_mut().ok_or(Error::Ranges)?;
        if current.key_id != *replaces || !current.covers(*index) {
            return Err(Error::NotCurrent(*index));
        }
        if known {
            return Err(Error::Returned(*index));
        }
        if full {
            return Err(Error::TooMany);
        }
        let next = index.checked_add(1).ok_or(Error::Ranges)?;
        current.to = Some(next);
        self.places.insert(*key_id, self.ranges.len());
        self.ranges.push(KeyRange { key_id: *key_id, from: next, to: None });
        Ok(())
    }

    /// Whether two accounts of one log tell the same as far as both go: one may be older.
    pub fn agrees(&self, other: &Self) -> bool {
        let same = |(a, b): (&KeyRange, &KeyRange)| (a.key_id, a.from) == (b.key_id, b.from);
        self.ranges.iter().zip(&other.ranges).all(same)
    }

    /// The ranges as the log had them when it had `size` receipts.
    pub fn as_of(&self, size: u64) -> Self {
        let kept = self.ranges.iter().filter(|range| range.from <= size);
        let mut kept = Self { ranges: kept.copied().collect(), places: self.places.clone() };
        let count = kept.ranges.len();
        kept.places.retain(|_, place| *place < count);
        if let Some(last) = kept.ranges.last_mut() {
            last.to = None;
        }
        kept
    }
}

impl TryFrom<Vec<KeyRange>> for KeyRanges {
    type Error = Error;

    fn try_from(ranges: Vec<KeyRange>) -> Result<Self, Error> {
        if ranges.len() > limits::SIGNING_KEYS_PER_LOG_MAX {
            return Err(Error::TooMany);
        }
        let mut due = Some(0);
        let mut places = BTreeMap::new();
        for (place, range) in ranges.iter().enumerate() {
            let ahead = range.to.is_none_or(|to| to > range.from);
            if due != Some(range.from) || !ahead || places.insert(range.key_id, place).is_some() {
                return Err(Error::Ranges);
            }
            due = range.to;
        }
        if ranges.is_empty() || due.is_some() {
            return Err(Error::Ranges);
        }
        Ok(Self { ranges, places })
    }
}

impl From<KeyRanges> for Vec<KeyRange> {
    fn from(ranges: KeyRanges) -> Self {
        ranges.ranges
    }
}

/// What the keys of several logs are valid for, by origin.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogKeys(BTreeMap<String, KeyRanges>);

impl LogKeys {
    /// The keys of logs from ranges that each name their log; those of one log are in its order.
    pub fn of_ranges<'a>(
        ranges: impl IntoIterator<Item = (&'a str, KeyRange)>,
    ) -> Result<Self, Error> {
        let mut logs: BTreeMap<&str, Vec<KeyRange>> = BTreeMap::new();
        for (origin, range) in ranges {
            logs.entry(origin).or_default().push(range);
        }
        let logs = logs.into_iter();
        let logs = logs.map(|(origin, ranges)| Ok((origin.to_owned(), ranges.try_into()?)));
        logs.collect::<Result<_, _>>().map(Self)
    }

    /// The keys of one more log.
    pub fn insert(&mut self, origin: impl Into<String>, ranges: KeyRanges) {
        self.0.insert(origin.into(), ranges);
    }

    /// The keys of a log.
    pub fn of(&self, origin: &str) -> Option<&KeyRanges> {
        self.0.get(origin)
    }

    /// Checks that `key` may sign the receipt at `index` of a log. A key that is named here signs
    /// nothing but what is said here, and no log besides; of others nothing is known.
    pub fn check(&self, origin: &str, index: u64, key: &Digest) -> Result<(), Error> {
        if self.0.values().all(|ranges| ranges.of(key).is_none()) {
            return Ok(());
        }
        match self.0.get(origin) {
            Some(ranges) => ranges.check(index, key),
            None => Err(Error::OutsideRange { key: *key, index, range: None }),
        }
    }
}
