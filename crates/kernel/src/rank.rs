//! Which of several texts fit a few words best (Okapi BM25), in integers: the same everywhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::limits;

/// Fractional bits.
const BITS: u32 = 16;
const ONE: u64 = 1 << BITS;
/// How fast a word that repeats stops to count more: k1 = 1.2, in tenths.
const K1_TENTHS: u64 = 12;
/// How much the length of a text counts: b = 0.75, in quarters.
const B_QUARTERS: u64 = 3;

/// A text with what it is called.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its name; breaks ties.
    pub name: String,
    /// Its words, those that count more as often as they count.
    pub words: Vec<String>,
}

/// How well a document fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The document.
    pub name: String,
    /// The score, in thousandths.
    pub score_milli: u64,
    /// The words that were found, in order.
    pub matched: Vec<String>,
}

/// The words of a text: lower-case runs of letters and digits without what English says in every
/// sentence, a plural like its singular.
pub fn words(text: &str) -> Vec<String> {
    let lower = text.to_lowercase();
    let words = lower.split(|c: char| !c.is_alphanumeric()).filter(|word| word.chars().count() > 1);
    let kept = words.filter(|word| !COMMON.contains(word)).take(limits::RANK_WORDS_MAX);
    kept.map(singular).collect()
}

/// Words that say nothing about what a tool does.
const COMMON: [&str; 32] = [
    "all", "an", "and", "are", "as", "at", "be", "by", "can", "do", "for", "from", "has", "in",
    "into", "is", "it", "its", "me", "my", "need", "no", "of", "on", "or", "please", "that", "the",
    "this", "to", "want", "with",
];

fn singular(word: &str) -> String {
    let plural = word.chars().count() > 3 && word.ends_with('s') && !word.ends_with("ss");
    let kept = if plural { word.strip_suffix('s') } else { None };
    kept.unwrap_or(word).to_owned()
}

/// The documents that share a word with `query`, the best first, those of the same score by name.
pub fn rank(query: &str, documents: &[Document]) -> Vec<Hit> {
    let wanted: BTreeSet<String> = words(query).into_iter().collect();
    let counted: Vec<BTreeMap<&str, u64>> = documents.iter().map(count).collect();
    let total: u64 = documents.iter().map(length).sum();
    let all = u64::try_from(documents.len()).unwrap_or(u64::MAX);
    let mut hits = Vec::new();
    for (document, counts) in documents.iter().zip(&counted) {
        let (mut score, mut matched) = (0_u64, Vec::new());
        for word in &wanted {
            let Some(times) = counts.get(word.as_str()) else { continue };
            let with = counted.iter().filter(|counts| counts.contains_key(word.as_str())).count();
            let with = u64::try_from(with).unwrap_or(u64::MAX);
            let weight = saturation(*times, length(document), total, all);
            score = score.saturating_add(rarity(all, with).saturating_mul(weight) >> BITS);
            matched.push(word.clone());
        }
        if !matched.is_empty() {
            let score_milli = score.saturating_mul(1_000) >> BITS;
            hits.push(Hit { name: document.name.clone(), score_milli, matched });
        }
    }
    hits.sort_by(|a, b| b.score_milli.cmp(&a.score_milli).then_with(|| a.name.cmp(&b.name)));
    hits
}

fn count(document: &Document) -> BTreeMap<&str, u64> {
    let mut counts = BTreeMap::new();
    for word in &document.words {
        *counts.entry(word.as_str()).or_default() += 1;
    }
    counts
}

fn length(document: &Document) -> u64 {
    u64::try_from(document.words.len()).unwrap_or(u64::MAX)
}

/// log2(1 + (all - with + 0.5) / (with + 0.5)), as a fixed-point number.
fn rarity(all: u64, with: u64) -> u64 {
    // (2 all + 2) / (2 with + 1)
    let (above, below) = ((all + 1).saturating_mul(2), with.saturating_mul(2) + 1);
    log2(above.saturating_mul(ONE) / below)
}

/// times (k1 + 1) / (times + k1 (1 - b + b length / average)), as a fixed-point number.
fn saturation(times: u64, length: u64, total: u64, all: u64) -> u64 {
    let relative = length.saturating_mul(all).saturating_mul(ONE) / total.max(1);
    let shape = ((4 - B_QUARTERS) * ONE + B_QUARTERS * relative) / 4;
    let below = times.saturating_mul(ONE) + K1_TENTHS * shape / 10;
    let above = times.saturating_mul(K1_TENTHS + 10).saturating_mul(ONE) / 10;
    above.saturating_mul(ONE) / below.max(1)
}

/// The binary logarithm of a fixed-point number of at least 1.
fn log2(value: u64) -> u64 {
    let whole = u64::from(value.max(ONE).ilog2() - BITS);
    let mut rest = value.max(ONE) >> whole;
    let mut log = whole << BITS;
    for bit in (0..BITS).rev() {
        rest = (rest * rest) >> BITS;
        if rest >= 2 * ONE {
            rest >>= 1;
            log += 1 << bit;
        }
    }
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logarithms() {
        assert_eq!([1, 2, 8].map(|n| log2(n * ONE)), [0, ONE, 3 * ONE]);
        let three = log2(3 * ONE) * 10_000 / ONE;
        assert!((15_848..=15_850).contains(&three), "{three}");
    }

    #[test]
    fn words_of_texts() {
        assert_eq!(
            words("Reads the files, and an URL (core.http_call)!"),
            ["read", "file", "url", "core", "http", "call"]
        );
        assert_eq!(words("class ÄPFEL x"), ["class", "äpfel"]);
    }

    fn texts() -> Vec<Document> {
        let of = |(name, text): (&str, &str)| Document { name: name.into(), words: words(text) };
        [
            ("core.fs_read", "fs read Reads a file from a granted folder"),
            ("core.fs_write", "fs write Writes a file into a granted folder"),
            ("core.http_call", "http call Calls an HTTP API"),
            ("mail.send", "mail send Sends a message to a person"),
        ]
        .map(of)
        .to_vec()
    }

    #[test]
    fn the_best_first() {
        let names = |query: &str| -> Vec<String> {
            rank(query, &texts()).into_iter().map(|hit| hit.name).collect()
        };
        assert_eq!(names("read a file"), ["core.fs_read", "core.fs_write"]);
        assert_eq!(names("write files"), ["core.fs_write", "core.fs_read"]);
        assert_eq!(names("call the http api"), ["core.http_call"]);
        assert_eq!(names("granted"), ["core.fs_read", "core.fs_write"], "ties by name");
        assert_eq!(names("dance"), [""; 0]);
        assert_eq!(names("the of and"), [""; 0]);
        // The order in which documents come does not matter.
        let mut other = texts();
        other.reverse();
        assert_eq!(rank("read granted file", &other), rank("read granted file", &texts()));
    }

    #[test]
    fn a_rare_word_counts_more() {
        let hits = rank("file read", &texts());
        assert!(hits[0].score_milli > 2 * hits[1].score_milli, "{hits:?}");
        assert_eq!(hits[0].matched, ["file", "read"]);
    }
}
