//! The escape corpus: what hostile code tries, what comes of it, and that the host is unharmed.
#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail loudly"
)]

#[path = "../support/mod.rs"]
mod support;

mod cache;
mod executions;
mod files;
mod light;
mod limits;
mod refused;

use kernel::attestation::Ending;
use kernel::capability::Capability;
use sandbox::{Code, Report};

use crate::support::{Host, Job, tenant};

/// What must come of a case.
#[derive(Debug)]
pub(crate) struct Want {
    pub(crate) ending: Ending,
    pub(crate) code: Option<&'static str>,
    /// What the output or the reason must tell.
    pub(crate) says: String,
    pub(crate) denied: Option<(Capability, String)>,
}

pub(crate) fn succeeds(output: &str) -> Want {
    Want { ending: Ending::Success, code: None, says: output.to_owned(), denied: None }
}

pub(crate) fn ends(ending: Ending, code: &'static str, says: &str) -> Want {
    Want { ending, code: Some(code), says: says.to_owned(), denied: None }
}

pub(crate) fn denied(capability: Capability, wanted: &str) -> Want {
    Want {
        ending: Ending::PermissionDenied,
        code: Some("capability_denied"),
        says: wanted.to_owned(),
        denied: Some((capability, wanted.to_owned())),
    }
}

/// Runs one case and checks what came of it and that nothing is left of it.
pub(crate) async fn check(host: &Host, name: &str, guest: &str, job: Job, want: &Want) -> Report {
    let digest = host.bind(&tenant("acme"), guest).await;
    check_code(host, name, Code::Component { digest }, job, want).await
}

/// The same for any code.
pub(crate) async fn check_code(
    host: &Host,
    name: &str,
    code: Code,
    job: Job,
    want: &Want,
) -> Report {
    let report = job.run(&host.boxes, code).await;
    let report = report.unwrap_or_else(|failure| panic!("{name}: refused: {failure}"));
    assert_eq!(report.ending, want.ending, "{name}: {report:?}");
    assert_eq!(report.code, want.code, "{name}: {report:?}");
    let text = match &report.output {
        Ok(text) | Err(text) => text,
    };
    assert!(text.contains(&want.says), "{name}: `{text}` does not say `{}`", want.says);
    if let Some((capability, wanted)) = &want.denied {
        let found =
            report.denials.iter().any(|d| d.capability == *capability && d.wanted == *wanted);
        assert!(found, "{name}: {wanted} is not among {:?}", report.denials);
        assert!(report.denied.get(capability).is_some_and(|count| *count > 0), "{name}");
    }
    unharmed(host, name);
    report
}

/// No sandbox, folder or process is left.
pub(crate) fn unharmed(host: &Host, name: &str) {
    assert_eq!(host.boxes.live(), 0, "{name}");
    assert_eq!(leftovers(host), Vec::<String>::new(), "{name}");
    assert_eq!(processes(host), Vec::<String>::new(), "{name}");
}

/// Processes that are in a folder of an execution.
fn processes(host: &Host) -> Vec<String> {
    let runs = host.folder.path().canonicalize().expect("a folder").join("sandbox/runs");
    let entries = std::fs::read_dir("/proc").expect("processes");
    entries
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path().join("cwd")).ok())
        .filter(|folder| folder.starts_with(&runs))
        .map(|folder| folder.display().to_string())
        .collect()
}

/// Folders of executions that are still there.
pub(crate) fn leftovers(host: &Host) -> Vec<String> {
    let runs = host.folder.path().join("sandbox/runs");
    let mut found = Vec::new();
    for tenant in std::fs::read_dir(runs).expect("the folder of executions") {
        for run in std::fs::read_dir(tenant.expect("a tenant").path()).expect("a tenant") {
            found.push(run.expect("an execution").path().display().to_string());
        }
    }
    found
}
