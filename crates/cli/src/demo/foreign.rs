//! The same signature, checked by a program that is not ours.

use std::path::Path;
use std::process::Command;

use super::proof::Evidence;
use super::say::{expect, say};

/// Checks one receipt with openssl, in an unpacked bundle: DSSE signs the text `DSSEv1`, then
/// length and bytes of type and payload.
const STEPS: &str = r#"field() { sed -n "s/.*\"$1\":\"\([^\"]*\)\".*/\1/p" RECEIPT | base64 -d; }
field payload > ../payload
field sig > ../signature
printf 'DSSEv1 28 application/vnd.in-toto+json %d ' "$(wc -c < ../payload)" > ../signed
cat ../payload >> ../signed
openssl dgst -sha256 -verify KEY -signature ../signature ../signed
"#;

/// Prints the steps, and runs them where there is an openssl: on the evidence, and on its changed
/// copy.
pub(super) fn openssl(evidence: &Evidence, changed: &Path) -> anyhow::Result<()> {
    let path = |path: &Path| path.display().to_string();
    let steps =
        STEPS.replace("RECEIPT", &path(&evidence.receipt)).replace("KEY", &path(&evidence.key));
    say(&format!("cd {}\n{steps}", evidence.folder.display()))?;
    if Command::new("openssl").arg("version").output().is_err() {
        return say("there is no openssl on this machine, so this was NOT run");
    }
    let (verified, output) = run(&steps, &evidence.folder)?;
    say(&output)?;
    expect(verified, "openssl accepts the receipt", || output.clone())?;
    let (verified, output) = run(&steps, changed)?;
    let last = output.trim().lines().next().unwrap_or_default();
    say(last)?;
    expect(!verified, "openssl refuses the changed one", || output.clone())
}

/// Whether the steps succeed in `folder`, and what they print.
fn run(steps: &str, folder: &Path) -> anyhow::Result<(bool, String)> {
    let output = Command::new("sh").args(["-euc", steps]).current_dir(folder).output()?;
    let texts = [output.stdout, output.stderr].concat();
    Ok((output.status.success(), String::from_utf8_lossy(&texts).into_owned()))
}
