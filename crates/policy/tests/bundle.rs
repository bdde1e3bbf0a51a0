//! Bundles: what is signed is what is opened, and nothing else is.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests fail loudly")]

#[expect(dead_code, reason = "bundles need neither inputs nor a decision point")]
mod support;

use policy::bundle::{self, Source};
use policy::{P256Signer, TrustedKeys, open};
use std::io::{Read, Write};
use support::{ALLOW, signer, source};

/// The files of a packed bundle.
fn unpack(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(bytes));
    archive
        .entries()
        .unwrap()
        .map(|entry| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().to_str().unwrap().to_owned(), content)
        })
        .collect()
}

/// A tar.gz of exactly these entries, names unchecked.
fn pack(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut tar = tar::Builder::new(gzip);
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append(&header, content.as_slice()).unwrap();
    }
    let mut gzip = tar.into_inner().unwrap();
    gzip.flush().unwrap();
    gzip.finish().unwrap()
}

fn code(bytes: &[u8], signer: &P256Signer) -> &'static str {
    open(bytes, &TrustedKeys::of(signer)).map_or_else(|error| error.code(), |_| "opened")
}

#[test]
fn signed_and_opened() {
    let signer = signer();
    let source = source(ALLOW);
    let bytes = source.pack(&signer).unwrap();
    let bundle = open(&bytes, &TrustedKeys::of(&signer)).unwrap();
    assert_eq!(bundle.source(), &source);
    assert_eq!(bundle.digest, kernel::values::Digest::of(&bytes));
    assert_eq!(bundle.key_id, "k1");
    assert_eq!(source.pack_unsigned().unwrap(), source.pack_unsigned().unwrap());
}

#[test]
fn keys_survive_their_files() {
    let (signer, pem) = P256Signer::generate("k1").unwrap();
    let again = P256Signer::from_pkcs8("k1", pem.as_bytes()).unwrap();
    let bytes = source(ALLOW).pack(&again).unwrap();
    let mut trusted = TrustedKeys::default();
    trusted.trust("k1", signer.public_key_pem().unwrap().as_bytes()).unwrap();
    assert!(open(&bytes, &trusted).is_ok());
    assert!(P256Signer::from_pkcs8("k1", b"no key").is_err());
    assert!(trusted.trust("k2", b"no key").is_err());
}

#[test]
fn unsigned_and_unknown() {
    let source = source(ALLOW);
    let mine = signer();
    assert_eq!(code(&source.pack_unsigned().unwrap(), &mine), "bundle_unsigned");
    let other = P256Signer::generate("k2").unwrap().0;
    assert_eq!(code(&source.pack(&other).unwrap(), &mine), "bundle_unknown_key");
    let same_name = P256Signer::generate("k1").unwrap().0;
    assert_eq!(code(&source.pack(&same_name).unwrap(), &mine), "bundle_tampered");
}

#[test]
fn any_change_of_the_files_is_seen() {
    let signer = signer();
    let files = unpack(&source(ALLOW).pack(&signer).unwrap());
    assert_eq!(code(&pack(&files), &signer), "opened");
    for nth in 1..files.len() {
        let mut changed = files.clone();
        let (name, content) = &mut changed[nth];
        if name == bundle::MANIFEST {
            *content = br#"{"revision":"x","roots":[""]}"#.to_vec();
        } else {
            content.extend_from_slice(b"\n# more\n");
        }
        assert_eq!(code(&pack(&changed), &signer), "bundle_tampered", "{}", changed[nth].0);
    }
    let mut fewer = files.clone();
    fewer.retain(|(name, _)| name != "tally.rego");
    assert_eq!(code(&pack(&fewer), &signer), "bundle_tampered");
    let mut more = files.clone();
    more.push(("extra.rego".to_owned(), b"package extra\n".to_vec()));
    assert_eq!(code(&pack(&more), &signer), "bundle_tampered");
    let mut forged = files;
    let at = forged[0].1.len() - 10;
    forged[0].1[at] = if forged[0].1[at] == b'A' { b'B' } else { b'A' };
    assert_eq!(code(&pack(&forged), &signer), "bundle_tampered");
}

#[test]
fn names_that_leave_the_bundle_are_refused() {
    let signer = signer();
    let files = unpack(&source(ALLOW).pack(&signer).unwrap());
    for name in ["../x.rego", "a/../../x.rego", "//x.rego", "a//b.rego", "a\\b.rego", "c:x"] {
        let mut all = files.clone();
        all.push((name.to_owned(), Vec::new()));
        assert_eq!(code(&pack(&all), &signer), "bundle_malformed", "{name}");
        assert!(Source::new([(name.to_owned(), Vec::new())]).is_err(), "{name}");
    }
}

#[test]
fn not_a_bundle_and_too_large() {
    let signer = signer();
    assert_eq!(code(b"", &signer), "bundle_malformed");
    assert_eq!(code(b"not gzip at all", &signer), "bundle_malformed");
    assert_eq!(code(&vec![0; policy::limits::BUNDLE_BYTES_MAX + 1], &signer), "bundle_too_large");
    let bomb = vec![b' '; policy::limits::BUNDLE_UNPACKED_BYTES_MAX + 1];
    assert_eq!(code(&pack(&[("a.rego".to_owned(), bomb)]), &signer), "bundle_too_large");
    let many: Vec<_> = (0..300).map(|n| (format!("f{n}.rego"), Vec::new())).collect();
    assert_eq!(code(&pack(&many), &signer), "bundle_too_large");
}

#[test]
fn a_signed_bundle_that_does_not_compile() {
    let signer = signer();
    let bytes = source("decisions contains if {").pack(&signer).unwrap();
    assert_eq!(code(&bytes, &signer), "bundle_does_not_compile");
}

#[test]
fn a_directory_is_read_as_it_lies() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("lib")).unwrap();
    std::fs::write(dir.path().join("tally.rego"), "package tally\n").unwrap();
    std::fs::write(dir.path().join("lib/data.json"), r#"{"x": 1}"#).unwrap();
    std::fs::write(dir.path().join("README.md"), "left out").unwrap();
    let source = Source::read_dir(dir.path()).unwrap();
    let names: Vec<_> = source.files().keys().map(String::as_str).collect();
    assert_eq!(names, [bundle::MANIFEST, "lib/data.json", "tally.rego"]);
}
