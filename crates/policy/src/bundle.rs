//! Bundles: OPA's tar.gz of Rego, data, manifest and signature.
//!
//! A bundle's digest is the SHA-256 of its tar.gz bytes. Files with the extension `.json` and
//! `.manifest` are hashed as OPA does, over their compact JSON with sorted keys; all others over
//! their bytes. Test files (`*_test.rego`, `cases.json`) travel with the bundle and are signed,
//! but take no part in decisions.

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use kernel::values::Digest;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use crate::compile::{self, Policy};
use crate::limits;
use crate::sign::{self, Payload, SignedFile, Signer, TokenError, TrustedKeys};

/// Name of the manifest.
pub const MANIFEST: &str = ".manifest";
/// Name of the signature.
pub const SIGNATURES: &str = ".signatures.json";

/// Why a bundle was not made or not accepted.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No signature at all.
    #[error("the bundle carries no signature: sign it with `tally policy build --key`")]
    Unsigned,
    /// Signed by a key that is not trusted here.
    #[error("the bundle is signed by the key `{0}`, which is not trusted here")]
    UnknownKey(String),
    /// A file or the signature differs from what was signed.
    #[error("the bundle was changed after it was signed: {0}")]
    Tampered(String),
    /// Not a bundle.
    #[error("not a policy bundle: {0}")]
    Malformed(String),
    /// Larger than allowed.
    #[error("the bundle is too large: {0}")]
    TooLarge(String),
    /// The policy itself is refused.
    #[error("the policy does not compile: {0}")]
    DoesNotCompile(#[from] compile::Error),
    /// Signing failed.
    #[error(transparent)]
    Signing(#[from] sign::Error),
    /// A file could not be read.
    #[error("cannot read {path}: {error}")]
    Io {
        /// The file or folder.
        path: String,
        /// What the system said.
        error: std::io::Error,
    },
}

impl Error {
    /// A stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unsigned => "bundle_unsigned",
            Self::UnknownKey(_) => "bundle_unknown_key",
            Self::Tampered(_) => "bundle_tampered",
            Self::Malformed(_) => "bundle_malformed",
            Self::TooLarge(_) => "bundle_too_large",
            Self::DoesNotCompile(_) => "bundle_does_not_compile",
            Self::Signing(_) => "bundle_signing_failed",
            Self::Io { .. } => "bundle_unreadable",
        }
    }

    /// What every decision of the tenant says where this bundle is the published one.
    pub fn no_answer(&self) -> kernel::decision::NoAnswer {
        use kernel::decision::NoAnswer;
        match self {
            Self::Unsigned | Self::UnknownKey(_) => NoAnswer::PolicyUnsigned,
            Self::Tampered(_) => NoAnswer::PolicyTampered,
            _ => NoAnswer::PolicyError,
        }
    }
}

fn malformed(why: impl Into<String>) -> Error {
    Error::Malformed(why.into())
}

/// `.manifest`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The author's name for this version, e.g. a commit.
    #[serde(default)]
    pub revision: String,
    /// The parts of `data` that the bundle owns. Must cover `tally`.
    #[serde(default = "all_roots")]
    pub roots: Vec<String>,
}

fn all_roots() -> Vec<String> {
    vec![String::new()]
}

/// The files of a bundle, without its signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    files: BTreeMap<String, Vec<u8>>,
}

impl Source {
    /// Takes files by name (`tally.rego`, `lib/net.rego`, `data.json`, `.manifest`). Checks the
    /// names, sizes and the manifest; supplies an empty manifest where there is none.
    pub fn new(files: impl IntoIterator<Item = (String, Vec<u8>)>) -> Result<Self, Error> {
        let mut all = BTreeMap::new();
        let mut bytes = 0usize;
        for (name, content) in files {
            check_name(&name)?;
            bytes = bytes.saturating_add(content.len());
            if all.insert(name.clone(), content).is_some() {
                return Err(malformed(format!("`{name}` is there twice")));
            }
        }
        if bytes > limits::BUNDLE_UNPACKED_BYTES_MAX {
            return Err(Error::TooLarge(format!(
                "{bytes} bytes unpacked, at most {}",
                limits::BUNDLE_UNPACKED_BYTES_MAX
            )));
        }
        if all.len() >= limits::BUNDLE_FILES_MAX {
            let (count, max) = (all.len(), limits::BUNDLE_FILES_MAX);
            return Err(Error::TooLarge(format!("{count} files, fewer than {max} allowed")));
        }
        all.entry(MANIFEST.to_owned())
            .or_insert_with(|| br#"{"revision":"","roots":[""]}"#.to_vec());
        let source = Self { files: all };
        source.check_texts()?;
        Ok(source)
    }

    /// Reads every `.rego`, `.json` and `.manifest` file below `dir`. Other files are left out.
    pub fn read_dir(dir: &Path) -> Result<Self, Error> {
        let mut files = Vec::new();
        read_into(dir, "", 0, &mut files)?;
        Self::new(files)
    }

    /// The files by name.
    pub fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// The manifest.
    pub fn manifest(&self) -> Result<Manifest, Error> {
        let bytes = self.files.get(MANIFEST).ok_or_else(|| malformed("`.manifest` is missing"))?;
        serde_json::from_slice(bytes).map_err(|e| malformed(format!("`.manifest`: {e}")))
    }

    /// The Rego files that decide, by name.
    pub(crate) fn rego(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts(|name| is_rego(name) && !is_test(name))
    }

    /// The Rego files of tests, by name.
    pub(crate) fn rego_tests(&self) -> impl Iterator<Item = (&str, &str)> {
        self.texts(|name| is_rego(name) && is_test(name))
    }

    fn texts(&self, wanted: impl Fn(&str) -> bool) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().filter_map(move |(name, content)| {
            wanted(name).then(|| Some((name.as_str(), std::str::from_utf8(content).ok()?)))?
        })
    }

    /// `data`: each `data.json` at the place that its folder names.
    pub(crate) fn data(&self) -> Result<serde_json::Value, Error> {
        let mut root = serde_json::Map::new();
        for (name, content) in &self.files {
            let Some(folder) = data_folder(name) else { continue };
            let value: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(content)
                .map_err(|e| malformed(format!("`{name}` must be a JSON object: {e}")))?;
            let mut place = &mut root;
            for part in folder.split('/').filter(|part| !part.is_empty()) {
                place = place
                    .entry(part)
                    .or_insert_with(|| serde_json::Value::Object(serde_json::Map::new()))
                    .as_object_mut()
                    .ok_or_else(|| malformed(format!("`{name}` lies below a value")))?;
            }
            for (key, value) in value {
                if place.insert(key.clone(), value).is_some() {
                    return Err(malformed(format!("`{name}`: `{key}` is defined twice")));
                }
            }
        }
        Ok(serde_json::Value::Object(root))
    }

    fn check_texts(&self) -> Result<(), Error> {
        for (name, content) in &self.files {
            if is_rego(name) && std::str::from_utf8(content).is_err() {
                return Err(malformed(format!("`{name}` is not UTF-8")));
            }
        }
        let manifest = self.manifest()?;
        let covers = |root: &String| root.is_empty() || root == "tally";
        if !manifest.roots.iter().any(covers) {
            return Err(malformed("`.manifest`: `roots` must cover `tally`"));
        }
        self.data().map(|_| ())
    }

    /// The bundle's bytes, signed. The same files give the same bytes but for the signature.
    pub fn pack(&self, signer: &dyn Signer) -> Result<Vec<u8>, Error> {
        let signature = sign_source(self, signer)?;
        self.tar(Some(&signature))
    }

    /// The bundle's bytes without a signature: what a draft is before it is signed. The same
    /// files give the same bytes.
    pub fn pack_unsigned(&self) -> Result<Vec<u8>, Error> {
        self.tar(None)
    }

    fn tar(&self, signature: Option<&[u8]>) -> Result<Vec<u8>, Error> {
        let broken = |error: std::io::Error| malformed(format!("cannot pack: {error}"));
        let mut tar = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::new(6)));
        let signature = signature.map(|bytes| (SIGNATURES, bytes));
        let files = self.files.iter().map(|(name, bytes)| (name.as_str(), bytes.as_slice()));
        for (name, bytes) in signature.into_iter().chain(files) {
            let mut header = tar::Header::new_ustar();
            header.set_size(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            header.set_mode(0o644);
            header.set_mtime(0);
            tar.append_data(&mut header, name, bytes).map_err(broken)?;
        }
        let mut gzip = tar.into_inner().map_err(broken)?;
        gzip.flush().map_err(broken)?;
        let bytes = gzip.finish().map_err(broken)?;
        check_packed_size(&bytes)?;
        Ok(bytes)
    }
}

fn is_rego(name: &str) -> bool {
    name.ends_with(".rego")
}

/// Whether the file is for tests only.
pub(crate) fn is_test(name: &str) -> bool {
    name.ends_with("_test.rego") || name == "cases.json"
}

/// The folder of a `data.json`.
fn data_folder(name: &str) -> Option<&str> {
    if name == "data.json" { Some("") } else { name.strip_suffix("/data.json") }
}

fn check_packed_size(bytes: &[u8]) -> Result<(), Error> {
    let (size, max) = (bytes.len(), limits::BUNDLE_BYTES_MAX);
    if size > max {
        return Err(Error::TooLarge(format!("{size} bytes packed, at most {max}")));
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), Error> {
    let plain = |part: &str| !part.is_empty() && part != "." && part != "..";
    let printable = name.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\' && b != b':');
    if name.len() > limits::FILE_NAME_BYTES_MAX || !printable || !name.split('/').all(plain) {
        return Err(malformed(format!("{name:?} is no file name that a bundle may have")));
    }
    if name == SIGNATURES {
        return Err(malformed("`.signatures.json` is written by signing, not by hand"));
    }
    Ok(())
}

fn read_into(
    dir: &Path,
    prefix: &str,
    depth: usize,
    files: &mut Vec<(String, Vec<u8>)>,
) -> Result<(), Error> {
    let io = |error| Error::Io { path: dir.display().to_string(), error };
    if depth > limits::DIR_DEPTH_MAX {
        return Err(Error::TooLarge(format!("{} lies too deep", dir.display())));
    }
    for entry in std::fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let Some(name) = entry.file_name().to_str().map(|n| format!("{prefix}{n}")) else {
            return Err(malformed("a file name is not UTF-8"));
        };
        // Links are not followed: a bundle holds what lies in its folder.
        let kind = entry.file_type().map_err(io)?;
        let wanted = is_rego(&name) || name.ends_with(".json") || name == MANIFEST;
        if kind.is_dir() {
            read_into(&entry.path(), &format!("{name}/"), depth + 1, files)?;
        } else if kind.is_file() && wanted && name != SIGNATURES {
            let content = std::fs::read(entry.path())
                .map_err(|error| Error::Io { path: entry.path().display().to_string(), error })?;
            files.push((name, content));
            if files.len() > limits::BUNDLE_FILES_MAX {
                return Err(Error::TooLarge(format!("over {} files", limits::BUNDLE_FILES_MAX)));
            }
        }
    }
    Ok(())
}

/// `.signatures.json`.
#[derive(Serialize, Deserialize)]
struct Signatures {
    signatures: Vec<String>,
}

/// Signs every file of `source`. Returns the content of `.signatures.json`.
pub fn sign_source(source: &Source, signer: &dyn Signer) -> Result<Vec<u8>, Error> {
    let files = signed_files(source)?;
    let payload = Payload { files, keyid: Some(signer.key_id().to_owned()) };
    let token = sign::make_token(&payload, signer)?;
    serde_json::to_vec(&Signatures { signatures: vec![token] })
        .map_err(|e| malformed(e.to_string()))
}

fn signed_files(source: &Source) -> Result<Vec<SignedFile>, Error> {
    let one = |(name, content): (&String, &Vec<u8>)| {
        Ok(SignedFile {
            name: name.clone(),
            hash: file_hash(name, content)?,
            algorithm: "SHA-256".to_owned(),
        })
    };
    source.files.iter().map(one).collect()
}

fn file_hash(name: &str, content: &[u8]) -> Result<String, Error> {
    if name != MANIFEST && !name.ends_with(".json") {
        return Ok(Digest::of(content).hex());
    }
    let value: serde_json::Value = serde_json::from_slice(content)
        .map_err(|e| malformed(format!("`{name}` is not JSON: {e}")))?;
    let mut text = String::new();
    write_sorted(&value, &mut text);
    Ok(Digest::of(text.as_bytes()).hex())
}

/// Compact JSON with sorted keys.
fn write_sorted(value: &serde_json::Value, out: &mut String) {
    match value {
        serde_json::Value::Object(map) => {
            let sorted: BTreeMap<_, _> = map.iter().collect();
            out.push('{');
            for (nth, (key, value)) in sorted.into_iter().enumerate() {
                out.push_str(if nth == 0 { "" } else { "," });
                out.push_str(&serde_json::Value::from(key.as_str()).to_string());
                out.push(':');
                write_sorted(value, out);
            }
            out.push('}');
        }
        serde_json::Value::Array(items) => {
            out.push('[');
            for (nth, value) in items.iter().enumerate() {
                out.push_str(if nth == 0 { "" } else { "," });
                write_sorted(value, out);
            }
            out.push(']');
        }
        other => out.push_str(&other.to_string()),
    }
}

/// A bundle whose signature holds and whose policy compiles.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// SHA-256 of its bytes.
    pub digest: Digest,
    /// What its manifest says.
    pub manifest: Manifest,
    /// Who signed it.
    pub key_id: String,
    policy: Policy,
    source: Source,
}

impl Bundle {
    /// Its files.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// What decides.
    pub(crate) fn policy(&self) -> &Policy {
        &self.policy
    }
}

/// Opens a bundle: checks its size, names, signature and every file's hash, and compiles it.
pub fn open(bytes: &[u8], trusted: &TrustedKeys) -> Result<Bundle, Error> {
    check_packed_size(bytes)?;
    let (source, signatures) = untar(bytes)?;
    let signatures = signatures.ok_or(Error::Unsigned)?;
    let key_id = check_signature(&source, &signatures, trusted)?;
    let policy = Policy::new(&source)?;
    policy.compile()?;
    Ok(Bundle { digest: Digest::of(bytes), manifest: source.manifest()?, key_id, policy, source })
}

/// Opens a bundle without asking who signed it: for checks before it is signed.
pub fn open_draft(bytes: &[u8]) -> Result<Source, Error> {
    check_packed_size(bytes)?;
    untar(bytes).map(|(source, _)| source)
}

fn untar(bytes: &[u8]) -> Result<(Source, Option<Vec<u8>>), Error> {
    let broken = |error: std::io::Error| malformed(format!("not a tar.gz: {error}"));
    let max = u64::try_from(limits::BUNDLE_UNPACKED_BYTES_MAX).unwrap_or(u64::MAX);
    // Room for headers and padding of every file; whatever is longer is cut and so refused.
    let room = max + 2048 * u64::try_from(limits::BUNDLE_FILES_MAX).unwrap_or(0);
    let mut archive = tar::Archive::new(GzDecoder::new(bytes).take(room));
    let mut files = Vec::new();
    let mut signatures = None;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let raw = entry.path_bytes().into_owned();
        let name = std::str::from_utf8(&raw).map_err(|_| malformed("a name is not UTF-8"))?;
        if entry.header().entry_type().is_dir() {
            continue;
        }
        if !entry.header().entry_type().is_file() {
            return Err(malformed(format!("{name:?} is no plain file")));
        }
        // OPA writes `/data.json`, tar itself `./data.json`.
        let name = name.strip_prefix("./").or(name.strip_prefix('/')).unwrap_or(name).to_owned();
        let mut content = Vec::new();
        (&mut entry).take(max + 1).read_to_end(&mut content).map_err(broken)?;
        if name == SIGNATURES {
            if signatures.replace(content).is_some() {
                return Err(malformed("`.signatures.json` is there twice"));
            }
        } else {
            files.push((name, content));
        }
        if files.len() > limits::BUNDLE_FILES_MAX {
            return Err(Error::TooLarge(format!("over {} files", limits::BUNDLE_FILES_MAX)));
        }
    }
    Ok((Source::new(files)?, signatures))
}

fn check_signature(
    source: &Source,
    signatures: &[u8],
    trusted: &TrustedKeys,
) -> Result<String, Error> {
    let signatures: Signatures = serde_json::from_slice(signatures)
        .map_err(|e| malformed(format!("`.signatures.json`: {e}")))?;
    let [token] = signatures.signatures.as_slice() else {
        return match signatures.signatures.len() {
            0 => Err(Error::Unsigned),
            _ => Err(malformed("`.signatures.json` must hold exactly one signature")),
        };
    };
    let (payload, key_id) = sign::open_token(token, trusted).map_err(|error| match error {
        TokenError::Malformed(why) => malformed(why),
        TokenError::UnknownKey(key) => Error::UnknownKey(key),
        TokenError::BadSignature => Error::Tampered("the signature does not hold".to_owned()),
    })?;
    compare(&signed_files(source)?, payload.files)?;
    Ok(key_id)
}

/// Every file is listed with its hash, and every listed file is there.
fn compare(found: &[SignedFile], listed: Vec<SignedFile>) -> Result<(), Error> {
    let mut listed: BTreeMap<String, SignedFile> =
        listed.into_iter().map(|file| (file.name.trim_start_matches('/').into(), file)).collect();
    for file in found {
        let signed = listed
            .remove(&file.name)
            .ok_or_else(|| Error::Tampered(format!("`{}` was added", file.name)))?;
        if signed.algorithm != file.algorithm {
            return Err(malformed(format!("`{}` must be hashed with SHA-256", file.name)));
        }
        if signed.hash != file.hash {
            return Err(Error::Tampered(format!("`{}` differs", file.name)));
        }
    }
    match listed.into_keys().next() {
        Some(name) => Err(Error::Tampered(format!("`{name}` was removed"))),
        None => Ok(()),
    }
}
