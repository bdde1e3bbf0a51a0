//! That an entry is in a log, as one text that needs nothing else (C2SP tlog-proof).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use std::fmt;

use crate::limits;
use crate::note::{self, Checkpoint, Note, VerifierKey};
use crate::tree;
use crate::values::Digest;
use crate::verify::{self, SignatureVerifier};

/// The first line.
const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Hashes of a proof: one for each level of a tree of 64-bit size.
const HASHES_MAX: usize = 64;

/// Why a proof is malformed or proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a proof.
    #[error("not a tlog-proof: {0}")]
    Form(&'static str),
    /// The checkpoint is not a note.
    #[error(transparent)]
    Note(#[from] note::Error),
    /// The checkpoint is not signed by the log.
    #[error(transparent)]
    Checkpoint(#[from] verify::Error),
    /// The hashes do not lead from the entry to the checkpoint.
    #[error(transparent)]
    Tree(#[from] tree::Error),
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Form(_) => "proof_malformed",
            Self::Note(error) => error.code(),
            Self::Checkpoint(error) => error.code(),
            Self::Tree(error) => error.code(),
        }
    }
}

/// The proof of one entry. Prints exactly as it was parsed; files are named `*.tlog-proof`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlogProof {
    /// Opaque data that comes along and is not authenticated. Empty: none.
    pub extra: Vec<u8>,
    /// The entry's place in the log, from 0.
    pub index: u64,
    /// The hashes from the entry's sibling up.
    pub hashes: Vec<Digest>,
    /// The log's checkpoint.
    pub checkpoint: Note,
}

impl TlogProof {
    /// Reads a proof of at most [`limits::NOTE_BYTES_MAX`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > limits::NOTE_BYTES_MAX {
            return Err(Error::Form("it is too long"));
        }
        let text = str::from_utf8(bytes).map_err(|_| Error::Form("write it in UTF-8"))?;
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or(Error::Form("add an empty line and the checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(Error::Form("the first line is c2sp.org/tlog-proof@v1"));
        }
        let extra = match lines.next_if(|line| line.starts_with("extra ")) {
            Some(line) => read_extra(line).ok_or(Error::Form("write extra as base64 or not"))?,
            None => Vec::new(),
        };
        let index = lines.next().and_then(read_index).ok_or(Error::Form("write index <number>"))?;
        let hashes: Option<Vec<Digest>> = lines.take(HASHES_MAX + 1).map(read_hash).collect();
        let hashes = hashes.ok_or(Error::Form("write each hash as base64 of 32 bytes"))?;
        if hashes.len() > HASHES_MAX {
            return Err(Error::Form("it has more hashes than any tree has levels"));
        }
        Ok(Self { extra, index, hashes, checkpoint: Note::parse(checkpoint.as_bytes())? })
    }

    /// Checks that the log named by `key` has `entry` at [`Self::index`], and returns the
    /// checkpoint that says so.
    pub fn verify(
        &self,
        entry: &[u8],
        key: &VerifierKey,
        verifier: &dyn SignatureVerifier,
    ) -> Result<Checkpoint, Error> {
        let checkpoint = verify::verify_checkpoint(&self.checkpoint, key, verifier)?;
        let leaf = tree::leaf_hash(entry);
        let Checkpoint { size, root, .. } = &checkpoint;
        tree::verify_inclusion(&leaf, self.index, *size, root, &self.hashes)?;
        Ok(checkpoint)
    }
}

fn read_extra(line: &str) -> Option<Vec<u8>> {
    let extra = BASE64.decode(line.strip_prefix("extra ")?).ok()?;
    if extra.is_empty() { None } else { Some(extra) }
}

fn read_index(line: &str) -> Option<u64> {
    let digits = line.strip_prefix("index ")?;
    let index: u64 = digits.parse().ok()?;
    if index.to_string() == digits { Some(index) } else { None }
}

fn read_hash(line: &str) -> Option<Digest> {
    BASE64.decode(line).ok()?.try_into().ok().map(Digest)
}

impl fmt::Display for TlogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if !self.extra.is_empty() {
            writeln!(f, "extra {}", BASE64.encode(&self.extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        for hash in &self.hashes {
            writeln!(f, "{}", BASE64.encode(hash.0))?;
        }
        write!(f, "\n{}", self.checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::note::NoteSignature;

    fn proof(extra: &[u8], hashes: usize) -> TlogProof {
        let key = VerifierKey::new("log.example/acme/shop", [7; 32]).unwrap();
        let root = tree::empty_root();
        let text = Checkpoint { origin: key.name().to_owned(), size: 9, root }.text().unwrap();
        let checkpoint = Note::new(&text, vec![NoteSignature::by(&key, vec![1; 64])]).unwrap();
        TlogProof { extra: extra.to_vec(), index: 4, hashes: vec![root; hashes], checkpoint }
    }

    #[test]
    fn proofs_print_as_they_were_parsed() {
        for proof in [proof(b"", 0), proof(b"x", 1), proof(b"", HASHES_MAX)] {
            let text = proof.to_string();
            let parsed = TlogProof::parse(text.as_bytes()).unwrap();
            assert_eq!((parsed.to_string(), parsed), (text, proof));
        }
    }

    #[test]
    fn malformed_proofs_are_refused() {
        let good = proof(b"x", 2).to_string();
        for (text, code) in [
            (good.replace("@v1", "@v2"), "proof_malformed"),
            (good.replace("extra eA==", "extra eB=="), "proof_malformed"),
            (good.replace("extra eA==", "extra "), "proof_malformed"),
            (good.replace("index 4\n", ""), "proof_malformed"),
            (good.replace("index 4", "index 04"), "proof_malformed"),
            (good.replace("index 4", "index +4"), "proof_malformed"),
            (good.replace("index 4", "index 18446744073709551616"), "proof_malformed"),
            (good.replacen("FU=\n", "FV=\n", 1), "proof_malformed"),
            (good.replacen("FU=\n", "\n", 1), "proof_malformed"),
            (proof(b"", HASHES_MAX + 1).to_string(), "proof_malformed"),
            (good.trim_end().to_owned(), "note_malformed"),
            (good.replace('—', "-"), "note_signature_malformed"),
            (String::new(), "proof_malformed"),
        ] {
            assert_eq!(TlogProof::parse(text.as_bytes()).unwrap_err().code(), code, "{text}");
        }
    }
}
