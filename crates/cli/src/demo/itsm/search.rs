//! What must be nowhere: credentials, and what incidents said.

use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::desk::Desk;
use super::incident::{INJECTED, LABELS, MAIL, VPN};
use crate::demo::say::{expect, say, step};

/// Searches every file that the server and the demo wrote.
pub(super) fn nothing_is_left(desk: &Desk) -> anyhow::Result<()> {
    step("8. Every file of the server and of the evidence, searched")?;
    let files = files(&desk.place.dir)?;
    let bytes: Vec<_> = files.iter().map(fs::read).collect::<Result<_, _>>()?;
    say(&format!("{} files, {} bytes", files.len(), bytes.iter().map(Vec::len).sum::<usize>()))?;
    let found = |texts: &[&str]| {
        let named = files.iter().zip(&bytes).filter(|(_, bytes)| {
            texts.iter().any(|text| forms(text).iter().any(|form| has(bytes, form.as_bytes())))
        });
        named.map(|(file, _)| file.display().to_string()).collect::<Vec<_>>()
    };
    let credentials: Vec<_> = desk.secrets.kept().map(String::as_str).into();
    let kept = found(&credentials);
    expect(kept.is_empty(), "no credential is in any of them", || kept.join(", "))?;
    let words: Vec<_> = [MAIL, VPN, INJECTED, LABELS].iter().flat_map(|one| one.words()).collect();
    let kept = found(&words);
    expect(kept.is_empty(), "no word of the incidents is in any of them", || kept.join(", "))
}

/// A text as it is, in JSON, in base64 and in hex.
fn forms(text: &str) -> [String; 4] {
    let json = serde_json::Value::from(text).to_string();
    let hex = text.bytes().map(|byte| format!("{byte:02x}")).collect();
    [text.to_owned(), json.trim_matches('"').to_owned(), STANDARD.encode(text), hex]
}

fn has(bytes: &[u8], form: &[u8]) -> bool {
    bytes.windows(form.len()).any(|window| window == form)
}

fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        match path.is_dir() {
            true => found.extend(files(&path)?),
            false => found.push(path),
        }
    }
    Ok(found)
}
