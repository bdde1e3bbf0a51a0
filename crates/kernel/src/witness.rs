//! What a witness does (C2SP tlog-witness): which checkpoints it cosigns, which it refuses, and
//! what of that shows that a log does not keep its word.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use std::fmt;

use crate::limits;
use crate::note::{self, Checkpoint, Note};
use crate::tree;
use crate::values::Digest;

/// Why a request is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a request to add a checkpoint.
    #[error("not a request to add a checkpoint: {0}")]
    Form(&'static str),
    /// The checkpoint is not a note.
    #[error(transparent)]
    Note(#[from] note::Error),
}

impl Error {
    /// A stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Form(_) => "witness_request_malformed",
            Self::Note(error) => error.code(),
        }
    }
}

/// The body of a request to add a checkpoint. Prints exactly as it was parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddCheckpoint {
    /// The size of the tree that the witness cosigned last, as whoever asks believes.
    pub old: u64,
    /// The consistency proof from that tree to the checkpoint's.
    pub proof: Vec<Digest>,
    /// The checkpoint, signed by its log.
    pub checkpoint: Note,
}

impl AddCheckpoint {
    /// Reads a body of at most [`limits::WITNESS_REQUEST_BYTES_MAX`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > limits::WITNESS_REQUEST_BYTES_MAX {
            return Err(Error::Form("it is too long"));
        }
        let text = str::from_utf8(bytes).map_err(|_| Error::Form("write it in UTF-8"))?;
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or(Error::Form("add an empty line and the checkpoint"))?;
        let mut lines = head.split('\n');
        let old = lines.next().and_then(read_old);
        let old = old.ok_or(Error::Form("the first line is old <size>"))?;
        let proof: Option<Vec<Digest>> =
            lines.take(limits::WITNESS_PROOF_HASHES_MAX + 1).map(read_hash).collect();
        let proof = proof.ok_or(Error::Form("write each hash as base64 of 32 bytes"))?;
        if proof.len() > limits::WITNESS_PROOF_HASHES_MAX {
            return Err(Error::Form("it has more than 63 hashes"));
        }
        Ok(Self { old, proof, checkpoint: Note::parse(checkpoint.as_bytes())? })
    }
}

fn read_old(line: &str) -> Option<u64> {
    let digits = line.strip_prefix("old ")?;
    let old: u64 = digits.parse().ok()?;
    (old.to_string() == digits).then_some(old)
}

fn read_hash(line: &str) -> Option<Digest> {
    BASE64.decode(line).ok()?.try_into().ok().map(Digest)
}

impl fmt::Display for AddCheckpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        for hash in &self.proof {
            writeln!(f, "{}", BASE64.encode(hash.0))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

/// What a witness remembers of one log, as far as one checkpoint is concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The size and root that it cosigned last; none before the first.
    pub latest: Option<(u64, Digest)>,
    /// The root that it ever cosigned at the size of the checkpoint in hand.
    pub at_this_size: Option<Digest>,
}

/// What a witness answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It cosigns: the log has only grown.
    Cosign,
    /// The old size is larger than the checkpoint's.
    OldAboveNew,
    /// The proof is from another tree than the one cosigned last, whose size this is.
    Conflict(u64),
    /// The tree cosigned last has this size and another root.
    OtherRoot,
    /// The proof does not lead from the tree cosigned last to this one.
    BadProof,
}

/// What a checkpoint, signed by the log, shows against the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Alarm {
    /// The log signed two trees that cannot be one: it was rewritten, or shows different trees to
    /// different people. Both checkpoints together, with the proof where there is one, convict it.
    Fork,
    /// The log signed a larger tree, and whoever sent it could not prove that the tree cosigned
    /// last is a prefix. Over when the proof comes.
    Unproven,
}

impl Alarm {
    /// Its name in rows, metrics and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Unproven => "unproven",
        }
    }
}

/// What becomes of a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The answer, as the protocol has it.
    pub answer: Answer,
    /// What it shows against the log.
    pub alarm: Option<Alarm>,
}

/// Judges a checkpoint whose signature by its log was verified.
pub fn judge(seen: &Seen, old: u64, proof: &[Digest], checkpoint: &Checkpoint) -> Verdict {
    let Checkpoint { size, root, .. } = checkpoint;
    let rewritten = seen.at_this_size.is_some_and(|known| known != *root);
    let (last_size, last_root) = seen.latest.unwrap_or_else(|| (0, tree::empty_root()));
    let answer = if old > *size {
        Answer::OldAboveNew
    } else if old != last_size {
        Answer::Conflict(last_size)
    } else if old == *size && last_root != *root {
        Answer::OtherRoot
    } else {
        match tree::verify_consistency(old, *size, &last_root, root, proof) {
            Ok(()) => Answer::Cosign,
            Err(_) => Answer::BadProof,
        }
    };
    let other_prefix = || {
        let prefix = tree::proven_prefix(old, *size, root, proof);
        prefix.is_some_and(|prefix| prefix != last_root)
    };
    let alarm = match answer {
        _ if rewritten => Some(Alarm::Fork),
        Answer::OtherRoot => Some(Alarm::Fork),
        Answer::BadProof if other_prefix() => Some(Alarm::Fork),
        Answer::BadProof if old < *size => Some(Alarm::Unproven),
        _ => None,
    };
    // What was cosigned once at this size with another root is never cosigned over.
    let answer = match (answer, rewritten) {
        (Answer::Cosign, true) => Answer::BadProof,
        (answer, _) => answer,
    };
    Verdict { answer, alarm }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::{NoteSignature, VerifierKey};
    use crate::tree::{Frontier, leaf_hash};
    use proptest::prelude::*;

    const MOST: u64 = 40;

    /// The leaves of a log that was forked after `prefix` receipts; branch 0 is the log itself.
    fn leaves(prefix: u64, branch: u64) -> Vec<Digest> {
        let leaf = |index| {
            let branch = if index < prefix { 0 } else { branch };
            leaf_hash(format!("{branch}/{index}").as_bytes())
        };
        (0..MOST).map(leaf).collect()
    }

    fn head(leaves: &[Digest], size: u64) -> Checkpoint {
        let mut tree = Frontier::default();
        leaves.iter().take(usize::try_from(size).unwrap()).for_each(|leaf| tree.push(*leaf));
        Checkpoint { origin: "log.example/a".to_owned(), size, root: tree.root() }
    }

    /// A witness that remembers everything.
    #[derive(Default)]
    struct Witness {
        latest: Option<(u64, Digest)>,
        cosigned: Vec<(u64, Digest)>,
    }

    impl Witness {
        fn ask(&mut self, old: u64, proof: &[Digest], new: &Checkpoint) -> Verdict {
            let at_size = self.cosigned.iter().find(|(size, _)| *size == new.size);
            let at_this_size = at_size.map(|(_, root)| *root);
            let seen = Seen { latest: self.latest, at_this_size };
            let verdict = judge(&seen, old, proof, new);
            if verdict.answer == Answer::Cosign {
                self.latest = Some((new.size, new.root));
                self.cosigned.push((new.size, new.root));
            }
            verdict
        }

        fn size(&self) -> u64 {
            self.latest.map_or(0, |(size, _)| size)
        }
    }

    #[test]
    fn answers_of_the_protocol() {
        let log = leaves(MOST, 0);
        let fork = leaves(5, 1);
        let proof = |of: &[Digest], old, new| tree::consistency_proof(old, new, of).unwrap();
        let mut witness = Witness::default();
        let mut check = |old, proof: &[Digest], new: &Checkpoint, answer, alarm| {
            assert_eq!(witness.ask(old, proof, new), Verdict { answer, alarm }, "{old} {new:?}");
        };
        check(0, &[], &head(&log, 0), Answer::Cosign, None);
        check(0, &[log[0]], &head(&log, 7), Answer::BadProof, Some(Alarm::Unproven));
        check(0, &[], &head(&log, 7), Answer::Cosign, None);
        check(7, &[], &head(&log, 7), Answer::Cosign, None);
        check(7, &[log[0]], &head(&log, 7), Answer::BadProof, None);
        check(8, &[], &head(&log, 7), Answer::OldAboveNew, None);
        check(0, &[], &head(&log, 9), Answer::Conflict(7), None);
        check(3, &proof(&log, 3, 9), &head(&log, 9), Answer::Conflict(7), None);
        check(3, &[], &head(&log, 5), Answer::Conflict(7), None);
        check(7, &[], &head(&fork, 7), Answer::OtherRoot, Some(Alarm::Fork));
        check(0, &[], &head(&fork, 7), Answer::Conflict(7), Some(Alarm::Fork));
        check(7, &proof(&fork, 7, 9), &head(&fork, 9), Answer::BadProof, Some(Alarm::Fork));
        check(7, &[], &head(&log, 9), Answer::BadProof, Some(Alarm::Unproven));
        check(7, &proof(&log, 7, 9), &head(&log, 9), Answer::Cosign, None);
        check(0, &[], &head(&fork, 7), Answer::Conflict(9), Some(Alarm::Fork));
        check(9, &proof(&log, 9, 16), &head(&log, 16), Answer::Cosign, None);
        // From a power of two a proof does not show the other tree's prefix.
        check(16, &proof(&fork, 16, 17), &head(&fork, 17), Answer::BadProof, Some(Alarm::Unproven));
    }

    #[test]
    fn bodies_print_as_they_were_parsed() {
        let key = VerifierKey::new("log.example/a", [7; 32]).unwrap();
        let text = head(&leaves(0, 0), 9).text().unwrap();
        let checkpoint = Note::new(&text, vec![NoteSignature::by(&key, vec![1; 64])]).unwrap();
        let body = |hashes| AddCheckpoint {
            old: 7,
            proof: vec![tree::empty_root(); hashes],
            checkpoint: checkpoint.clone(),
        };
        for hashes in [0, 1, limits::WITNESS_PROOF_HASHES_MAX] {
            let text = body(hashes).to_string();
            assert_eq!(AddCheckpoint::parse(text.as_bytes()), Ok(body(hashes)));
        }
        let good = body(2).to_string();
        for text in [
            body(64).to_string(),
            good.replace("old 7", "old 07"),
            good.replace("old 7", "old +7"),
            good.replace("old 7", "old -1"),
            good.replace("old 7", "old  7"),
            good.replace("old 7", "old 18446744073709551616"),
            good.replace("old 7\n", ""),
            good.replacen("FU=\n", "FV=\n", 1),
            good.replacen("FU=\n", "\n", 1),
            good.replace('—', "-"),
            good.trim_end().to_owned(),
            good.replace('\n', "\r\n"),
            "old 7\n".to_owned(),
            format!("{}{good}", "\n".repeat(limits::WITNESS_REQUEST_BYTES_MAX)),
            String::new(),
        ] {
            assert!(AddCheckpoint::parse(text.as_bytes()).is_err(), "{text}");
        }
        assert!(AddCheckpoint::parse(b"old 7\n\n\xff").is_err());
    }

    /// One request: of which branch, at which size, from the right old size or another, with the
    /// right proof or another.
    type Ask = (u64, u64, Option<u64>, Option<u64>);

    proptest! {
        #[test]
        fn whatever_is_asked_only_one_history_is_cosigned(
            prefix in 0..MOST,
            asks in prop::collection::vec(
                (0_u64..2, 0..MOST, prop::option::of(0..MOST), prop::option::of(0..MOST)),
                0..24_usize,
            ),
        ) {
            let branches = [leaves(prefix, 0), leaves(prefix, 1)];
            let mut witness = Witness::default();
            for ask in asks {
                let (branch, size, old, from): Ask = ask;
                let log = &branches[usize::try_from(branch).unwrap()];
                let old = old.unwrap_or(witness.size());
                let proof = tree::consistency_proof(from.unwrap_or(old), size, log.as_slice());
                let verdict = witness.ask(old, &proof.unwrap_or_default(), &head(log, size));
                // Convicted only who signed what differs from something cosigned.
                if verdict.alarm == Some(Alarm::Fork) {
                    let strays = witness.cosigned.iter().any(|(seen, root)| {
                        *seen <= size && head(log, *seen).root != *root
                    });
                    prop_assert!(strays, "{ask:?}");
                }
            }
            let of_one = branches.iter().any(|log| {
                witness.cosigned.iter().all(|(size, root)| head(log, *size).root == *root)
            });
            prop_assert!(of_one, "{:?}", witness.cosigned);
            prop_assert!(witness.cosigned.is_sorted_by_key(|(size, _)| *size));
        }

        #[test]
        fn who_only_grows_is_always_cosigned(sizes in prop::collection::vec(0..MOST, 1..12)) {
            let log = leaves(MOST, 0);
            let mut sizes = sizes;
            sizes.sort_unstable();
            let mut witness = Witness::default();
            for size in sizes {
                let proof = tree::consistency_proof(witness.size(), size, log.as_slice()).unwrap();
                let verdict = witness.ask(witness.size(), &proof, &head(&log, size));
                prop_assert_eq!(verdict, Verdict { answer: Answer::Cosign, alarm: None });
            }
        }

        #[test]
        fn a_fork_is_never_cosigned_and_mostly_convicted(
            prefix in 0_u64..30, more in 1_u64..5, further in 1_u64..5,
        ) {
            let (log, fork) = (leaves(prefix, 0), leaves(prefix, 1));
            let (old, new) = (prefix + more, prefix + more + further);
            let mut witness = Witness::default();
            witness.ask(0, &[], &head(&log, old));
            let proof = tree::consistency_proof(old, new, fork.as_slice()).unwrap();
            let verdict = witness.ask(old, &proof, &head(&fork, new));
            let alarm = if old.is_power_of_two() { Alarm::Unproven } else { Alarm::Fork };
            prop_assert_eq!(verdict, Verdict { answer: Answer::BadProof, alarm: Some(alarm) });
        }
    }
}
