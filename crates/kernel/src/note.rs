//! Signed notes and checkpoints (C2SP signed-note, tlog-checkpoint), as text.
//!
//! A note's text means nothing before a signature by a trusted key was verified: see
//! [`crate::verify`].

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha2::Digest as _;
use std::fmt;
use std::str::FromStr;

use crate::limits;
use crate::values::Digest;

/// Why a note, checkpoint or key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a signed note.
    #[error("not a signed note: {0}")]
    Note(&'static str),
    /// A line of the signatures is malformed.
    #[error("signature line {0} is malformed: write an em dash, the key's name and base64")]
    Signature(usize),
    /// Too many signatures.
    #[error("the note has over {max} signatures", max = limits::NOTE_SIGNATURES_MAX)]
    TooManySignatures,
    /// A key's name or a log's origin is malformed.
    #[error("a name is not empty and has no space, plus or control character")]
    Name,
    /// The text is signed but is not a checkpoint.
    #[error("not a checkpoint: write the origin, the size and the base64 root on three lines")]
    Checkpoint,
    /// A verifier key is malformed.
    #[error("not a verifier key: write <name>+<8 hex digits>+<base64 of 0x01 and the key>")]
    VerifierKey,
    /// A witness's key is malformed.
    #[error("not a witness's key: write <name>+<8 hex digits>+<base64 of 0x04 and the key>")]
    CosignerKey,
}

impl Error {
    /// A stable code.
    pub fn code(self) -> &'static str {
        match self {
            Self::Note(_) => "note_malformed",
            Self::Signature(_) => "note_signature_malformed",
            Self::TooManySignatures => "note_too_many_signatures",
            Self::Name => "note_name",
            Self::Checkpoint => "note_checkpoint",
            Self::VerifierKey => "note_verifier_key",
            Self::CosignerKey => "note_cosigner_key",
        }
    }
}

/// The signature type of plain Ed25519.
const ED25519: u8 = 1;

/// Whether `name` may name a key or a log: not empty, no space, plus or control character.
pub(crate) fn check_name(name: &str) -> Result<(), Error> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if name.is_empty() || name.contains(bad) { Err(Error::Name) } else { Ok(()) }
}

/// SHA-256(name ‖ newline ‖ signature type ‖ key), its first four bytes.
pub(crate) fn key_id(name: &str, signature_type: u8, public: &[u8; 32]) -> [u8; 4] {
    let hash = sha2::Sha256::new()
        .chain_update(name)
        .chain_update([b'\n', signature_type])
        .chain_update(public);
    let [a, b, c, d, ..] = <[u8; 32]>::from(hash.finalize());
    [a, b, c, d]
}

/// A key as text: its name, its id and base64 of its type and itself.
pub(crate) fn vkey(name: &str, signature_type: u8, public: &[u8; 32]) -> String {
    let id = hex::encode(key_id(name, signature_type, public));
    let key = BASE64.encode([&[signature_type], public.as_slice()].concat());
    format!("{name}+{id}+{key}")
}

/// The name and the key of a [`vkey`] of this type; only its one spelling.
pub(crate) fn parse_vkey(text: &str, signature_type: u8) -> Option<(&str, [u8; 32])> {
    let mut parts = text.splitn(3, '+');
    let (name, _id, key) = (parts.next()?, parts.next()?, parts.next()?);
    let key = BASE64.decode(key).ok()?;
    let (first, public) = key.split_first()?;
    let public: [u8; 32] = public.try_into().ok()?;
    // Printing it again also proves the id.
    let exact = *first == signature_type && vkey(name, signature_type, &public) == text;
    exact.then_some((name, public))
}

/// An Ed25519 key that signs notes. Prints and parses as `name+hexid+base64(0x01 ‖ key)`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct VerifierKey {
    name: String,
    public: [u8; 32],
}

impl VerifierKey {
    /// The key `public` by this name.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, Error> {
        check_name(name)?;
        Ok(Self { name: name.to_owned(), public })
    }

    /// Its name, which for the key of a log is the log's origin.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key itself.
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// SHA-256(name ‖ newline ‖ 0x01 ‖ key), its first four bytes.
    pub fn key_id(&self) -> [u8; 4] {
        key_id(&self.name, ED25519, &self.public)
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&vkey(&self.name, ED25519, &self.public))
    }
}

impl FromStr for VerifierKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let (name, public) = parse_vkey(text, ED25519).ok_or(Error::VerifierKey)?;
        Self::new(name, public)
    }
}

/// One signature on a note.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoteSignature {
    /// The name of the key.
    pub name: String,
    /// The id of the key.
    pub key_id: [u8; 4],
    /// The signature itself, in the key's own form.
    pub sig: Vec<u8>,
}

impl NoteSignature {
    /// A signature over a note's text, made with the key `key`.
    pub fn by(key: &VerifierKey, sig: Vec<u8>) -> Self {
        Self { name: key.name.clone(), key_id: key.key_id(), sig }
    }

    fn parse(line: &str) -> Option<Self> {
        let (name, base64) = line.strip_prefix("— ")?.split_once(' ')?;
        check_name(name).ok()?;
        let bytes = BASE64.decode(base64).ok()?;
        match bytes.split_first_chunk() {
            Some((key_id, sig)) if !sig.is_empty() => {
                Some(Self { name: name.to_owned(), key_id: *key_id, sig: sig.to_vec() })
            }
            _ => None,
        }
    }
}

impl fmt::Display for NoteSignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = BASE64.encode([&self.key_id, self.sig.as_slice()].concat());
        writeln!(f, "— {} {bytes}", self.name)
    }
}

/// A text and its signatures. Prints exactly as it was parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<NoteSignature>,
}

impl Note {
    /// `text` with its signatures: one at least, [`limits::NOTE_SIGNATURES_MAX`] at most. The text
    /// ends in a newline and has no other control characters.
    pub fn new(text: &str, signatures: Vec<NoteSignature>) -> Result<Self, Error> {
        if !text.ends_with('\n') {
            return Err(Error::Note("end the text with a newline"));
        }
        if signatures.is_empty() {
            return Err(Error::Note("add a signature"));
        }
        if signatures.len() > limits::NOTE_SIGNATURES_MAX {
            return Err(Error::TooManySignatures);
        }
        for (line, signature) in (1..).zip(&signatures) {
            check_name(&signature.name)?;
            if signature.sig.is_empty() {
                return Err(Error::Signature(line));
            }
        }
        check_characters(text)?;
        Ok(Self { text: text.to_owned(), signatures })
    }

    /// Reads a note of at most [`limits::NOTE_BYTES_MAX`] bytes.
    pub fn parse(bytes: &[u8]) -> Result<Self, Error> {
        if bytes.len() > limits::NOTE_BYTES_MAX {
            return Err(Error::Note("it is too long"));
        }
        let note = str::from_utf8(bytes).map_err(|_| Error::Note("write it in UTF-8"))?;
        check_characters(note)?;
        let (text, block) = note.rsplit_once("\n\n").ok_or(Error::Note("add an empty line"))?;
        let block = block.strip_suffix('\n').ok_or(Error::Note("end it with a newline"))?;
        let signatures: Result<Vec<_>, Error> = (1..)
            .zip(block.split('\n').take(limits::NOTE_SIGNATURES_MAX + 1))
            .map(|(at, line)| NoteSignature::parse(line).ok_or(Error::Signature(at)))
            .collect();
        Self::new(&format!("{text}\n"), signatures?)
    }

    /// What is signed, with its final newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signatures, verified or not.
    pub fn signatures(&self) -> &[NoteSignature] {
        &self.signatures
    }

    /// The same text with further signatures. One by a key that signed already takes the place of
    /// the earlier one.
    pub fn with(&self, signatures: &[NoteSignature]) -> Result<Self, Error> {
        let again = |known: &NoteSignature| {
            signatures.iter().any(|new| new.name == known.name && new.key_id == known.key_id)
        };
        let kept = self.signatures.iter().filter(|known| !again(known));
        Self::new(&self.text, kept.chain(signatures).cloned().collect())
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        self.signatures.iter().try_for_each(|signature| signature.fmt(f))
    }
}

fn check_characters(text: &str) -> Result<(), Error> {
    if text.contains(|c: char| c < ' ' && c != '\n') {
        return Err(Error::Note("remove control characters"));
    }
    Ok(())
}

/// What a log says of itself at one size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log's name.
    pub origin: String,
    /// How many leaves it has.
    pub size: u64,
    /// The root over them.
    pub root: Digest,
}

impl Checkpoint {
    /// The text to sign: origin, size and root on three lines.
    pub fn text(&self) -> Result<String, Error> {
        check_name(&self.origin)?;
        Ok(format!("{}\n{}\n{}\n", self.origin, self.size, BASE64.encode(self.root.0)))
    }

    /// Reads the text of a note. Extension lines, which nobody audits, are refused.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let mut lines = text.split('\n');
        let (Some(origin), Some(size), Some(root)) = (lines.next(), lines.next(), lines.next())
        else {
            return Err(Error::Checkpoint);
        };
        let root = BASE64.decode(root).map_err(|_| Error::Checkpoint)?;
        let checkpoint = Self {
            origin: origin.to_owned(),
            size: size.parse().map_err(|_| Error::Checkpoint)?,
            root: Digest(root.try_into().map_err(|_| Error::Checkpoint)?),
        };
        // Only one spelling is accepted: no leading zeros or plus, nothing after the third line.
        if checkpoint.text()? == text { Ok(checkpoint) } else { Err(Error::Checkpoint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "log.example/acme/shop\n7\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n";

    fn key() -> VerifierKey {
        VerifierKey::new("log.example/acme/shop", [7; 32]).unwrap()
    }

    fn note(count: usize) -> Note {
        Note::new(TEXT, vec![NoteSignature::by(&key(), vec![9; 64]); count]).unwrap()
    }

    #[test]
    fn notes_print_as_they_were_parsed() {
        for count in [1, 2, limits::NOTE_SIGNATURES_MAX] {
            let text = note(count).to_string();
            let parsed = Note::parse(text.as_bytes()).unwrap();
            assert_eq!((parsed.to_string(), &parsed), (text, &note(count)));
        }
        let blank_lines = format!("one\n\ntwo\n\n{}", NoteSignature::by(&key(), vec![1]));
        assert_eq!(Note::parse(blank_lines.as_bytes()).unwrap().text(), "one\n\ntwo\n");
    }

    #[test]
    fn malformed_notes_are_refused() {
        let good = note(1).to_string();
        let line = NoteSignature::by(&key(), vec![9; 64]).to_string();
        let too_many = format!("{TEXT}\n{}", line.repeat(limits::NOTE_SIGNATURES_MAX + 1));
        for (bytes, code) in [
            (TEXT.to_owned(), "note_malformed"),
            (good.trim_end().to_owned(), "note_malformed"),
            (good.replace("acme", "ac\tme"), "note_malformed"),
            (good.clone() + "\n", "note_malformed"),
            (good.replace('—', "-"), "note_signature_malformed"),
            (good.replace("— log", "—  log"), "note_signature_malformed"),
            (good.replace("— log.", "— log\u{2003}"), "note_signature_malformed"),
            (good.replace("CQk=\n", "CQl=\n"), "note_signature_malformed"),
            (format!("{TEXT}\n— name AAAAAA==\n"), "note_signature_malformed"),
            (format!("{TEXT}\n— na+me AAAAAAA=\n"), "note_signature_malformed"),
            (too_many, "note_too_many_signatures"),
            ("a".repeat(limits::NOTE_BYTES_MAX) + &good, "note_malformed"),
        ] {
            assert_ne!(bytes, good);
            let error = Note::parse(bytes.as_bytes()).unwrap_err();
            assert_eq!(error.code(), code, "{error}: {bytes}");
        }
        assert!(Note::parse(b"a\xff\n\n").is_err());
    }

    #[test]
    fn checkpoints() {
        let checkpoint = Checkpoint::parse(TEXT).unwrap();
        assert_eq!((checkpoint.size, checkpoint.root), (7, crate::tree::empty_root()));
        assert_eq!(checkpoint.text().unwrap(), TEXT);
        for text in [
            TEXT.replace("\n7\n", "\n07\n"),
            TEXT.replace("\n7\n", "\n+7\n"),
            TEXT.replace("\n7\n", "\n18446744073709551616\n"),
            TEXT.replace("FU=", "FV="),
            TEXT.replace("log.example", "log example"),
            TEXT.replace("log.example/acme/shop", ""),
            TEXT.trim_end().to_owned(),
            format!("{TEXT}extension\n"),
            format!("{TEXT}\n"),
        ] {
            assert!(Checkpoint::parse(&text).is_err(), "{text}");
        }
    }

    #[test]
    fn verifier_keys() {
        let text = key().to_string();
        assert_eq!(text.parse(), Ok(key()));
        let id = hex::encode(key().key_id());
        for text in [
            text.replace(&id, "00000000"),
            text.replace(&id, &id.to_uppercase()),
            text.replace("+AQ", "+BA"),
            text.replace("log.", ""),
            text.replacen("+AQ", "+AR", 1),
            format!("{text} "),
            String::new(),
        ] {
            assert_ne!(text, key().to_string());
            assert_eq!(text.parse::<VerifierKey>(), Err(Error::VerifierKey), "{text}");
        }
        assert_eq!(VerifierKey::new("a b", [0; 32]), Err(Error::Name));
    }
}
