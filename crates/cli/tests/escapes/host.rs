//! The server that the corpus is run against, and what is looked at after each case.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::Client;
use kernel::attestation::{Check, Level};
use ledger::keys::NativeVerifier;
use proto::actions::ListActionsRequest;
use proto::actions::action::State;
use proto::identity::principal::Kind;
use proto::receipts::verify_receipt_response::Trust;
use proto::receipts::{GetReceiptRequest, VerifyReceiptRequest};
use proto::sandboxes::{Execution, GetAttestationRequest, GetExecutionRequest};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::case::{Case, Want, With as _, python};
use super::vitals::{Snapshot, Vitals, processes, snapshot};
use crate::common::wire::Wire;
use crate::common::{LOOK_EVERY, PATIENCE, Server, assert_code, rego, tally};
use crate::sandbox::agents::echo;
use crate::sandbox::place::{component, json_of};
use crate::sandbox::source::installed;

/// MiB of its own that the server may have more after a case than before the first one. A debug
/// build's allocator keeps some of what large results took.
const GROWTH_MB: u64 = 96;
/// MiB that an execution of the corpus may have where its case says nothing else.
pub(crate) const MEMORY_MB: u64 = 256;
/// MiB that may be resident besides while a case runs: copies of a result of 17 MiB on its way out,
/// and interpreters and stores as they come in from their files.
const PEAK_MB: u64 = 320;
/// Handles that may be open besides: connections of this test, files of the stores.
const HANDLES: usize = 24;

/// Allows everything but HTTP by the built-in tool, which may speak to this machine and to names
/// that a test answers for.
pub(crate) const POLICY: &str = r#"
decisions contains {"effect": "ALLOW", "rule": "R-ALL", "reason": "all"} if true

decisions contains {"effect": "DENY", "rule": "R-NO-HTTP", "reason": "no_http"} if {
    input.tool.id == "core.http_call"
    not startswith(input.params.url, "http://127.0.0.1")
    not contains(input.params.url, ".names.test:")
}"#;

pub(crate) struct Host {
    pub(crate) server: Server,
    pub(crate) agent: Client,
    /// What is watched: `data/` is what grants are about, `secret.json` beside it is the canary.
    pub(crate) root: PathBuf,
    /// Where compiled code is.
    pub(crate) cache: TempDir,
    start: Vitals,
    files: Snapshot,
    _folder: TempDir,
}

impl Host {
    /// Starts a server. `sandbox` and `capabilities` are added to those sections of its
    /// configuration, and `http` is what its own tools may speak to.
    pub(crate) async fn new(sandbox: &str, capabilities: &str, http: &str) -> Self {
        Self::by(Server::start, sandbox, capabilities, http).await
    }

    /// The same, with a server that is started in another way.
    pub(crate) async fn by(
        start: impl FnOnce(&str) -> Server,
        sandbox: &str,
        capabilities: &str,
        http: &str,
    ) -> Self {
        let (folder, cache) = (tempfile::tempdir().unwrap(), compiled());
        let root = folder.path().canonicalize().unwrap();
        watched(&root);
        let (data, place) = (root.join("data"), root.display());
        let yaml = format!(
            "policy: {{decision_limit_ms: 5000}}
grants: {{fs_read: [{data:?}], http: [{http}]}}
sandbox:
  runtimes: {:?}
  cache: {:?}
  wasm: {{cpu_quota_ms: 120000, memory_limit_mb: {MEMORY_MB}}}
  wall_ms: 300000
  fuel: 1000000000000
  env: {{APP_REGION: '\"eu\"', SECRET: '\"hush\"', HOME: /vaulted}}
{sandbox}  capabilities:
    file_read: ['{place}/data/**', '{place}/huge/*']
    file_write: ['{place}/data/**']
    env: ['APP_*']
{capabilities}",
            installed("TALLY_RUNTIMES"),
            cache.path(),
        );
        let server = start(&yaml);
        server.publish(&rego(POLICY)).await;
        let agent = server.principal(Kind::Agent, &["agent"]).await;
        let start = Vitals::of(server.pid());
        let files = Snapshot::new();
        let mut host = Self { server, agent, root, cache, start, files, _folder: folder };
        host.warm_up().await;
        host
    }

    /// What is there once: interpreters, folders of tenants, connections.
    pub(crate) async fn warm_up(&mut self) {
        let data = format!("{}/data/**", self.root.display());
        let reading = python("return 1").grants(|grants| grants.file_read.push(data));
        for request in [reading, super::case::javascript("return 1"), component(echo())] {
            let ended = self.ended(self.agent.execute(&request, None).await.unwrap()).await;
            assert_eq!(ended.outcome, "SUCCESS", "{ended:?}");
        }
        self.start = Vitals::of(self.server.pid());
        self.files = self.snapshot();
    }

    fn snapshot(&self) -> Snapshot {
        let mut all = snapshot(&self.root);
        all.extend(snapshot(&self.server.data));
        all
    }

    /// The execution once it has ended.
    async fn ended(&self, mut execution: Execution) -> Execution {
        let until = Instant::now() + PATIENCE;
        let ends = [State::Executed, State::Failed, State::Denied];
        while !ends.contains(&execution.state()) {
            assert!(Instant::now() < until, "it does not end: {execution:?}");
            sleep(LOOK_EVERY).await;
            let request = GetExecutionRequest { execution_id: execution.execution_id };
            execution = self.agent.get_execution(&request).await.unwrap();
        }
        execution
    }

    /// Runs the cases, one after the other, all of them: what fails is told together.
    pub(crate) async fn run(self: &Arc<Self>, cases: Vec<Case>) {
        let mut failed = Vec::new();
        for case in cases {
            let (host, name) = (self.clone(), case.name);
            let tried = tokio::spawn(async move {
                host.case(&case).await;
                host.unharmed(case.name).await;
            });
            if tried.await.is_err() {
                failed.push(name);
            }
        }
        assert!(failed.is_empty(), "each says above why: {failed:?}");
        self.log_verifies();
    }

    async fn case(&self, Case { name, request, want }: &Case) {
        if let Want::Invalid { code, says } = want {
            let before = self.newest().await;
            match self.agent.execute(request, None).await {
                Err(client::Error::Refused { status: 400, error }) => {
                    assert_eq!(error.code, *code, "{name}: {}", error.message);
                    assert!(error.message.contains(says), "{name}: {}", error.message);
                }
                other => panic!("{name}: this should not have been understood: {other:?}"),
            }
            assert_eq!(self.newest().await, before, "{name}: there is an action of it");
            return;
        }
        let answer = self.agent.execute(request, None).await;
        let answer = answer.unwrap_or_else(|error| panic!("{name}: {error:?}"));
        let ended = self.ended(answer).await;
        self.came_to(name, &ended, want);
        match want {
            Want::Refused { code, .. } => self.receipted(name, &ended, code).await,
            _ => self.attested(name, &ended, want).await,
        }
    }

    fn came_to(&self, name: &str, ended: &Execution, want: &Want) {
        let (code, message) = match &ended.error {
            Some(error) => (error.code.as_str(), error.message.as_str()),
            None => ("", ""),
        };
        let state = ended.state().as_str_name();
        let nothing = String::new();
        let output = ended.output.as_ref().map(|json| json.text.clone()).unwrap_or_default();
        let kinds: Vec<&str> = ended.denials.iter().map(|d| d.capability.as_str()).collect();
        let (got, expected, said, says) = match want {
            Want::Ends { outcome, code: wanted, says } => {
                ((&*ended.outcome, code), (*outcome, *wanted), message, says)
            }
            Want::Denied { capability, wanted, says } => {
                let on_record = ended
                    .denials
                    .iter()
                    .any(|d| d.capability == *capability && d.wanted.ends_with(wanted.as_str()));
                assert!(on_record, "{name}: {wanted} is not on record: {ended:?}");
                assert!(message.contains(wanted), "{name}: `{message}` does not say `{wanted}`");
                let denied = ("PERMISSION_DENIED", "capability_denied");
                ((&*ended.outcome, code), denied, message, says)
            }
            Want::Told { result } => {
                assert_eq!(kinds, [""; 0], "{name}: {ended:?}");
                let given: Value = serde_json::from_str(&output).unwrap_or_default();
                assert_eq!(given, *result, "{name}: {ended:?}");
                ((&*ended.outcome, code), ("SUCCESS", ""), output.as_str(), &nothing)
            }
            Want::Refused { state: wanted, code: refused, says } => {
                assert_eq!(ended.outcome, "", "{name}: nothing ran: {ended:?}");
                ((state, code), (*wanted, *refused), message, says)
            }
            Want::Invalid { .. } => panic!("{name}: there is no execution of it"),
        };
        assert_eq!(got, expected, "{name}: {ended:?}");
        assert!(said.contains(says), "{name}: `{said}` does not say `{says}`");
        for secret in ["hush", "/vaulted", "canary"] {
            assert!(!said.contains(secret), "{name}: `{said}` tells a secret");
        }
    }

    /// The outcome is in a receipt that a stranger can verify, and the receipt says the same.
    async fn attested(&self, name: &str, ended: &Execution, want: &Want) {
        let request = GetAttestationRequest { execution_id: ended.execution_id.clone() };
        let document = self.agent.get_attestation(&request).await.unwrap().data;
        let level = if ended.r#type == "light" { Level::Basic } else { Level::Full };
        let check = Check { level, ..Check::at(crate::sandbox::now()) };
        let told = kernel::attestation::verify(&document, &check, &NativeVerifier);
        let told = told.unwrap_or_else(|refused| panic!("{name}: {refused:?}"));
        assert_eq!(told.execution_id.as_str(), ended.execution_id, "{name}");
        let ending = serde_json::to_value(told.attestation.ending).unwrap();
        assert_eq!(ending, json!(ended.outcome), "{name}");
        let kind = match want {
            Want::Denied { capability, .. } => Some(*capability),
            _ => None,
        };
        if let Some(kind) = kind.filter(|_| level == Level::Full) {
            let denied = serde_json::to_value(&told.attestation.denied).unwrap();
            assert!(denied[kind].as_u64().is_some_and(|count| count > 0), "{name}: {denied}");
        }
    }

    /// The last receipt of an action that did not run verifies, and has why.
    async fn receipted(&self, name: &str, ended: &Execution, code: &str) {
        self.receipt_says(name, &ended.receipts, code).await;
    }

    /// The last of the receipts of an action verifies, and says that it failed with `code`.
    pub(crate) async fn receipt_says(&self, name: &str, receipts: &[String], code: &str) {
        let receipt_id = receipts.last().unwrap_or_else(|| panic!("{name}: no receipt"));
        let request = VerifyReceiptRequest { receipt_id: receipt_id.clone(), ..Default::default() };
        let verified = self.server.owner.verify_receipt(&request).await.unwrap();
        assert!(verified.valid && verified.trust() == Trust::Pinned, "{name}: {verified:?}");
        let request = GetReceiptRequest { receipt_id: receipt_id.clone() };
        let receipt = self.server.owner.get_receipt(&request).await.unwrap();
        let statement: Value = receipt.statement.unwrap().decode().unwrap();
        let transitions = statement["predicate"]["transitions"].as_array().unwrap();
        let why = |one: &Value| {
            let change = &one["change"];
            change["failure"]["code"] == code || change["outcome"]["failure"]["code"] == code
        };
        assert!(transitions.iter().any(why), "{name}: {code} is not in {statement}");
    }

    async fn newest(&self) -> Option<String> {
        let request = ListActionsRequest { page_size: 1, ..Default::default() };
        let list = self.server.owner.list_actions(&request).await.unwrap().actions;
        list.first().map(|action| action.action_id.clone())
    }

    /// What holds after every case: the server answers and runs code, has no more memory, handles
    /// or processes than before, and no file appeared, changed or went.
    pub(crate) async fn unharmed(&self, name: &str) {
        Wire::new(&self.server.url).ask("GET", "/healthz").send().await.good();
        let control = json!({"control": name});
        let ended = self.agent.execute(&component(echo()).input(&control), None).await.unwrap();
        let ended = self.ended(ended).await;
        assert_eq!(ended.outcome, "SUCCESS", "{name}: the control: {ended:?}");
        assert_eq!(json_of(ended.output.as_ref()), control, "{name}");

        let (pid, runs) = (self.server.pid(), self.server.data.join("sandbox/runs"));
        let runs = runs.canonicalize().unwrap();
        // What ended may take a moment to be gone.
        let until = Instant::now() + PATIENCE;
        loop {
            let now = Vitals::of(pid);
            let (most, handles) = (self.start.own_mb + GROWTH_MB, self.start.handles + HANDLES);
            let left = processes(pid, &runs);
            if now.own_mb <= most && now.handles <= handles && left.is_empty() {
                let peak = self.start.peak_mb + MEMORY_MB + PEAK_MB;
                assert!(now.peak_mb <= peak, "{name}: {now:?}, before it {:?}", self.start);
                break;
            }
            let before = self.start;
            assert!(Instant::now() < until, "{name}: {now:?}, before {before:?}; left {left:?}");
            sleep(LOOK_EVERY).await;
        }
        let now = self.snapshot();
        let new = |(path, what): &(&PathBuf, &String)| self.files.get(*path) != Some(*what);
        let changed: Vec<_> = now.iter().filter(new).collect();
        assert!(changed.is_empty(), "{name}: it made or changed {changed:?}");
        let gone: Vec<_> = self.files.keys().filter(|path| !now.contains_key(*path)).collect();
        assert!(gone.is_empty(), "{name}: it removed {gone:?}");
    }

    /// Every receipt of the log, those of the refused included, verifies without the server.
    pub(crate) fn log_verifies(&self) {
        let folder = tempfile::tempdir().unwrap();
        let bundle = folder.path().join("all.tar");
        let (bundle, owner) = (bundle.to_str().unwrap(), self.server.owner_key());
        let export = ["evidence", "export", "--full-log", "--out", bundle];
        assert_code(&self.server.tally(&owner, &export), 0);
        assert_code(&tally(&["verify", bundle]), 0);
    }

    /// A path below the watched folder.
    pub(crate) fn whole(&self, path: &str) -> String {
        self.root.join(path).display().to_string()
    }
}

/// The compiled interpreters in a folder of this server's own, which others do not write to.
fn compiled() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    for entry in fs::read_dir(installed("TALLY_SANDBOX_CACHE")).unwrap() {
        let from = entry.unwrap().path();
        let to = folder.path().join(from.file_name().unwrap());
        if fs::metadata(&from).unwrap().len() < (8 << 20) && !is_of_large(&from) {
            continue;
        }
        fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop)).unwrap();
    }
    folder
}

/// Whether it has the digest of compiled code that is an interpreter's.
fn is_of_large(sidecar: &Path) -> bool {
    let code = sidecar.with_extension("cwasm");
    fs::metadata(code).is_ok_and(|meta| meta.len() >= (8 << 20))
}

/// Makes what is watched.
fn watched(root: &Path) {
    for folder in ["data/sub", "data2", "vault", "huge"] {
        fs::create_dir_all(root.join(folder)).unwrap();
    }
    for (file, text) in [
        ("data/a.json", "\"granted\""),
        ("data/ab.json", "\"granted\""),
        ("data/sub/c.json", "\"deeper\""),
        ("data2/a.json", "\"canary\""),
        ("vault/a.json", "\"canary\""),
        ("secret.json", "\"canary\""),
    ] {
        fs::write(root.join(file), text).unwrap();
    }
    let huge = fs::File::create(root.join("huge/huge.json")).unwrap();
    huge.set_len((64 << 20) + 1).unwrap();
    symlink("../secret.json", root.join("data/link.json")).unwrap();
    symlink("/etc", root.join("data/etc")).unwrap();
    symlink(root.join("vault"), root.join("data/vault")).unwrap();
    symlink(root.join("secret.json"), root.join("data/out.json")).unwrap();
    let mode = rustix::fs::Mode::RWXU;
    let pipe = root.join("data/pipe.json");
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
}
